package fuse_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"ext4box/fuse"
	"ext4box/fuse/fusetest"
)

// links runs a test over both links to the kernel in this process.
func links(t *testing.T, f func(t *testing.T, cfg fusetest.Config)) {
	for name, socket := range map[string]bool{"direct": false, "socket": true} {
		t.Run(name, func(t *testing.T) {
			checkReaders(t)
			f(t, fusetest.Config{Socket: socket, Options: fuse.Options{Params: fuse.Params{Flags: manyFlags}}})
		})
	}
}

func TestSession(t *testing.T) {
	links(t, func(t *testing.T, cfg fusetest.Config) {
		data := pattern(1<<20 + 7)
		fs := newMemfs()
		id := fs.add("file", unix.S_IFREG|0o640, data)
		for i := range 100 {
			fs.add(fmt.Sprint("other", i), unix.S_IFREG|0o600, nil)
		}
		k := fusetest.Start(t, fs, cfg)
		<-k.Session.Ready()
		if k.Protocol.Minor != fuse.MaxMinor || k.Session.Protocol().Minor != fuse.MaxMinor {
			t.Errorf("speaks 7.%d", k.Protocol.Minor)
		}
		e, err := k.Lookup(1, "file")
		if err != nil || e.NodeID != id || e.Attr.Size != uint64(len(data)) {
			t.Errorf("lookup: %+v, %v", e, err)
		}
		if _, err := k.Lookup(1, "none"); err != syscall.ENOENT {
			t.Errorf("lookup of nothing: %v", err)
		}
		if a, err := k.Getattr(id); err != nil || a.Attr.Mode != unix.S_IFREG|0o640 {
			t.Errorf("getattr: %+v, %v", a, err)
		}
		if got, err := k.Read(id, 7, 1<<20); err != nil || !bytes.Equal(got, data[7:]) {
			t.Errorf("read %d bytes: %v", len(got), err)
		}
		if n, err := k.Write(id, 100, data[:1<<20]); n != 1<<20 {
			t.Errorf("wrote %d bytes: %v", n, err)
		}
		if got, err := k.Read(id, 100, 50000); err != nil || !bytes.Equal(got, data[:50000]) {
			t.Errorf("read %d bytes: %v", len(got), err)
		}
		for _, plus := range []bool{false, true} {
			read, names := k.Readdir, map[string]bool{}
			if plus {
				read = k.Readdirplus
			}
			for pos := uint64(0); ; {
				list, err := read(1, pos, 512)
				if err != nil {
					t.Fatal(err)
				}
				if len(list) == 0 {
					break
				}
				for _, d := range list {
					if names[d.Name] {
						t.Errorf("%s comes twice", d.Name)
					}
					names[d.Name] = true
					if dots := d.Name == "." || d.Name == ".."; plus && (d.Entry.NodeID == 0) != dots {
						t.Errorf("%s: %+v", d.Name, d.Entry)
					}
					pos = d.Next
				}
			}
			if len(names) != 103 {
				t.Errorf("%d entries", len(names))
			}
		}
		if err := k.BatchForget(fuse.ForgetOne{NodeID: id, Nlookup: 1}, fuse.ForgetOne{NodeID: 4, Nlookup: 1}); err != nil {
			t.Error(err)
		}
		if err := k.Forget(id, 1); err != nil {
			t.Error(err)
		}
		if _, err := k.Statx(id, 0xFFF); err != syscall.ENOSYS {
			t.Errorf("statx: %v", err)
		}
		if got, err := k.Getxattr(id, "user.big", 65536); err != nil || len(got) != 60000 {
			t.Errorf("getxattr: %d bytes, %v", len(got), err)
		}
		if err := k.Unmount(); err != nil {
			t.Error(err)
		}
		if n := fs.destroyed.Load(); n != 1 {
			t.Errorf("Destroy was called %d times", n)
		}
		if n := fs.lookups[id]; n != 0 {
			t.Errorf("%d lookups of the file are left", n)
		}
	})
}

