// Package spin has locks for what is held for some microseconds at a time. Who finds one taken lets other threads
// run, and tries again, some times before it goes to sleep.
//
// Requests are handled by goroutines that are bound to threads: see "Rings" in package fuse. When one of these sleeps, Go
// switches to another thread to look for work, and to a third to wake it. That costs many times what it waited for.
package spin

import (
	"sync"

	"golang.org/x/sys/unix"
)

// tries is how often others are let run. It takes some 10 microseconds if nobody else wants to.
const tries = 32

// Mutex is a sync.Mutex. The zero value is unlocked.
type Mutex struct{ sync.Mutex }

// Lock is [sync.Mutex.Lock].
func (m *Mutex) Lock() {
	if !m.TryLock() && !try(m.TryLock) {
		m.Mutex.Lock()
	}
}

// RWMutex is a sync.RWMutex. The zero value is unlocked.
type RWMutex struct{ sync.RWMutex }

// Lock is [sync.RWMutex.Lock].
func (m *RWMutex) Lock() {
	if !m.TryLock() && !try(m.TryLock) {
		m.RWMutex.Lock()
	}
}

// RLock is [sync.RWMutex.RLock].
func (m *RWMutex) RLock() {
	if !m.TryRLock() && !try(m.TryRLock) {
		m.RWMutex.RLock()
	}
}

func try(lock func() bool) bool {
	for range tries {
		// The scheduler of Go need not know of this: it takes no longer than what is let run.
		_, _, _ = unix.RawSyscall(unix.SYS_SCHED_YIELD, 0, 0, 0)
		if lock() {
			return true
		}
	}
	return false
}
