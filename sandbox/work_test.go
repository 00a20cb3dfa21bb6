package sandbox

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func init() {
	sealed := func(f func() error) func(b *Box) error {
		return func(b *Box) error {
			if err := b.Seal(); err != nil {
				return err
			}
			return f()
		}
	}
	victims["work"] = sealed(work)
	victims["panic"] = sealed(func() error { panic("on purpose") })
	victims["fault"] = sealed(func() error { return errors.New(fmt.Sprint(*(*int)(nil))) })
	victims["exit"] = sealed(func() error { os.Exit(7); return nil })
	victims["abort"] = sealed(func() error { debug.SetTraceback("crash"); panic("on purpose") })
	victims["spin"] = sealed(func() error {
		fmt.Println("ready")
		for n := 0; ; n++ { // without a call
			spun = n
		}
	})
	victims["hoard"] = sealed(func() error {
		for {
			hoard = append(hoard, bytes.Repeat([]byte{1}, 16<<20))
		}
	})
}

var (
	hoard [][]byte
	spun  int
)

// work is what the Go runtime may be made to do.
func work() error {
	var g sync.WaitGroup
	var mu sync.Mutex
	total := 0
	for i := range 200 {
		g.Go(func() {
			defer func() { _ = recover() }()
			kept := map[int][]byte{}
			for j := range 50 {
				kept[j%7] = make([]byte, 1<<rand.IntN(18))
				mu.Lock()
				total += len(kept)
				mu.Unlock()
				if j%10 == 0 {
					time.Sleep(time.Millisecond)
				}
			}
			if i%2 == 0 {
				panic("recovered")
			}
			var p *int
			*p = 1
		})
	}
	// Threads that are stuck in the kernel, so that others are needed, and then end with their goroutines.
	for range 40 {
		g.Go(func() {
			runtime.LockOSThread()
			ts := unix.NsecToTimespec(int64(20 * time.Millisecond))
			_ = unix.Nanosleep(&ts, nil)
		})
	}
	// A loop without calls has to be interrupted for the garbage collector.
	var stop atomic.Bool
	go func() {
		for n := 0; !stop.Load(); n++ {
		}
	}()
	for range 5 {
		runtime.GC()
		debug.FreeOSMemory()
	}
	g.Wait()
	stop.Store(true)
	select {
	case <-time.After(5 * time.Millisecond):
	case <-time.Tick(time.Hour):
	}
	if _, err := os.Open("/"); !errors.Is(err, unix.EPERM) {
		return fmt.Errorf("open: %v", err)
	}
	if total == 0 || len(debug.Stack()) == 0 {
		return errors.New("nothing was done")
	}
	fmt.Println("done", time.Now().Format(time.RFC3339))
	return nil
}

func TestGoWorks(t *testing.T) {
	p := startVictim(t, victim{Name: "work", Options: Options{Mode: Enforce, Memory: 64 << 20}}, nil)
	p.expect(t, "done")
	if err := p.Wait(); err != nil {
		t.Error(err)
	}
}

// TestGoEnds: every end of a process says what it is about.
func TestGoEnds(t *testing.T) {
	for _, c := range []struct {
		victim, stderr string
		status         int // -1: by a signal
	}{
		{"panic", "panic: on purpose\n\ngoroutine ", 2},
		{"fault", "invalid memory address or nil pointer dereference", 2},
		{"abort", "panic: on purpose", -2},
		{"exit", "", 7},
		{"hoard", "out of memory", 2},
	} {
		if c.victim == "hoard" && raceDetector {
			continue // without the limit
		}
		t.Run(c.victim, func(t *testing.T) {
			var stderr bytes.Buffer
			p := startVictim(t, victim{Name: c.victim, Options: Options{Mode: Enforce, Memory: 32 << 20}}, func(cmd *exec.Cmd) { cmd.Stderr = &stderr })
			for p.out.Scan() {
				t.Log(p.out.Text())
			}
			_ = p.Wait()
			if !strings.Contains(stderr.String(), c.stderr) {
				t.Errorf("no %q in\n%s", c.stderr, &stderr)
			}
			if got := p.ProcessState.ExitCode(); c.status != -2 && got != c.status {
				t.Errorf("%v, not %d\n%s", p.ProcessState, c.status, &stderr)
			}
		})
	}
}

// TestSignals: the process is the first one of its namespace, which ignores what it does not handle.
func TestSignals(t *testing.T) {
	for _, s := range []os.Signal{unix.SIGTERM, unix.SIGQUIT, unix.SIGKILL} {
		p := startVictim(t, victim{Name: "spin", Options: Options{Mode: Enforce}}, func(cmd *exec.Cmd) { cmd.Stderr = io.Discard })
		p.expect(t, "ready")
		if err := p.Process.Signal(s); err != nil {
			t.Fatal(err)
		}
		if err := p.Wait(); err == nil {
			t.Error(s, "is an orderly end")
		}
	}
}
