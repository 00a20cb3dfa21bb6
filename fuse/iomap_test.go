package fuse_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"ext4box/fuse"
	"ext4box/fuse/fusetest"
)

// iomapConfig is a kernel with fuse-iomap and a session that wants it.
func iomapConfig() fusetest.Config {
	return fusetest.Config{
		Minor: fuse.IomapMinor, IomapSupport: fuse.IomapSupportFileIO | fuse.IomapSupportAtomic,
		Options: fuse.Options{Params: fuse.Params{Flags: manyFlags, Iomap: true}},
	}
}

// iomapLinks runs a test over both links with fuse-iomap.
func iomapLinks(t *testing.T, f func(t *testing.T, cfg fusetest.Config)) {
	links(t, func(t *testing.T, cfg fusetest.Config) {
		with := iomapConfig()
		with.Socket = cfg.Socket
		f(t, with)
	})
}

// configure does what the kernel does right behind INIT.
func configure(t *testing.T, k *fusetest.Kernel) {
	t.Helper()
	if _, err := k.IomapConfig(fuse.IomapConfigIn{}); err != nil && err != syscall.ENOSYS {
		t.Fatal(err)
	}
}

// chooser is a server that gives the extension up, or claims it though it was not granted.
type chooser struct {
	fuse.Unimplemented
	take, giveUp bool
	why          string
}

func (c chooser) Init(r *fuse.Request, p *fuse.Protocol) syscall.Errno {
	if c.giveUp {
		p.Iomap, p.NoIomap = false, c.why
	}
	if c.take {
		p.Iomap = true
	}
	return 0
}

// TestIomapNegotiation: the extension is in use only if everything says so, and the terms tell what did
// not.
func TestIomapNegotiation(t *testing.T) {
	const all = fuse.IomapSupportFileIO | fuse.IomapSupportAtomic
	ioctl := func(errno syscall.Errno) func(uint32, []byte) (int, syscall.Errno) {
		return func(uint32, []byte) (int, syscall.Errno) { return 0, errno }
	}
	for _, c := range []struct {
		name  string
		minor uint32
		edit  func(cfg *fusetest.Config)
		ops   chooser
		no    string // part of the reason; empty: it is in use
	}{
		{name: "all", minor: 99},
		{name: "without atomic", minor: 99, edit: func(c *fusetest.Config) { c.IomapSupport = fuse.IomapSupportFileIO }},
		{name: "not wanted", minor: 99, edit: func(c *fusetest.Config) { c.Options.Iomap = false }, no: "not asked for"},
		{name: "not wanted but claimed", minor: 99, ops: chooser{take: true}, edit: func(c *fusetest.Config) { c.Options.Iomap = false }, no: "not asked for"},
		{name: "given up", minor: 99, ops: chooser{giveUp: true}, no: "the server"},
		{name: "given up for a reason", minor: 99, ops: chooser{giveUp: true, why: "no device"}, no: "no device"},
		{name: "no bit", minor: 99, edit: func(c *fusetest.Config) { c.Flags = fusetest.AllFlags &^ fuse.InitIomap }, no: "does not offer it"},
		{name: "no ioctl", minor: 99, edit: func(c *fusetest.Config) { c.IomapSupport = 0 }, no: "does not have it"},
		{name: "ioctl fails", minor: 99, edit: func(c *fusetest.Config) { c.IomapSupport, c.OnIoctl = 0, ioctl(syscall.EPERM) }, no: "not permitted"},
		{name: "ioctl says nothing", minor: 99, edit: func(c *fusetest.Config) { c.IomapSupport, c.OnIoctl = 0, ioctl(0) }, no: "does not allow it"},
		{name: "no file data", minor: 99, edit: func(c *fusetest.Config) { c.IomapSupport = fuse.IomapSupportAtomic }, no: "does not allow it"},
		{name: "old", minor: 31, no: "7.31"},
		{name: "before the bit", minor: 45, no: "7.45"},
		{name: "mainline", minor: 46, no: "7.46"},
		{name: "mainline, claimed", minor: 46, ops: chooser{take: true}, no: "7.46"},
		{name: "later", minor: 98, no: "7.98"},
		{name: "beyond", minor: 100, no: "7.100"},
		{name: "beyond, another named", minor: 100, edit: func(c *fusetest.Config) { c.Options.IomapMinor = 101 }, no: "7.100"},
		{name: "beyond, named", minor: 101, edit: func(c *fusetest.Config) { c.Options.IomapMinor = 101 }},
		{name: "named, but the usual one", minor: 99, edit: func(c *fusetest.Config) { c.Options.IomapMinor = 101 }},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := iomapConfig()
			cfg.Minor = c.minor
			if c.edit != nil {
				c.edit(&cfg)
			}
			k := fusetest.Start(t, c.ops, cfg)
			p := k.Session.Protocol()
			if !strings.Contains(p.NoIomap, c.no) || (p.NoIomap == "") != (c.no == "") {
				t.Errorf("not in use because %q, want %q", p.NoIomap, c.no)
			}
			minor, bit := min(c.minor, 46), fuse.InitFlags(0)
			if c.no == "" {
				minor, bit = 99, 1<<43
			}
			out := k.Protocol
			if p.Iomap != (c.no == "") || p.Minor != minor || out.Minor != minor || out.InitFlags()>>43<<43 != bit {
				t.Errorf("in use: %v, answer %+v", p.Iomap, out)
			}
			if p.KernelMinor != c.minor {
				t.Errorf("the kernel's version is 7.%d", p.KernelMinor)
			}
			if c.name == "all" && p.IomapSupport != all {
				t.Errorf("support %#x", p.IomapSupport)
			}
			if err := k.Session.UpsertMappings(&fuse.IomapUpsertMappings{}); (err == nil) != (c.no == "") || err != nil && !errors.Is(err, syscall.ENOSYS) {
				t.Errorf("UPSERT: %v", err)
			}
		})
	}
	for _, minor := range []uint32{1, 46, 98, 99} {
		p := fuse.Params{Iomap: true, IomapMinor: minor}
		if _, err := fuse.NewSession(newMemfs(), nil, fuse.Options{Params: p}); !errors.Is(err, syscall.EINVAL) {
			t.Errorf("7.%d in the place of 7.99: %v", minor, err)
		}
	}
}

