package fuse_test

import (
	"fmt"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ext4box/fuse"
	"ext4box/fuse/fusetest"
	"ext4box/iomap"
)

// stuck has mappings that do not come until they are let go, or interrupted.
type stuck struct {
	fuse.Unimplemented
	entered chan uint64 // unique of each BEGIN, LOOKUP and RELEASE that was let in
	free    chan struct{}

	mu      sync.Mutex
	through []string // operations, in the order of their ends
	threads map[int]bool
	refuse  bool // IOMAP_CONFIG fails
	astray  bool // IOEND is handled by a thread that nobody has prepared for it
}

func newStuck() *stuck {
	return &stuck{entered: make(chan uint64, 1000), free: make(chan struct{}), threads: map[int]bool{}}
}

func (s *stuck) wait(r *fuse.Request) syscall.Errno {
	s.entered <- r.Unique
	done := r.Done()
	if r.Interrupted() {
		return syscall.EINTR
	}
	select {
	case <-s.free:
		return s.end(r)
	case <-done:
		return syscall.EINTR
	}
}

func (s *stuck) end(r *fuse.Request) syscall.Errno {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.through = append(s.through, r.Opcode.String())
	s.threads[unix.Gettid()] = true
	return 0
}

func (s *stuck) IomapConfig(r *fuse.Request, in *fuse.IomapConfigIn, out *fuse.IomapConfigOut) syscall.Errno {
	out.Blocksize = 1024
	if errno := s.end(r); errno != 0 || !s.refuse {
		return errno
	}
	return syscall.EINVAL
}

func (s *stuck) IomapBegin(r *fuse.Request, in *fuse.IomapBeginIn, out *fuse.IomapBeginOut) syscall.Errno {
	if in.Op&iomap.Writeback != 0 {
		return s.end(r)
	}
	out.Read.Offset = in.Pos
	return s.wait(r)
}

func (s *stuck) IomapIoend(r *fuse.Request, in *fuse.IomapIoendIn, out *fuse.IomapIoendOut) syscall.Errno {
	out.Newsize = in.Pos + in.Written
	if s.astray {
		errno := make(chan syscall.Errno)
		go func() {
			runtime.LockOSThread() // for good, so it is not a reader's
			errno <- s.end(r)
		}()
		return <-errno
	}
	return s.end(r)
}

func (s *stuck) Lookup(r *fuse.Request, name string, out *fuse.EntryOut) syscall.Errno {
	out.NodeID = 5
	if name == "stuck" {
		return s.wait(r)
	}
	return s.end(r)
}

func (s *stuck) Release(r *fuse.Request, in *fuse.ReleaseIn) syscall.Errno { return s.wait(r) }

func (s *stuck) Destroy() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.through = append(s.through, "DESTROY")
}

// destroyedLast tells whether nothing was still under way when Destroy was called.
func (s *stuck) destroyedLast() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Index(s.through, "DESTROY") == len(s.through)-1
}

