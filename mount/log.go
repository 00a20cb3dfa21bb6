package mount

import (
	"fmt"
	"io"
	"log/slog"
	"os"

	"golang.org/x/sys/unix"
)

// LogKind says what the server's standard error is.
type LogKind string

const (
	LogNone   LogKind = ""
	LogText   LogKind = "text"   // a terminal or a file: lines with the time
	LogSyslog LogKind = "syslog" // a socket to /dev/log: one datagram per line
)

// OpenLog opens where a server in the background writes what goes wrong: the
// file named, or "syslog". An empty name takes syslog when there is one.
func OpenLog(name string) (*os.File, LogKind, error) {
	if name != "" && name != string(LogSyslog) {
		f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
		if err != nil {
			return nil, LogNone, usagef("open the log: %w", err)
		}
		return f, LogText, nil
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		if err = unix.Connect(fd, &unix.SockaddrUnix{Name: "/dev/log"}); err == nil {
			return os.NewFile(uintptr(fd), "/dev/log"), LogSyslog, nil
		}
		unix.Close(fd)
	}
	if name == "" {
		return nil, LogNone, nil
	}
	return nil, LogNone, systemf("open the log: no syslog daemon listens on /dev/log: %w", err)
}

// NewLogger makes a logger of the mount, which writes to standard error whatever
// that becomes.
func (r *Request) NewLogger() *slog.Logger {
	level := slog.LevelInfo
	if r.Options.Debug {
		level = slog.LevelDebug
	}
	o := &slog.HandlerOptions{Level: level}
	switch r.Log {
	case LogText:
		return slog.New(slog.NewTextHandler(os.Stderr, o))
	case LogSyslog:
		o.ReplaceAttr = func(groups []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey && len(groups) == 0 {
				return slog.Attr{} // syslog has its own
			}
			return a
		}
		pid := r.PID
		if pid == 0 {
			pid = os.Getpid()
		}
		return slog.New(slog.NewTextHandler(syslogWriter{os.Stderr, pid}, o))
	default:
		return slog.New(slog.DiscardHandler)
	}
}

// syslogWriter puts the priority, daemon.notice, and a name before each line.
type syslogWriter struct {
	w   io.Writer
	pid int
}

func (s syslogWriter) Write(p []byte) (int, error) {
	if _, err := fmt.Fprintf(s.w, "<29>ext4box[%d]: %s", s.pid, p); err != nil {
		return 0, err
	}
	return len(p), nil
}
