package spin

import (
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Event is what one goroutine waits for and another makes happen. It can happen again once it was waited for. Who waits
// keeps its thread: the one that wakes it is the kernel.
type Event struct{ state atomic.Uint32 }

const (
	eventHappened = 1
	eventAwaited  = 2
)

// Private operations of futex(2).
const (
	futexWait = 0 | 128
	futexWake = 1 | 128
)

// Happen wakes who waits, or is about to.
func (e *Event) Happen() {
	if e.state.Swap(eventHappened) == eventAwaited {
		_, _, _ = unix.RawSyscall(unix.SYS_FUTEX, uintptr(unsafe.Pointer(&e.state)), futexWake, 1)
	}
}

// Wait returns when the event has happened.
func (e *Event) Wait() {
	for !e.state.CompareAndSwap(eventHappened, 0) {
		if e.state.CompareAndSwap(0, eventAwaited) || e.state.Load() == eventAwaited {
			_, _, _ = unix.Syscall6(unix.SYS_FUTEX, uintptr(unsafe.Pointer(&e.state)), futexWait, eventAwaited, 0, 0, 0)
		}
	}
}
