package vfs

import (
	"syscall"

	"ext4box/fuse"
)

// Message is something that the server says: the reply to a request, a notification, or an ioctl. Which of them
// it is tells the one of Op, Code and Ioctl that is not zero.
type Message struct {
	Op    fuse.Opcode
	Code  int32
	Ioctl uint32

	NodeID  uint64 // that the request or the notification is about
	Request []byte // the body of what a reply answers
	Payload []byte // of a reply without an error or of a notification, or the argument of an ioctl
	Errno   syscall.Errno
}

// tamper lets the test change a message in place. It returns false if nothing is to become of it.
func (fs *FS) tamper(m *Message) bool {
	return fs.cfg.Tamper == nil || fs.cfg.Tamper(m)
}
