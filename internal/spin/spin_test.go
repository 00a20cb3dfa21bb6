package spin

import (
	"runtime"
	"sync"
	"testing"
	"time"
)

// contend runs fn on threads of its own, many times.
func contend(fn func(side int)) {
	var wg sync.WaitGroup
	for side := range 8 {
		wg.Go(func() {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			for range 2000 {
				fn(side)
			}
		})
	}
	wg.Wait()
}

func TestMutex(t *testing.T) {
	var m Mutex
	a, b := 0, 0
	contend(func(int) {
		m.Lock()
		defer m.Unlock()
		if a++; a%100 == 0 {
			runtime.Gosched()
		}
		b++
		if a != b {
			t.Error("two hold it")
		}
	})
	if a != 8*2000 {
		t.Errorf("%d", a)
	}
}

func TestRWMutex(t *testing.T) {
	var m RWMutex
	a, b, writes := 0, 0, 0
	contend(func(side int) {
		if side%2 == 0 {
			m.RLock()
			defer m.RUnlock()
			if a != b {
				t.Error("what is read is being written")
			}
			return
		}
		m.Lock()
		defer m.Unlock()
		if a++; a%100 == 0 {
			runtime.Gosched()
		}
		b++
		writes++
	})
	if writes != 4*2000 || a != b {
		t.Errorf("%d writes, %d and %d", writes, a, b)
	}
}

// TestLong waits longer than anybody tries.
func TestLong(t *testing.T) {
	var m RWMutex
	for i, lock := range []sync.Locker{new(Mutex), &m, m.RLocker()} {
		if i == 2 {
			m.Lock()
		} else {
			lock.Lock()
		}
		got := make(chan struct{})
		go func() {
			lock.Lock()
			close(got)
			lock.Unlock()
		}()
		select {
		case <-got:
			t.Fatal("nobody waits")
		case <-time.After(20 * time.Millisecond):
		}
		if i == 2 {
			m.Unlock()
		} else {
			lock.Unlock()
		}
		<-got
	}
}

// TestEvent: two take turns, with and without threads of their own.
func TestEvent(t *testing.T) {
	for _, locked := range []bool{false, true} {
		var ping, pong Event
		n, done := 0, make(chan struct{})
		go func() {
			defer close(done)
			if locked {
				runtime.LockOSThread()
				defer runtime.UnlockOSThread()
			}
			for range 5000 {
				ping.Wait()
				n++
				pong.Happen()
			}
		}()
		for i := range 5000 {
			ping.Happen()
			pong.Wait()
			if n != i+1 {
				t.Fatalf("after %d turns of one, %d of the other", i+1, n)
			}
		}
		<-done
		var e Event
		e.Happen() // before anybody waits
		e.Wait()
		woken := make(chan struct{})
		go func() {
			e.Wait()
			close(woken)
		}()
		select {
		case <-woken:
			t.Fatal("what has happened once was waited for twice")
		case <-time.After(20 * time.Millisecond):
		}
		e.Happen()
		<-woken
	}
}
