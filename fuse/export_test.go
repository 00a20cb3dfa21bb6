package fuse

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// ServeAsIomap has the readers of a session go on as with fuse-iomap, on a kernel that does not have it.
func (s *Session) ServeAsIomap() {
	p := *s.proto.Load()
	p.Iomap = true
	s.release()
	s.proto.Store(&p)
}

// Spare is how much more of the payloads of rings is there than entries keep, in bytes.
func (rs *Rings) Spare() (n int, err error) {
	for _, t := range rs.threads {
		for _, e := range t.entries {
			there := make([]byte, len(e.payload)/pageSize)
			_, _, errno := unix.Syscall(unix.SYS_MINCORE, uintptr(unsafe.Pointer(&e.payload[0])), uintptr(len(e.payload)),
				uintptr(unsafe.Pointer(&there[0])))
			if errno != 0 {
				return 0, errno
			}
			for _, b := range there[min(keepPayload/pageSize, len(there)):] {
				n += int(b&1) * pageSize
			}
		}
	}
	return n, nil
}

// IdleTime is when rings give memory back, in seconds.
const IdleTime = idleTime
