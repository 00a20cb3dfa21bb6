package mount

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"time"

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

// NewLogger makes the logger of the server, which writes to standard error: that leads to the
// keeper ([relay]), or is the affair of who runs a service.
func (r *Request) NewLogger() *slog.Logger { return r.logger(os.Stderr) }

func (r *Request) logger(w io.Writer) *slog.Logger {
	o := &slog.HandlerOptions{Level: slog.LevelInfo}
	if r.Options.Debug {
		o.Level = slog.LevelDebug
	}
	switch r.Log {
	case LogText:
	case LogSyslog:
		o.ReplaceAttr = func(groups []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey && len(groups) == 0 {
				return slog.Attr{} // syslog has its own
			}
			return a
		}
	default:
		return slog.New(slog.DiscardHandler)
	}
	return slog.New(slog.NewTextHandler(w, o))
}

// logWriter is the log of a mount, which only the keeper has open: a server could read what is
// typed on a terminal, command it by what it writes, send signals to who works there, overwrite
// a file, and say in anybody's name to syslog whatever it likes.
type logWriter struct {
	file *os.File
	kind LogKind
	pid  int // of the server
}

// Write writes one line.
func (l *logWriter) Write(line []byte) (int, error) {
	var head string
	if l.kind == LogSyslog {
		head = fmt.Sprintf("<29>ext4box[%d]: ", l.pid) // daemon.notice
	}
	if _, err := l.file.Write(append([]byte(head), line...)); err != nil {
		return 0, err
	}
	return len(line), nil
}

// A server may write logBurst lines in logPeriod, unless it is asked for more. That is more than
// any damage is worth, and keeps one that was taken over from filling a disk soon.
const (
	logBurst  = 10_000
	logPeriod = time.Minute
	maxLine   = 16 << 10 // bytes of a line; what is longer becomes several
)

// relay copies what the server writes to standard error to the log, line by line, as plain text,
// until no process can write there any more.
func relay(from io.Reader, to *logWriter, all bool) {
	lines := bufio.NewReaderSize(from, maxLine)
	var until time.Time
	n := 0
	for {
		line, err := lines.ReadSlice('\n')
		if len(line) > 0 {
			if now := time.Now(); now.After(until) {
				until, n = now.Add(logPeriod), 0
			}
			switch n++; {
			case n <= logBurst || all:
				// A tab is how a traceback begins its lines.
				text := strings.ReplaceAll(string(bytes.TrimSuffix(line, []byte("\n"))), "\t", "    ")
				_, _ = to.Write([]byte(plainLine(text) + "\n")) // there is nobody to tell
			case n == logBurst+1:
				_, _ = fmt.Fprintf(to, "the server logs too much; what it writes until %v is dropped\n", until.Format(time.TimeOnly))
			}
		}
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return
		}
	}
}