// TestIomapNoIoctls: a transport without ioctls is a kernel without the extension.
func TestIomapNoIoctls(t *testing.T) {
	s, err := fuse.NewSession(chooser{}, mute{}, iomapConfig().Options)
	if err != nil {
		t.Fatal(err)
	}
	in := fuse.InitIn{Major: 7, Minor: 99, Flags: uint32(fuse.InitExt), Flags2: 1 << 11}
	h := fuse.InHeader{Len: 104, Opcode: fuse.OpInit, Unique: 2}
	reply := fuse.Reply{Header: make([]byte, fuse.OutHeaderSize), Payload: make([]byte, s.PayloadSize())}
	if _, ok := s.NewWorker().Handle(append(fusetest.Bytes(&h), fusetest.Bytes(&in)...), reply); !ok {
		t.Fatal("no answer to INIT")
	}
	if p := s.Protocol(); p == nil || p.Iomap || !strings.Contains(p.NoIomap, "does not have it") {
		t.Errorf("%+v", p)
	}
	if _, err := s.OpenBacking(3); !errors.Is(err, syscall.ENOTTY) {
		t.Errorf("OpenBacking: %v", err)
	}
}

// mute is a transport that only exists.
type mute struct{}

func (mute) Serve(context.Context, *fuse.Session) error { return nil }
func (mute) Notify(...[]byte) error                     { return nil }

// TestIomapIoctls: requests to the device arrive as they are to be, and what the kernel says comes back.
func TestIomapIoctls(t *testing.T) {
	iomapLinks(t, func(t *testing.T, cfg fusetest.Config) {
		var got []string
		answer, errno := 7, syscall.Errno(0)
		cfg.OnIoctl = func(cmd uint32, arg []byte) (int, syscall.Errno) {
			got = append(got, ioctlText(cmd, arg))
			return answer, errno
		}
		k := fusetest.Start(t, chooser{}, cfg)
		got = nil // how readers prepare themselves is not the point here
		if id, err := k.Session.OpenBacking(5); err != nil || id != 7 {
			t.Errorf("OpenBacking: %d, %v", id, err)
		}
		if err := k.Session.SetBackingBlocksize(7, 4096); err != nil {
			t.Errorf("SetBackingBlocksize: %v", err)
		}
		want := "4010e501:05000000010000000000000000000000 4008e566:0700000000100000"
		if s := strings.Join(got, " "); s != want {
			t.Errorf("ioctls %s, want %s", s, want)
		}
		errno = syscall.ENODEV
		if id, err := k.Session.OpenBacking(5); id != 0 || !errors.Is(err, syscall.ENODEV) {
			t.Errorf("OpenBacking: %d, %v", id, err)
		}
		if err := k.Session.SetBackingBlocksize(7, 4096); !errors.Is(err, syscall.ENODEV) {
			t.Errorf("SetBackingBlocksize: %v", err)
		}
	})
}

