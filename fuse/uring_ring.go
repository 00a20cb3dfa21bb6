package fuse

import (
	"fmt"
	"math/bits"
	"sync/atomic"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ring is an io_uring that can do nothing but commands of one connection. From enable on it belongs to one
// thread: the one that submits is the one in which the kernel fills the buffers, while it is in enter.
type ring struct {
	fd           int
	queues, sqes []byte

	sqTail         *atomic.Uint32
	sqFlags        *atomic.Uint32
	cqHead, cqTail *atomic.Uint32
	sqMask, cqMask uint32
	cqes           []ringCQE
	pushed         uint32 // behind what was submitted
}

// newRing makes a ring with room for so many entries. It is disabled.
func newRing(entries int) (*ring, error) {
	n := uint32(1) << bits.Len(uint(entries-1))
	p := ringParams{Flags: setupDisabled | setupSubmitAll | setupSQE128 | setupSingleIssuer | setupDeferTaskrun | setupTaskrunFlag | setupNoSQArray}
	fd, _, errno := unix.Syscall(unix.SYS_IO_URING_SETUP, uintptr(n), uintptr(unsafe.Pointer(&p)), 0)
	if errno != 0 {
		return nil, fmt.Errorf("io_uring_setup: %w", errno)
	}
	r := &ring{fd: int(fd)} // closed on exec
	size := int(p.CQEs) + int(p.CQEntries)*ringCQESize
	var err error
	if r.queues, err = r.mmap(ringOffQueues, size); err == nil {
		r.sqes, err = r.mmap(ringOffSQEs, int(p.SQEntries)*ringSQESize)
	}
	if err != nil {
		r.close()
		return nil, fmt.Errorf("map a ring: %w", err)
	}
	word := func(off uint32) *atomic.Uint32 { return (*atomic.Uint32)(unsafe.Pointer(&r.queues[off])) }
	r.sqFlags = word(p.SQFlags)
	r.sqTail, r.sqMask = word(p.SQTail), word(p.SQMask).Load()
	r.cqHead, r.cqTail, r.cqMask = word(p.CQHead), word(p.CQTail), word(p.CQMask).Load()
	r.cqes = unsafe.Slice((*ringCQE)(unsafe.Pointer(&r.queues[p.CQEs])), p.CQEntries)
	if err := r.restrict(); err != nil {
		r.close()
		return nil, err
	}
	return r, nil
}

func (r *ring) mmap(off int64, size int) ([]byte, error) {
	return unix.Mmap(r.fd, off, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE)
}

func (r *ring) close() {
	for _, m := range [][]byte{r.queues, r.sqes} {
		if m != nil {
			_ = unix.Munmap(m)
		}
	}
	_ = unix.Close(r.fd)
}

func (r *ring) register(op uintptr, arg unsafe.Pointer, n int) error {
	_, _, errno := unix.Syscall6(unix.SYS_IO_URING_REGISTER, uintptr(r.fd), op, uintptr(arg), uintptr(n), 0, 0)
	if errno != 0 {
		return fmt.Errorf("io_uring_register(%d): %w", op, errno)
	}
	return nil
}

// restrict leaves the ring nothing but commands on registered files, of which there can be none but those that
// are registered before enable. What enables it has no second effect.
func (r *ring) restrict() error {
	only := []ringRestriction{
		{Opcode: restrictRegisterOp, Arg: registerEnable},
		{Opcode: restrictSQEOp, Arg: opUringCmd},
		{Opcode: restrictFlagsAllowed, Arg: sqeFixedFile},
		{Opcode: restrictFlagsRequired, Arg: sqeFixedFile},
	}
	return r.register(registerRestrictions, unsafe.Pointer(unsafe.SliceData(only)), len(only))
}

// bind says what file the commands are for.
func (r *ring) bind(fd int) error {
	file := int32(fd)
	return r.register(registerFiles, unsafe.Pointer(&file), 1)
}

// enable gives the ring to the calling thread.
func (r *ring) enable() error { return r.register(registerEnable, nil, 0) }

// push adds a command to those that enter submits.
func (r *ring) push(cmd uint32, entry int, qid uint16) *ringSQE {
	tail := r.sqTail.Load()
	e := (*ringSQE)(unsafe.Pointer(&r.sqes[int(tail&r.sqMask)*ringSQESize]))
	*e = ringSQE{Opcode: opUringCmd, Flags: sqeFixedFile, CmdOp: cmd, UserData: uint64(entry), QID: qid}
	r.sqTail.Store(tail + 1) // the kernel looks at it in enter only
	r.pushed++
	return e
}

// enter submits what was pushed and waits for a completion, no longer than timeout says if there is one.
func (r *ring) enter(wait int, timeout *ringWait) syscall.Errno {
	flags, size := uintptr(enterGetevents), uintptr(0)
	if timeout != nil {
		flags, size = flags|enterExtArg, unsafe.Sizeof(*timeout)
	}
	n, _, errno := unix.Syscall6(unix.SYS_IO_URING_ENTER, uintptr(r.fd), uintptr(r.pushed), uintptr(wait),
		flags, uintptr(unsafe.Pointer(timeout)), size)
	if errno == 0 {
		r.pushed -= uint32(n)
	}
	return errno
}

// ready tells whether enter has something to do: a completion is there, or the kernel has one to make.
func (r *ring) ready() bool {
	return r.cqHead.Load() != r.cqTail.Load() || r.sqFlags.Load()&sqTaskrun != 0
}

// completed takes a completion, if there is one.
func (r *ring) completed() (entry int, res int32, ok bool) {
	head := r.cqHead.Load()
	if head == r.cqTail.Load() {
		return 0, 0, false
	}
	e := r.cqes[head&r.cqMask]
	r.cqHead.Store(head + 1)
	return int(e.UserData), e.Res, true
}