// TestSessionVersions connects kernels of all ages.
func TestSessionVersions(t *testing.T) {
	links(t, func(t *testing.T, cfg fusetest.Config) {
		for _, minor := range []uint32{31, 33, 35, 36, 38, 40, 44, 45, 46, 47, 99} {
			cfg.Major, cfg.Minor = 7, minor
			k, err := fusetest.Connect(newMemfs(), cfg)
			if err != nil {
				t.Fatalf("7.%d: %v", minor, err)
			}
			if k.Protocol.Minor != min(minor, 46) || k.Protocol.InitFlags()>>43 != 0 {
				t.Errorf("7.%d: %+v", minor, k.Protocol)
			}
			if got, want := k.Protocol.InitFlags()&fuse.InitHasExpireOnly != 0, minor >= 36; got != want {
				t.Errorf("7.%d: flags2 in use: %v", minor, got)
			}
			if err := k.Setxattr(1, "user.x", []byte("value"), 0); err != syscall.ENOSYS {
				t.Errorf("7.%d: setxattr: %v", minor, err)
			}
			known := []struct {
				name  string
				minor uint32
				err   error
			}{
				{"INVAL_INODE", 0, k.Session.NotifyInvalInode(1, 0, 0)},
				{"EXPIRE", 38, k.Session.NotifyExpireEntry(1, "x")},
				{"INC_EPOCH", 44, k.Session.NotifyIncEpoch()},
				{"PRUNE", 45, k.Session.NotifyPrune([]uint64{1})},
			}
			for _, n := range known {
				if (n.err == nil) != (minor >= n.minor) || n.err != nil && !errors.Is(n.err, syscall.ENOSYS) {
					t.Errorf("7.%d: %s: %v", minor, n.name, n.err)
				}
			}
			if err := k.Unmount(); err != nil {
				t.Errorf("7.%d: %v", minor, err)
			}
		}
		for _, minor := range []uint32{0, 12, 30} {
			cfg.Major, cfg.Minor = 7, minor
			if _, err := fusetest.Connect(newMemfs(), cfg); !errors.Is(err, syscall.EPROTO) ||
				!strings.Contains(err.Error(), fmt.Sprintf("7.%d", minor)) {
				t.Errorf("7.%d: %v", minor, err)
			}
		}

		// A later major version asks again with ours.
		cfg.Major, cfg.Minor = 8, 3
		k := fusetest.Start(t, newMemfs(), cfg)
		if k.Protocol.Major != 7 || k.Protocol.Minor != 46 || k.Session.Protocol() != nil {
			t.Errorf("answer to 8.3: %+v", k.Protocol)
		}
		in := fuse.InitIn{Major: 7, Minor: 46}
		if err := k.Do(fuse.OpInit, 0, fusetest.Bytes(&in)).Err(); err != nil || k.Session.Protocol() == nil {
			t.Errorf("second INIT: %v", err)
		}
	})
}

func TestSessionInterrupt(t *testing.T) {
	links(t, func(t *testing.T, cfg fusetest.Config) {
		fs := newMemfs()
		id := fs.add("file", unix.S_IFREG|0o644, []byte("data"))
		fs.gate, fs.hung = make(chan struct{}), make(chan struct{}, 2)
		k := fusetest.Start(t, fs, cfg)
		read := fusetest.Bytes(&fuse.ReadIn{Size: 4096})
		a, b := k.Go(fuse.OpRead, id, read), k.Go(fuse.OpRead, id, read)
		<-fs.hung
		<-fs.hung
		if err := k.InterruptReply(k.NextUnique()).Err(); err != syscall.EAGAIN {
			t.Errorf("INTERRUPT of an unknown request: %v", err)
		}
		if err := k.Interrupt(a.Unique); err != nil {
			t.Fatal(err)
		}
		if err := a.Wait().Err(); err != syscall.EINTR {
			t.Errorf("interrupted READ: %v", err)
		}
		close(fs.gate)
		if r := b.Wait(); r.Err() != nil || string(r.Payload) != "data" {
			t.Errorf("READ beside it: %q, %v", r.Payload, r.Err())
		}
	})
}

// TestSessionGarbage: what a transport reads may be anything.
func TestSessionGarbage(t *testing.T) {
	links(t, func(t *testing.T, cfg fusetest.Config) {
		fs := newMemfs()
		fs.add("file", unix.S_IFREG|0o644, []byte("data"))
		k := fusetest.Start(t, fs, cfg)
		for _, msg := range [][]byte{{1}, make([]byte, 39), make([]byte, 40), bytes.Repeat([]byte{0xFF}, 100), bytes.Repeat([]byte{0xFF}, 100000)} {
			if err := k.Raw(msg); err != nil {
				t.Fatal(err)
			}
		}
		for op := range fuse.Opcode(60) {
			if op == fuse.OpInit || op == fuse.OpDestroy || op == fuse.OpReadlink || op == fuse.OpStatfs || !op.HasReply() {
				continue
			}
			if err := k.Do(op, 1).Err(); err == nil {
				t.Errorf("%v without a body succeeded", op)
			}
		}
		if _, err := k.Lookup(1, "file"); err != nil {
			t.Errorf("the session did not go on: %v", err)
		}
		if n := k.Session.Stats().Malformed; n == 0 {
			t.Error("nothing counts as malformed")
		}
	})
}

