package fuse

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// buffer is the memory of one reader. A request and then its reply live in it, so that the payload of
// either begins at a page boundary:
//
//	page 0                       page 1 ...
//	           in_header write_in  data          a WRITE as read from the device
//	                    out_header  payload       a reply as written to it
//
// It is mapped, not allocated: its pages are only there once they are used, and large buffers do not
// make the garbage collector let the heap grow.
type buffer struct{ mem []byte }

// requestHead is the length of what precedes the data of a WRITE.
const requestHead = InHeaderSize + int(unsafe.Sizeof(WriteIn{}))

func newBuffer(payload int) (buffer, error) {
	mem, err := unix.Mmap(-1, 0, pageSize+payload, unix.PROT_READ|unix.PROT_WRITE,
		unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return buffer{}, fmt.Errorf("map a request buffer: %w", err)
	}
	return buffer{mem}, nil
}

func (b buffer) free() { _ = unix.Munmap(b.mem) }

// request is the room for a request.
func (b buffer) request() []byte { return b.mem[pageSize-requestHead:] }

// reply is the room for a reply.
func (b buffer) reply() Reply {
	return Reply{Header: b.mem[pageSize-OutHeaderSize : pageSize], Payload: b.mem[pageSize:]}
}

// message is a reply with n bytes of payload as it is sent.
func (b buffer) message(n int) []byte { return b.mem[pageSize-OutHeaderSize : pageSize+n] }