// TestIomapIoendFindsReader: however many operations wait, and whatever they are, what others wait for in
// turn is answered; then they go on, none is lost and none comes twice.
func TestIomapIoendFindsReader(t *testing.T) {
	for _, readers := range []int{1, 2, 4} {
		t.Run(fmt.Sprint(readers), func(t *testing.T) {
			checkReaders(t)
			ops := newStuck()
			k := startStuck(t, ops, readers)
			// Twice as many as can be handled at once: all but one reader, and as many goroutines
			// as there are readers.
			busy := readers - 1 + readers
			var calls []*fusetest.Call
			for i := range 2 * busy {
				var c *fusetest.Call
				switch i % 3 {
				case 0:
					c = k.Post(fuse.OpIomapBegin, 5, fusetest.Bytes(&fuse.IomapBeginIn{Op: iomap.Write, Pos: uint64(i) << 20, Count: 1}))
				case 1:
					c = k.Post(fuse.OpLookup, 1, fusetest.CString("stuck"))
				case 2:
					c = k.Post(fuse.OpRelease, 5, fusetest.Bytes(&fuse.ReleaseIn{}))
				}
				calls = append(calls, c)
			}
			inside := map[uint64]bool{}
			for range busy {
				inside[<-ops.entered] = true
			}
			for i := range uint64(20) {
				out, err := k.IomapIoend(5, fuse.IomapIoendIn{Pos: i, Written: 1})
				if err != nil || out.Newsize != i+1 {
					t.Fatalf("IOEND: %+v, %v", out, err)
				}
				for _, op := range []iomap.Op{iomap.Writeback, iomap.Writeback | iomap.Write, iomap.Write | iomap.Writeback | 1<<20} {
					if _, err := k.IomapBegin(5, fuse.IomapBeginIn{Op: op, Count: 1}); err != nil {
						t.Fatalf("BEGIN for writeback: %v", err)
					}
				}
			}
			// All have been read by now, by the one reader that goes on reading, which also reads
			// this before the next IOEND. What waits outside learns of it when it is let in.
			interrupted := map[uint64]bool{}
			for i, c := range calls {
				if i%2 == 0 || !inside[c.Unique] {
					interrupted[c.Unique] = true
					if err := k.Interrupt(c.Unique); err != nil {
						t.Fatal(err)
					}
				}
			}
			if _, err := k.IomapIoend(5, fuse.IomapIoendIn{}); err != nil {
				t.Fatal(err)
			}
			close(ops.free)
			for i, c := range calls {
				r := c.Wait()
				switch err := r.Err(); {
				case interrupted[c.Unique]:
					if err != syscall.EINTR {
						t.Errorf("request %d, interrupted: %v", i, err)
					}
				case err != nil:
					t.Errorf("request %d: %v", i, err)
				case i%3 == 0:
					if got := fusetest.Value[fuse.IomapBeginOut](r.Payload).Read.Offset; got != uint64(i)<<20 {
						t.Errorf("request %d got the answer of another: %d", i, got)
					}
				}
			}
			if n := len(ops.entered) + busy; n != len(calls) {
				t.Errorf("%d operations for %d requests", n, len(calls))
			}
		})
	}
}

// TestIomapReaderHelps: what is parked is handled by the first that is free again, not only by those that
// took the rest.
func TestIomapReaderHelps(t *testing.T) {
	checkReaders(t)
	ops := newStuck()
	k := startStuck(t, ops, 2)
	stuck := func() *fusetest.Call { return k.Post(fuse.OpLookup, 1, fusetest.CString("stuck")) }
	first := stuck() // on a reader; the other one gives away the next two
	<-ops.entered
	calls := []*fusetest.Call{stuck(), stuck()}
	<-ops.entered
	<-ops.entered
	parked := stuck()
	if err := k.Interrupt(first.Unique); err != nil {
		t.Fatal(err)
	}
	if err := first.Wait().Err(); err != syscall.EINTR {
		t.Error(err)
	}
	if unique := <-ops.entered; unique != parked.Unique {
		t.Errorf("request %d was let in, want %d", unique, parked.Unique)
	}
	close(ops.free)
	for _, c := range append(calls, parked) {
		if err := c.Wait().Err(); err != nil {
			t.Error(err)
		}
	}
}

// TestIomapUnmountAnswers: the reader that gave a request away keeps the descriptor for the answer.
func TestIomapUnmountAnswers(t *testing.T) {
	checkReaders(t)
	ops := newStuck()
	k := startStuck(t, ops, 1)
	c := k.Post(fuse.OpLookup, 1, fusetest.CString("stuck"))
	<-ops.entered
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := k.Unmount(); err != nil {
			t.Error(err)
		}
	})
	time.Sleep(20 * time.Millisecond) // for the reader to see the end
	close(ops.free)
	if err := c.Wait().Err(); err != nil {
		t.Errorf("the answer was lost: %v", err)
	}
	wg.Wait()
}

// startStuck connects a kernel with fuse-iomap over a socket.
func startStuck(t *testing.T, ops *stuck, readers int) *fusetest.Kernel {
	t.Helper()
	cfg := iomapConfig()
	cfg.Socket, cfg.Device.Readers = true, readers
	k := fusetest.Start(t, ops, cfg)
	configure(t, k)
	return k
}

