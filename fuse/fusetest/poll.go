package fusetest

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// SettlePoll makes the kernel ask the server of a real mount for POLL, once. file is any regular file
// on the mount.
//
// A test whose process both serves a mount and opens files on it with package os must call it first.
// Otherwise os.Open adds the file to the runtime's poller with a system call that the runtime takes for
// one that cannot block, but the kernel sends POLL and waits. If the garbage collector wants to stop
// the world meanwhile, the server cannot answer any more, and the process hangs beyond SIGKILL. Here
// the POLL is caused by an ordinary system call, and after ENOSYS there is never another one.
func SettlePoll(file string) error {
	fd, err := unix.Open(file, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", file, err)
	}
	defer func() { _ = unix.Close(fd) }()
	if _, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0); err != nil {
		return fmt.Errorf("poll %s: %w", file, err)
	}
	return nil
}