func ioctlText(cmd uint32, arg []byte) string { return fmt.Sprintf("%x:%x", cmd, arg) }

// TestIomapNotify: the notifications have the bytes of the protocol, and the kernel's verdict is their
// result.
func TestIomapNotify(t *testing.T) {
	iomapLinks(t, func(t *testing.T, cfg fusetest.Config) {
		var mu sync.Mutex
		var got string
		var answer syscall.Errno
		cfg.OnNotify = func(code int32, payload []byte) syscall.Errno {
			mu.Lock()
			defer mu.Unlock()
			got = fmt.Sprintf("%d:%x", code, payload)
			return answer
		}
		k := fusetest.Start(t, chooser{}, cfg)
		slot := func(typ byte) fuse.IomapIO {
			return fuse.IomapIO{Offset: 0x11, Length: 0x12, Addr: 0x13, Type: 2, Flags: 0x100 + 4, Dev: uint32(typ)}
		}
		const slotBytes = "110000000000000012000000000000001300000000000000" + "02000401"
		for _, c := range []struct {
			name string
			send func() error
			want string
			fine []syscall.Errno // besides success
		}{
			{"UPSERT", func() error {
				return k.Session.UpsertMappings(&fuse.IomapUpsertMappings{NodeID: 1, Ino: 2, Read: slot(3), Write: slot(4)})
			}, "100:01000000000000000200000000000000" + slotBytes + "03000000" + slotBytes + "04000000", nil},
			{"INVAL", func() error {
				return k.Session.InvalMappings(&fuse.IomapInvalMappings{NodeID: 1, Ino: 2, Read: fuse.IomapRange{Offset: 3, Length: fuse.IomapInvalToEOF}, Write: fuse.IomapRange{Offset: 5}})
			}, "101:01000000000000000200000000000000" + "0300000000000000ffffffffffffffff" + "05000000000000000000000000000000",
				[]syscall.Errno{syscall.ENOENT, syscall.ESTALE}},
			{"DEV_INVAL", func() error {
				return k.Session.InvalDevice(&fuse.IomapDevInval{Dev: 1, Range: fuse.IomapRange{Offset: 2, Length: 3}})
			}, "99:0100000000000000" + "02000000000000000300000000000000", nil},
		} {
			for _, errno := range []syscall.Errno{0, syscall.ESTALE, syscall.ENOENT, syscall.EINVAL, syscall.EUCLEAN, syscall.ENOMEM, syscall.EIO} {
				mu.Lock()
				answer = errno
				mu.Unlock()
				err := c.send()
				want := error(errno)
				if errno == 0 || slices.Contains(c.fine, errno) {
					want = nil
				}
				if !errors.Is(err, want) || (err == nil) != (want == nil) {
					t.Errorf("%s answered with %v: %v", c.name, errno, err)
				}
				mu.Lock()
				if got != c.want {
					t.Errorf("%s is\n%s, want\n%s", c.name, got, c.want)
				}
				mu.Unlock()
			}
		}
	})
}

// upserter pushes a mapping before it answers BEGIN.
type upserter struct {
	fuse.Unimplemented
	errs chan error
}

func (u upserter) IomapBegin(r *fuse.Request, in *fuse.IomapBeginIn, out *fuse.IomapBeginOut) syscall.Errno {
	u.errs <- r.Session().UpsertMappings(&fuse.IomapUpsertMappings{NodeID: r.NodeID, Ino: in.Ino})
	return 0
}

// TestIomapUpsert: the verdict on a notification is there before the operation goes on, and the kernel
// may wait for other requests before it gives it.
func TestIomapUpsert(t *testing.T) {
	iomapLinks(t, func(t *testing.T, cfg fusetest.Config) {
		var k *fusetest.Kernel
		cfg.OnNotify = func(code int32, payload []byte) syscall.Errno {
			if _, err := k.IomapIoend(5, fuse.IomapIoendIn{}); err != syscall.ENOSYS {
				t.Errorf("IOEND in a notification: %v", err)
			}
			return syscall.ESTALE
		}
		u := upserter{errs: make(chan error, 1)}
		k = fusetest.Start(t, u, cfg)
		configure(t, k)
		for range 100 {
			c := k.Go(fuse.OpIomapBegin, 5, fusetest.Bytes(&fuse.IomapBeginIn{}))
			if err := <-u.errs; !errors.Is(err, syscall.ESTALE) {
				t.Errorf("UPSERT: %v", err)
			}
			if err := c.Wait().Err(); err != nil {
				t.Errorf("BEGIN: %v", err)
			}
		}
	})
}