// TestIomapDestroyTooEarly: a server that ends beside others, as with any operation, is not the last. It is the other
// side of TestIomapDestroyIsLast.
func TestIomapDestroyTooEarly(t *testing.T) {
	ops := newStuck()
	k := startStuck(t, ops, 3)
	release := k.Post(fuse.OpRelease, 5, fusetest.Bytes(&fuse.ReleaseIn{}))
	<-ops.entered
	ops.Destroy()
	close(ops.free)
	if err := release.Wait().Err(); err != nil {
		t.Error(err)
	}
	if ops.destroyedLast() {
		t.Errorf("RELEASE behind the end is not noticed: %v", ops.through)
	}
}

// TestIomapDestroyIsLast: what was sent before DESTROY is through before Destroy is called, even if it had
// not begun, and what comes beside it is answered though there is only one reader.
func TestIomapDestroyIsLast(t *testing.T) {
	for _, readers := range []int{1, 3} {
		t.Run(fmt.Sprint(readers), func(t *testing.T) {
			checkReaders(t)
			ops := newStuck()
			k := startStuck(t, ops, readers)
			var calls []*fusetest.Call
			for range 4 * readers {
				calls = append(calls, k.Post(fuse.OpRelease, 5, fusetest.Bytes(&fuse.ReleaseIn{})))
			}
			for range 2*readers - 1 {
				<-ops.entered
			}
			destroy := k.Post(fuse.OpDestroy, 0)
			if _, err := k.IomapIoend(5, fuse.IomapIoendIn{}); err != nil {
				t.Errorf("IOEND beside DESTROY: %v", err)
			}
			close(ops.free)
			for _, c := range append(calls, destroy) {
				if err := c.Wait().Err(); err != nil {
					t.Error(err)
				}
			}
			// Later is harmless.
			if err := k.Do(fuse.OpRelease, 5, fusetest.Bytes(&fuse.ReleaseIn{})).Err(); err != nil {
				t.Errorf("RELEASE behind DESTROY: %v", err)
			}
			if err := k.Forget(5, 1); err != nil {
				t.Errorf("FORGET behind DESTROY: %v", err)
			}
			if _, err := k.IomapIoend(5, fuse.IomapIoendIn{}); err != syscall.ENOTCONN {
				t.Errorf("IOEND behind DESTROY: %v", err)
			}
			if err := k.Unmount(); err != nil {
				t.Error(err)
			}
			if !ops.destroyedLast() || len(ops.through) != len(calls)+3 {
				t.Errorf("DESTROY is not the last: %v", ops.through)
			}
		})
	}
}

// TestIomapConfigIsFirst: what a kernel sends too early waits until IOMAP_CONFIG is answered.
func TestIomapConfigIsFirst(t *testing.T) {
	for _, end := range []string{"config", "refused", "interrupt", "destroy"} {
		t.Run(end, func(t *testing.T) {
			iomapLinks(t, func(t *testing.T, cfg fusetest.Config) {
				ops := newStuck()
				ops.refuse = end == "refused"
				k := fusetest.Start(t, ops, cfg)
				send := k.Go
				if cfg.Socket {
					send = k.Post // so that they are read before what follows
				}
				early := []*fusetest.Call{
					send(fuse.OpLookup, 1, fusetest.CString("name")),
					send(fuse.OpIomapBegin, 5, fusetest.Bytes(&fuse.IomapBeginIn{Op: iomap.Writeback})),
					send(fuse.OpIomapIoend, 5, fusetest.Bytes(&fuse.IomapIoendIn{})),
				}
				var want error
				switch end {
				case "interrupt":
					want = syscall.EINTR
					// As long as nobody knows the request the kernel repeats itself.
					for _, c := range early {
						var wg sync.WaitGroup
						through := make(chan fusetest.Reply, 1)
						wg.Go(func() { through <- c.Wait() })
						for len(through) == 0 {
							if err := k.Interrupt(c.Unique); err != nil {
								t.Fatal(err)
							}
							runtime.Gosched()
						}
						if err := (<-through).Err(); err != want {
							t.Errorf("early request: %v, want %v", err, want)
						}
						wg.Wait()
					}
					early = nil
				case "destroy":
					want = syscall.ENOTCONN
					if err := k.Destroy(); err != nil {
						t.Error(err)
					}
				default:
					out, err := k.IomapConfig(fuse.IomapConfigIn{})
					if ops.refuse != (err == syscall.EINVAL) || !ops.refuse && out.Blocksize != 1024 {
						t.Errorf("IOMAP_CONFIG: %+v, %v", out, err)
					}
					if _, err := k.IomapConfig(fuse.IomapConfigIn{}); err != syscall.EBUSY {
						t.Errorf("a second IOMAP_CONFIG: %v", err)
					}
				}
				for _, c := range early {
					if err := c.Wait().Err(); err != want {
						t.Errorf("early request: %v, want %v", err, want)
					}
				}
				ops.mu.Lock()
				defer ops.mu.Unlock()
				switch {
				case want == nil && (len(ops.through) != 4 || ops.through[0] != "IOMAP_CONFIG"):
					t.Errorf("operations %v", ops.through)
				case want != nil && slices.Contains(ops.through, "LOOKUP"):
					t.Errorf("operations %v", ops.through)
				}
			})
		})
	}
}

