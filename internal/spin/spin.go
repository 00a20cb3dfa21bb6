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
