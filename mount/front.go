package mount

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strconv"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"ext4box/sandbox"
)

// frontEnv tells a process that it is the keeper of a mount, and which of its descriptors
// leads to the front.
const frontEnv = "EXT4BOX_FRONT"

// Front is what the keeper of a mount in the background knows of the command that the user
// typed, which waits for it.
type Front struct {
	socket    *os.File
	inherited []int // what else that command was started with
	released  chan struct{}
}

// Background does what the command is for in a process of its own, the keeper, which lives as
// long as the mount: it starts this program again with the same arguments and returns nil when
// that is ready, or an error without text when that has failed and said why. Only in the
// keeper it returns a Front, with which the caller goes on.
//
// The keeper has the standard descriptors of the front, and all others that the front was
// started with, until it is ready.
func Background() (*Front, error) {
	if text, ok := os.LookupEnv(frontEnv); ok {
		return openFront(text)
	}
	return nil, startKeeper()
}

func openFront(text string) (*Front, error) {
	os.Unsetenv(frontEnv)
	fd, err := strconv.Atoi(text)
	if err == nil {
		_, err = unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
	}
	if err != nil || fd < 3 {
		return nil, usagef("%s is not to be set by anybody else", frontEnv)
	}
	unix.CloseOnExec(fd)
	nameProcess()
	return &Front{socket: os.NewFile(uintptr(fd), "front"), inherited: closeOnExec(), released: make(chan struct{})}, nil
}

// startKeeper returns when the keeper is ready or has ended. Signals that end a command are
// passed on meanwhile.
func startKeeper() error {
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
	defer signal.Stop(signals)
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return systemf("start the keeper of the mount: %w", err)
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "keeper"), pair[1]
	defer ours.Close()
	// What is not marked the keeper inherits under the same number.
	unix.FcntlInt(uintptr(theirs), unix.F_SETFD, 0)
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = os.Args
	cmd.Env = append(sandbox.Runtime(os.Environ()), fmt.Sprintf("%s=%d", frontEnv, theirs))
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // so that the terminal's signals come from here
	err = cmd.Start()
	unix.Close(theirs)
	if err != nil {
		return systemf("start the keeper of the mount: %w", err)
	}
	ready := make(chan bool, 1)
	go func() {
		n, _ := ours.Read(make([]byte, 1))
		ready <- n == 1
	}()
	var passed os.Signal
	for {
		select {
		case ok := <-ready:
			if ok {
				return nil
			}
			cmd.Wait()
			recoverUring()
			if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && status.Signaled() && status.Signal() == passed {
				return interrupted(passed) // before it has begun to listen to them
			}
			switch code := cmd.ProcessState.ExitCode(); {
			case code == 0:
				return nil // there was nothing to stay for
			case code > 0:
				return &Error{code, errors.New("")} // it has said why
			}
			return &Error{StatusInternal, fmt.Errorf("the keeper of the mount ended unexpectedly (%v)", cmd.ProcessState)}
		case passed = <-signals:
			cmd.Process.Signal(passed)
		}
	}
}

// watch has signals told when the front is gone before the keeper is ready.
func (f *Front) watch(signals chan<- os.Signal) {
	go func() {
		f.socket.Read(make([]byte, 1))
		select {
		case <-f.released:
		default:
			signals <- unix.SIGHUP
		}
	}()
}

// release lets the front return, and leaves its terminal, its directory, and whatever else it
// was started with but taken: whoever started it must not have to wait for the keeper.
// Standard error becomes log, or nothing.
func (f *Front) release(log *os.File, taken ...int) error {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return systemf("%w", err)
	}
	defer null.Close()
	if log == nil {
		log = null
	}
	for fd, to := range []*os.File{null, null, log} {
		if err := unix.Dup3(int(to.Fd()), fd, 0); err != nil {
			return systemf("leave the terminal: %w", err)
		}
	}
	for _, fd := range f.inherited {
		if !slices.Contains(taken, fd) {
			unix.Close(fd)
		}
	}
	os.Chdir("/")
	close(f.released)
	f.socket.Write([]byte{1})
	return f.socket.Close()
}

// closeOnExec marks everything that this process was started with beside its standard
// descriptors, so that the processes it starts are not, and returns it.
var closeOnExec = sync.OnceValue(func() (inherited []int) {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return nil
	}
	for _, e := range entries {
		fd, err := strconv.Atoi(e.Name())
		if err != nil || fd < 3 {
			continue
		}
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil && flags&unix.FD_CLOEXEC == 0 {
			unix.CloseOnExec(fd)
			inherited = append(inherited, fd)
		}
	}
	return inherited
})

// nameProcess gives this process, which was started as /proc/self/exe, the name of its program
// in the list of processes.
func nameProcess() { _ = os.WriteFile("/proc/self/comm", []byte("ext4box"), 0) }