// TestIomapThreads: each thread that handles requests has asked that memory reclaim keep out, once; a
// kernel that refuses is lived with, and complained of once.
func TestIomapThreads(t *testing.T) {
	for _, c := range []struct {
		name   string
		errno  syscall.Errno
		astray bool // an operation goes to another thread, which is to be noticed
	}{{"asked", 0, false}, {"refused", syscall.EPERM, false}, {"astray", 0, true}} {
		t.Run(c.name, func(t *testing.T) {
			var mu sync.Mutex
			asked := map[int]int{}
			cfg := iomapConfig()
			cfg.Socket, cfg.Device.Readers = true, 3
			cfg.OnIoctl = func(cmd uint32, arg []byte) (int, syscall.Errno) {
				if ioctlText(cmd, arg) != "4004e564:01000000" {
					return 0, syscall.ENOTTY
				}
				mu.Lock()
				defer mu.Unlock()
				asked[unix.Gettid()]++
				return 0, c.errno
			}
			ops := newStuck()
			ops.astray = c.astray
			k := fusetest.Start(t, ops, cfg)
			configure(t, k)
			for range 5 {
				k.Post(fuse.OpLookup, 1, fusetest.CString("stuck"))
			}
			for range 5 {
				<-ops.entered
			}
			for range 100 {
				if _, err := k.IomapIoend(5, fuse.IomapIoendIn{}); err != nil {
					t.Fatal(err)
				}
			}
			close(ops.free)
			if err := k.Unmount(); err != nil {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			if len(asked) < 5 {
				t.Errorf("%d threads for 5 requests at once", len(asked))
			}
			for thread, n := range asked {
				if n != 1 {
					t.Errorf("thread %d asked %d times", thread, n)
				}
			}
			var astray []int
			for thread := range ops.threads {
				if asked[thread] == 0 {
					astray = append(astray, thread)
				}
			}
			if c.astray != (len(astray) > 0) {
				t.Errorf("threads %v handle requests and have not asked", astray)
			}
		})
	}
}

// TestClassicThreads: without the extension nothing of this happens.
func TestClassicThreads(t *testing.T) {
	cfg := iomapConfig()
	cfg.Socket, cfg.IomapSupport = true, 0
	cfg.OnIoctl = func(cmd uint32, arg []byte) (int, syscall.Errno) {
		if cmd != fuse.DevIocIomapSupport {
			t.Errorf("ioctl %#x", cmd)
		}
		return 0, syscall.ENOTTY
	}
	ops := newStuck()
	close(ops.free)
	k := fusetest.Start(t, ops, cfg)
	for range 100 {
		if _, err := k.Lookup(1, "stuck"); err != nil {
			t.Fatal(err)
		}
	}
}
