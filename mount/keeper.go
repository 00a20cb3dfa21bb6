package mount

import (
	"fmt"
	"os"
	"runtime/debug"
	"syscall"

	"golang.org/x/sys/unix"
)

// keep stays until the server has ended. It unmounts when this process, or the server, is told
// to end; a mount that is in use is detached, and served until its last user is gone. Told a
// second time, this process has the server end at once, and the third time it sees to it.
func (l *launcher) keep() error {
	l.shed()
	debug.FreeOSMemory()
	told, incoming := 0, l.incoming
	var last *message
	unmount := func() {
		told = 1
		go func() {
			// Out of reach, in another namespace or never here: stop answering.
			if l.mounted.Dir == "" || !detachDevice(l.mounted.Dev, l.mounted.Source) {
				_ = l.ctl.send(message{Step: stepEnd})
			}
		}()
	}
	for {
		select {
		case m, ok := <-incoming:
			switch {
			case !ok:
				incoming = nil
			case m.Step == stepFailed || m.Step == stepEnded:
				last = &m
			case m.Step == stepUnmount && told == 0:
				unmount()
			}
		case <-l.signals:
			switch told++; told {
			case 1:
				unmount()
			case 2:
				_ = l.ctl.send(message{Step: stepEnd})
			default:
				l.server.Process.Kill()
			}
		case <-l.exited:
			return l.ended(last)
		}
	}
}

// ended tells how the server has ended; last is what it has said itself, if that was heard.
func (l *launcher) ended(last *message) error {
	<-l.exited
	for m := range l.incoming {
		if m.Step == stepFailed || m.Step == stepEnded {
			last = &m
		}
	}
	state := l.server.ProcessState
	var err error
	switch {
	case last != nil && last.Step == stepFailed:
		err = last.reported()
		if l.kept {
			l.state.fail(err)
			if l.Front != nil {
				return nil // it has told the log
			}
		}
	case last != nil, state.Success():
		return nil
	case l.Front != nil && state.ExitCode() == 1:
		return nil // it has told the log
	default:
		err = &Error{StatusInternal, fmt.Errorf("%s: the server ended unexpectedly (%s)", l.Request.Source, howEnded(state))}
		if l.mounted.Dir != "" {
			err = fmt.Errorf("%w; 'ext4box umount %s' takes off what it left", err, l.mounted.Dir)
		}
	}
	if l.Front == nil || !l.kept {
		return err
	}
	l.Request.logger(l.log).Error(err.Error())
	return nil
}

// howEnded is what is known of a process that nobody has told to end.
func howEnded(s *os.ProcessState) string {
	status, ok := s.Sys().(syscall.WaitStatus)
	if !ok || !status.Signaled() {
		return s.String()
	}
	switch sig := status.Signal(); sig {
	case unix.SIGKILL:
		return "it was killed, perhaps for lack of memory"
	case unix.SIGSYS:
		return "it was killed for a system call that its box does not allow"
	default:
		return fmt.Sprintf("it was killed by %v", sig)
	}
}