func TestSessionCancel(t *testing.T) {
	links(t, func(t *testing.T, cfg fusetest.Config) {
		fs := newMemfs()
		k, err := fusetest.Connect(fs, cfg)
		if err != nil {
			t.Fatal(err)
		}
		k.Cancel()
		if err := k.Wait(); !errors.Is(err, context.Canceled) {
			t.Errorf("Serve: %v", err)
		}
		if n := fs.destroyed.Load(); n != 1 {
			t.Errorf("Destroy was called %d times", n)
		}
		if _, err := k.Getattr(1); err == nil {
			t.Error("the server still answers")
		}
	})
}

func TestSessionNotify(t *testing.T) {
	links(t, func(t *testing.T, cfg fusetest.Config) {
		var mu sync.Mutex
		var got []string
		cfg.Options.Flags |= fuse.InitHasResend
		cfg.OnNotify = func(code int32, payload []byte) syscall.Errno {
			mu.Lock()
			defer mu.Unlock()
			got = append(got, fmt.Sprintf("%d:%x", code, payload))
			return 0
		}
		fs := newMemfs()
		k := fusetest.Start(t, fs, cfg)
		s := k.Session
		for _, err := range []error{
			s.NotifyPollWakeup(1),
			s.NotifyInvalInode(2, 3, 4),
			s.NotifyInvalEntry(5, "ab"),
			s.NotifyExpireEntry(5, "ab"),
			s.NotifyStore(6, 7, []byte("data")),
			s.NotifyDelete(8, 9, "c"),
			s.NotifyResend(),
			s.NotifyIncEpoch(),
			s.NotifyPrune([]uint64{10, 11}),
			s.NotifyRetrieve(12, 13, 14, 15),
		} {
			if err != nil {
				t.Error(err)
			}
		}
		if got := <-fs.retrieved; got != "12 14 " {
			t.Errorf("retrieved %q", got)
		}
		want := []string{
			"1:0100000000000000",
			"2:020000000000000003000000000000000400000000000000",
			"3:05000000000000000200000000000000616200",
			"3:05000000000000000200000001000000616200",
			"4:06000000000000000700000000000000040000000000000064617461",
			"6:080000000000000009000000000000000100000000000000" + "6300",
			"7:",
			"8:",
			"9:02000000000000000000000000000000" + "0a00000000000000" + "0b00000000000000",
			"5:0c000000000000000d000000000000000e000000000000000f00000000000000",
		}
		mu.Lock()
		defer mu.Unlock()
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("notifications\n%s, want\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	})
}

func TestSessionNotifyErrors(t *testing.T) {
	answer := syscall.ENOENT
	k := fusetest.Start(t, newMemfs(), fusetest.Config{
		OnNotify: func(int32, []byte) syscall.Errno { return answer },
	})
	if err := k.Session.NotifyInvalInode(2, 0, 0); err != nil {
		t.Errorf("ENOENT is not tolerated: %v", err)
	}
	if err := k.Session.NotifyRetrieve(2, 3, 0, 1); !errors.Is(err, syscall.ENOENT) {
		t.Errorf("RETRIEVE: %v", err)
	}
	answer = syscall.EINVAL
	if err := k.Session.NotifyInvalEntry(2, "x"); !errors.Is(err, syscall.EINVAL) {
		t.Errorf("INVAL_ENTRY: %v", err)
	}
	silent, err := fuse.NewSession(newMemfs(), fuse.NewDevice(nil, fuse.DeviceOptions{}), fuse.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := silent.NotifyIncEpoch(); !errors.Is(err, syscall.ENOSYS) {
		t.Errorf("notification before INIT: %v", err)
	}
}

// TestSessionTrace: the log shows requests with names, and replies with errors.
func TestSessionTrace(t *testing.T) {
	var mu sync.Mutex
	var b strings.Builder
	k, err := fusetest.Connect(newMemfs(), fusetest.Config{Options: fuse.Options{
		Trace:  true,
		Logger: slog.New(slog.NewTextHandler(locked{&mu, &b}, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}})
	if err != nil {
		t.Fatal(err)
	}
	_, _ = k.Lookup(1, "a-name")
	if err := k.Unmount(); err != nil {
		t.Error(err)
	}
	for _, want := range []string{"msg=request op=INIT", "msg=request op=LOOKUP", "name=a-name", "msg=reply op=LOOKUP", `error="no such file or directory"`} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in\n%s", want, b.String())
		}
	}
}

type locked struct {
	mu *sync.Mutex
	b  *strings.Builder
}

func (l locked) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

// TestSessionOptions: what cannot be asked for is refused before anything is mounted.
func TestSessionOptions(t *testing.T) {
	for _, p := range []fuse.Params{{Flags: fuse.InitOverIOUring}, {Flags: fuse.InitIOUringBufpool}, {TimeGran: 2e9}} {
		if _, err := fuse.NewSession(newMemfs(), nil, fuse.Options{Params: p}); !errors.Is(err, syscall.EINVAL) {
			t.Errorf("%+v: %v", p, err)
		}
	}
}
