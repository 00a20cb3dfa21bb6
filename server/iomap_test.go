package server_test

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"unsafe"

	"ext4box/blockdev/blocktest"
	"ext4box/ext4"
	"ext4box/fuse"
	"ext4box/fuse/fusetest"
	"ext4box/internal/e2test"
	"ext4box/iomap"
	"ext4box/server"
)

// The device of the tests: a descriptor that only the kernel looks at, the number that the kernel gives
// it, and where on it the filesystem begins.
const (
	backingFD     = 77
	backingDev    = 5
	backingOffset = 1 << 20
)

// bare is a filesystem behind the kernel of fusetest, which has fuse-iomap but no page cache: requests are
// made by the test, and what the server tells the kernel is checked for what every kernel rejects.
type bare struct {
	*fusetest.Kernel
	tb   testing.TB
	fs   *ext4.FS
	srv  *server.Server
	dev  *blocktest.Counting
	path string
	log  *bytes.Buffer
	cfg  fuse.IomapConfigOut

	mu      sync.Mutex
	ioctls  []string
	upserts []fuse.IomapUpsertMappings
	invals  []fuse.IomapInvalMappings
	refuse  syscall.Errno // what upserts are answered with
}

// bareConfig says what to serve, and what kernel does it.
type bareConfig struct {
	size    int64 // of the image; 0: 16 MiB
	mke2fs  []string
	prepare func(*testing.T, *ext4.FS) // makes files
	debugfs []string
	options func(*server.Options)
	kernel  func(*fusetest.Config)
	wrap    func(fuse.Operations) fuse.Operations // what the kernel sees of the server
	ioctl   func(cmd uint32) syscall.Errno        // fails an ioctl
	uid     uint32
	early   bool // leaves CONFIG to the test
}

// serveBare makes an image and serves it.
func serveBare(t *testing.T, c bareConfig) *bare {
	t.Helper()
	b, err := connectBare(t, c)
	if err != nil {
		t.Fatal(err)
	}
	if !c.early {
		if b.cfg, err = b.IomapConfig(fuse.IomapConfigIn{Flags: 1<<7 - 1, Maxbytes: 1<<63 - 1, CacheMaxbytes: 256 << 10}); err != nil {
			t.Fatalf("CONFIG: %v", err)
		}
	}
	return b
}

func connectBare(t *testing.T, c bareConfig) (*bare, error) {
	t.Helper()
	args := c.mke2fs
	if args == nil {
		args = []string{"-t", "ext4", "-b", "4096"}
	}
	if c.size == 0 {
		c.size = 16 << 20
	}
	b := &bare{tb: t, path: e2test.Image(t, c.size, args...), log: new(bytes.Buffer)}
	if len(c.debugfs) > 0 {
		e2test.Change(t, b.path, c.debugfs...)
	}
	mem, err := blocktest.LoadMem(b.path)
	if err != nil {
		t.Fatal(err)
	}
	b.dev = blocktest.NewCounting(mem, 4096)
	if b.fs, err = ext4.Open(b.dev, ext4.Options{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.fs.Close() })
	if why := b.fs.ReadOnlyReason(); why != "" {
		t.Fatal(why)
	}
	if c.prepare != nil {
		c.prepare(t, b.fs)
	}
	o := server.Options{
		Logger: slog.New(slog.NewTextHandler(b.log, nil)),
		Iomap: server.Iomap{
			Mode: server.IomapAuto, Device: backingFD, Name: "loop7", Offset: backingOffset,
			SectorSize: 512, AtomicMin: 512, AtomicMax: 16384,
		},
	}
	if c.options != nil {
		c.options(&o)
	}
	b.srv = server.New(b.fs, o)
	k := fusetest.Config{
		Minor: fuse.IomapMinor, IomapSupport: fuse.IomapSupportFileIO | fuse.IomapSupportAtomic, UID: c.uid,
		OnNotify: b.notified,
		OnIoctl: func(cmd uint32, arg []byte) (int, syscall.Errno) {
			if c.ioctl != nil {
				if errno := c.ioctl(cmd); errno != 0 {
					return 0, errno
				}
			}
			return b.ioctl(cmd, arg)
		},
	}
	k.Options.Params = b.srv.Params()
	if c.kernel != nil {
		c.kernel(&k)
	}
	var ops fuse.Operations = b.srv
	if c.wrap != nil {
		ops = c.wrap(ops)
	}
	if b.Kernel, err = fusetest.Connect(ops, k); err != nil {
		return b, err
	}
	t.Cleanup(func() { b.Unmount() })
	return b, nil
}

func (b *bare) ioctl(cmd uint32, arg []byte) (int, syscall.Errno) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch cmd {
	case fuse.DevIocBackingOpen:
		m := fusetest.Value[fuse.BackingMap](arg)
		b.ioctls = append(b.ioctls, fmt.Sprintf("open fd %d as %d", m.FD, m.Flags))
		return backingDev, 0
	case fuse.DevIocIomapSetBlocksize:
		m := fusetest.Value[fuse.IomapBackingInfo](arg)
		b.ioctls = append(b.ioctls, fmt.Sprintf("blocks of device %d have %d", m.ID, m.Blocksize))
		return 0, 0
	}
	return 0, syscall.ENOTTY
}

func (b *bare) notified(code int32, payload []byte) syscall.Errno {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch code {
	case fuse.NotifyIomapUpsertMappings:
		m := fusetest.Value[fuse.IomapUpsertMappings](payload)
		b.upserts = append(b.upserts, m)
		if m.NodeID != m.Ino && m.Ino != 2 {
			b.tb.Errorf("upsert for node %d as inode %d", m.NodeID, m.Ino)
		}
		b.check(&m.Read, "upsert")
		b.check(&m.Write, "upsert")
		return b.refuse
	case fuse.NotifyIomapInvalMappings:
		m := fusetest.Value[fuse.IomapInvalMappings](payload)
		b.invals = append(b.invals, m)
		for _, r := range []fuse.IomapRange{m.Read, m.Write} {
			if r.Offset%4096 != 0 || r.Length%4096 != 0 && r.Length != fuse.IomapInvalToEOF || int64(r.Offset) >= b.cfg.Maxbytes {
				b.tb.Errorf("invalidation of %+v", r)
			}
		}
	}
	return 0
}

// check is the validation of a slot by a kernel.
func (b *bare) check(m *fuse.IomapIO, in string) {
	b.tb.Helper()
	bs := uint64(b.cfg.Blocksize)
	bad := func(why string) { b.tb.Helper(); b.tb.Errorf("%s: %+v: %s", in, *m, why) }
	switch {
	case m.Flags&^0xFF != 0:
		bad("unknown flags")
	case m.Length == 0 || m.Offset%bs != 0 || m.Length%bs != 0:
		bad("not blocks")
	case m.Offset+m.Length < m.Offset || m.Offset >= uint64(b.cfg.Maxbytes):
		bad("no range of a file")
	case m.Type == iomap.Mapped || m.Type == iomap.Unwritten:
		if m.Dev != backingDev || m.Addr == fuse.IomapNullAddr || m.Addr < backingOffset || m.Addr+m.Length > backingOffset+uint64(b.dev.Size()) {
			bad("no place on the device")
		}
	case m.Dev != 0 || m.Addr != fuse.IomapNullAddr:
		bad("has a place")
	case m.Type > iomap.Inline && m.Flags != 0:
		bad("flags of no mapping")
	case m.Type == iomap.Inline && (m.Offset != 0 || m.Length != bs):
		bad("inline data is in the first block")
	}
}

// begin asks for a mapping and checks the answer. It returns the mapping that counts: the one in the
// answer, or the last one that was put into the cache.
func (b *bare) begin(nodeid, pos, count uint64, op iomap.Op) (m fuse.IomapIO, cached bool, err error) {
	b.tb.Helper()
	b.mu.Lock()
	before := len(b.upserts)
	b.mu.Unlock()
	out, err := b.IomapBegin(nodeid, fuse.IomapBeginIn{Op: op, Ino: nodeid, Pos: pos, Count: count})
	if err != nil {
		return m, false, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	in := fmt.Sprintf("BEGIN %#x at %d", op, pos)
	b.check(&out.Read, in)
	b.check(&out.Write, in)
	want := fuse.IomapIO{Offset: out.Read.Offset, Length: out.Read.Length, Addr: fuse.IomapNullAddr, Type: fuse.IomapPureOverwrite}
	if out.Write != want {
		b.tb.Errorf("%s: write slot %+v", in, out.Write)
	}
	if pos < out.Read.Offset || pos-out.Read.Offset >= out.Read.Length {
		b.tb.Errorf("%s: answer %+v", in, out.Read)
	}
	if out.Read.Type != fuse.IomapRetryCache {
		if out.Read.Type > iomap.Inline {
			b.tb.Errorf("%s: type %d", in, out.Read.Type)
		}
		return out.Read, false, nil
	}
	if op&(iomap.Atomic|iomap.SwapFile) != 0 {
		b.tb.Errorf("%s: look into the cache, which is not used", in)
	}
	put := b.upserts[before:]
	i := slices.IndexFunc(put, func(m fuse.IomapUpsertMappings) bool {
		return m.NodeID == nodeid && m.Read.Offset <= pos && pos-m.Read.Offset < m.Read.Length
	})
	if i < 0 || b.refuse != 0 {
		b.tb.Fatalf("%s: look into the cache, where nothing was put", in)
	}
	up := put[i]
	if up.Read.Offset != out.Read.Offset || up.Read.Length != out.Read.Length {
		b.tb.Errorf("%s: %+v was put, the answer is %+v", in, up.Read, out.Read)
	}
	filler := fuse.IomapIO{Offset: up.Read.Offset, Length: up.Read.Length, Addr: fuse.IomapNullAddr, Type: fuse.IomapNoCache}
	if up.Write != filler {
		b.tb.Errorf("%s: write fork %+v", in, up.Write)
	}
	if op.Stores() && up.Read.Type == iomap.Hole {
		b.tb.Errorf("%s: a hole for data", in)
	}
	return up.Read, true, nil
}

// node looks a name in the root directory up.
func (b *bare) node(name string) fuse.EntryOut {
	b.tb.Helper()
	e, err := b.Lookup(1, name)
	if err != nil || e.NodeID == 0 {
		b.tb.Fatalf("%s: %+v, %v", name, e, err)
	}
	return e
}

// ioend reports data as written, and returns the recorded size.
func (b *bare) ioend(nodeid, pos, n uint64, flags fuse.IoendFlags) uint64 {
	b.tb.Helper()
	out, err := b.IomapIoend(nodeid, fuse.IomapIoendIn{Flags: flags, Ino: nodeid, Pos: pos, Written: n, NewAddr: fuse.IomapNullAddr})
	if err != nil {
		b.tb.Fatalf("IOEND %d+%d: %v", pos, n, err)
	}
	return out.Newsize
}

// finish unmounts and has the image judged.
func (b *bare) finish(t *testing.T) {
	t.Helper()
	if err := b.Unmount(); err != nil {
		t.Error(err)
	}
	if err := b.fs.Close(); err != nil {
		t.Error(err)
	}
	if err := blocktest.Dump(b.dev, b.dev.Size(), b.path); err != nil {
		t.Fatal(err)
	}
	e2test.Output(t, "e2fsck", "-fn", b.path)
}

// someFiles makes a file of each kind of backing, as far as the filesystem has them: "file" has 10,000 bytes,
// "sparse" a block at 1 MiB and 2 MiB in all, "unwritten" 64 KiB of preallocated space, and "small" and "empty".
func someFiles(t *testing.T, fs *ext4.FS) {
	t.Helper()
	make := func(name string) ext4.Ino {
		ino, err := fs.Create(ext4.RootIno, name, ext4.NewNode{Mode: syscall.S_IFREG | 0o644})
		if err != nil {
			t.Fatal(err)
		}
		return ino
	}
	write := func(ino ext4.Ino, off int64, n int) {
		if _, err := fs.WriteAt(ino, bytes.Repeat([]byte{'x'}, n), off); err != nil {
			t.Fatal(err)
		}
	}
	write(make("file"), 0, 10000)
	sparse := make("sparse")
	write(sparse, 1<<20, 4096)
	if err := fs.Truncate(sparse, 2<<20); err != nil {
		t.Fatal(err)
	}
	if err := fs.Fallocate(make("unwritten"), 0, 0, 64<<10); err != nil && err != syscall.EOPNOTSUPP {
		t.Fatal(err)
	}
	write(make("small"), 0, 20)
	make("empty")
	if _, err := fs.Create(ext4.RootIno, "dir", ext4.NewNode{Mode: syscall.S_IFDIR | 0o755}); err != nil {
		t.Fatal(err)
	}
	if err := fs.Sync(); err != nil {
		t.Fatal(err)
	}
}

func TestIomapConfig(t *testing.T) {
	const all = fuse.IomapConfigFlags(1<<7 - 1)
	for name, c := range map[string]struct {
		mke2fs []string
		in     fuse.IomapConfigIn
		want   func(*fuse.IomapConfigOut)
	}{
		"everything": {nil, fuse.IomapConfigIn{Flags: all, Maxbytes: 1<<63 - 1}, func(o *fuse.IomapConfigOut) {
			o.Flags = fuse.IomapConfigSID | fuse.IomapConfigUUID | fuse.IomapConfigBlocksize | fuse.IomapConfigTime | fuse.IomapConfigMaxbytes
			copy(o.SID[:], "loop7")
			hex.Decode(o.UUID[:], []byte("0123456789abcdef0123456789abcdef"))
			o.UUIDLen, o.Blocksize, o.TimeGran, o.TimeMin, o.TimeMax = 16, 4096, 1, -1<<31, 1<<34-1<<31-1
			o.Maxbytes = (1<<32 - 1) << 12
		}},
		"nothing": {nil, fuse.IomapConfigIn{Maxbytes: 1<<63 - 1}, func(o *fuse.IomapConfigOut) {}},
		"a later kernel": {nil, fuse.IomapConfigIn{Flags: ^all | fuse.IomapConfigBlocksize}, func(o *fuse.IomapConfigOut) {
			o.Flags, o.Blocksize = fuse.IomapConfigBlocksize, 4096
		}},
		"small files": {nil, fuse.IomapConfigIn{Flags: fuse.IomapConfigMaxbytes, Maxbytes: 1 << 31}, func(o *fuse.IomapConfigOut) {
			o.Flags, o.Maxbytes = fuse.IomapConfigMaxbytes, 1<<31
		}},
		"small inodes": {[]string{"-t", "ext3", "-b", "1024", "-I", "128"}, fuse.IomapConfigIn{Flags: fuse.IomapConfigTime | fuse.IomapConfigBlocksize}, func(o *fuse.IomapConfigOut) {
			o.Flags, o.Blocksize = fuse.IomapConfigTime|fuse.IomapConfigBlocksize, 1024
			o.TimeGran, o.TimeMin, o.TimeMax = 1e9, -1<<31, 1<<31-1
		}},
	} {
		t.Run(name, func(t *testing.T) {
			if c.mke2fs == nil {
				c.mke2fs = []string{"-t", "ext4", "-b", "4096", "-U", "01234567-89ab-cdef-0123-456789abcdef"}
			}
			chosen := 0
			b := serveBare(t, bareConfig{mke2fs: c.mke2fs, early: true, options: func(o *server.Options) {
				o.Iomap.Chosen = func(c server.Choice) {
					if chosen++; c != (server.Choice{Iomap: true, Path: "fuse-iomap, device loop7"}) {
						t.Errorf("chosen: %+v", c)
					}
				}
			}})
			if b.Protocol.Minor != fuse.IomapMinor || b.Protocol.InitFlags()&fuse.InitHandleKillprivV2 == 0 || b.srv.DataPath() != "" {
				t.Errorf("before CONFIG: %+v, %q", b.Protocol, b.srv.DataPath())
			}
			out, err := b.IomapConfig(c.in)
			var want fuse.IomapConfigOut
			c.want(&want)
			if err != nil || out != want {
				t.Errorf("%+v, %v\nwant %+v", out, err, want)
			}
			if want := []string{"open fd 77 as 1", fmt.Sprintf("blocks of device 5 have %d", b.fs.Info().BlockSize)}; !slices.Equal(b.ioctls, want) {
				t.Errorf("ioctls: %q", b.ioctls)
			}
			if _, err := b.IomapConfig(c.in); err == nil || chosen != 1 || len(b.ioctls) != 2 {
				t.Errorf("again: %v, chosen %d times, %q", err, chosen, b.ioctls)
			}
		})
	}
	if n := unsafe.Sizeof(fuse.IomapConfigOut{}); n != 104 {
		t.Errorf("the reply has %d bytes", n)
	}
}

// TestIomapFallback has every reason for which data goes through the server after all.
func TestIomapFallback(t *testing.T) {
	fail := func(cmd uint32, errno syscall.Errno) func(uint32) syscall.Errno {
		return func(c uint32) syscall.Errno {
			if c == cmd {
				return errno
			}
			return 0
		}
	}
	stock := func(k *fusetest.Config) { k.Minor, k.IomapSupport = 46, 0 }
	for name, c := range map[string]struct {
		cfg    bareConfig
		asked  bool // CONFIG comes
		reason string
	}{
		"off":                     {bareConfig{options: func(o *server.Options) { o.Iomap.Mode = server.IomapOff }}, false, "iomap=off"},
		"no device":               {bareConfig{options: func(o *server.Options) { o.Iomap.Device = -1 }}, false, "no block device"},
		"no device, for a reason": {bareConfig{options: func(o *server.Options) { o.Iomap.Device, o.Iomap.NoDevice = -1, "no loop" }}, false, "no loop"},
		"crooked window":          {bareConfig{options: func(o *server.Options) { o.Iomap.Offset = 100 }}, false, "inside a sector"},
		"stock kernel":            {bareConfig{kernel: stock}, false, "7.46"},
		"no block device":         {bareConfig{ioctl: fail(fuse.DevIocBackingOpen, syscall.ENODEV)}, true, "register the device"},
		"no such blocks":          {bareConfig{ioctl: fail(fuse.DevIocIomapSetBlocksize, syscall.EINVAL)}, true, "block size of the device"},
	} {
		t.Run(name, func(t *testing.T) {
			c.cfg.prepare, c.cfg.early = someFiles, true
			b := serveBare(t, c.cfg)
			if got := b.Protocol.Minor == fuse.IomapMinor; got != c.asked {
				t.Errorf("INIT is answered with 7.%d", b.Protocol.Minor)
			}
			warnings := 0
			if c.asked {
				warnings = 1
				out, err := b.IomapConfig(fuse.IomapConfigIn{Flags: 1<<7 - 1, Maxbytes: 1<<63 - 1})
				if err != nil || out != (fuse.IomapConfigOut{}) {
					t.Errorf("CONFIG: %+v, %v", out, err)
				}
			}
			if p := b.srv.DataPath(); !strings.HasPrefix(p, "through the server: ") || !strings.Contains(p, c.reason) {
				t.Errorf("path %q", p)
			}
			if got := strings.Count(b.log.String(), "level=WARN"); got != warnings || strings.Count(b.log.String(), "data: through the server") != 1 {
				t.Errorf("%d warnings in %s", got, b.log)
			}
			// As ever.
			e := b.node("file")
			if e.Attr.Flags != 0 {
				t.Errorf("flags %#x", e.Attr.Flags)
			}
			if _, err := b.Open(e.NodeID, syscall.O_RDWR); err != syscall.ENOSYS {
				t.Errorf("OPEN: %v", err)
			}
			if n, err := b.Write(e.NodeID, 5000, []byte("hello")); n != 5 || err != nil {
				t.Errorf("WRITE: %d, %v", n, err)
			}
			if got, err := b.Read(e.NodeID, 5000, 5); string(got) != "hello" || err != nil {
				t.Errorf("READ: %q, %v", got, err)
			}
			if _, err := b.IomapBegin(e.NodeID, fuse.IomapBeginIn{Ino: e.NodeID, Count: 1}); err != syscall.ENOSYS {
				t.Errorf("BEGIN: %v", err)
			}
			b.finish(t)
		})
	}
	t.Run("replayed in memory", func(t *testing.T) {
		mem := crashed(t)
		fs, err := ext4.Open(mem, ext4.Options{ReadOnly: true})
		if err != nil {
			t.Fatal(err)
		}
		defer fs.Close()
		s := server.New(fs, server.Options{Iomap: server.Iomap{Mode: server.IomapAuto, Device: backingFD}})
		if s.Params().Iomap {
			t.Error("the kernel is asked to read from where old data is")
		}
	})
}

// crashed is an image with something in its journal.
func crashed(t *testing.T) *blocktest.Mem {
	t.Helper()
	mem, err := blocktest.LoadMem(e2test.Image(t, 16<<20, "-t", "ext4", "-b", "4096"))
	if err != nil {
		t.Fatal(err)
	}
	fs, err := ext4.Open(mem, ext4.Options{})
	if err != nil {
		t.Fatal(err)
	}
	someFiles(t, fs)
	if err := fs.Shutdown(true); err != nil {
		t.Fatal(err)
	}
	fs.Close()
	return mem
}

// TestIomapRequired: iomap=on fails the mount where auto goes on without.
func TestIomapRequired(t *testing.T) {
	var path string
	var refused error
	on := func(o *server.Options) {
		o.Iomap.Mode = server.IomapOn
		o.Iomap.Chosen = func(c server.Choice) {
			if path, refused = c.Path, c.Err; c.Iomap {
				t.Errorf("chosen: %+v", c)
			}
		}
	}
	_, err := connectBare(t, bareConfig{options: on, kernel: func(k *fusetest.Config) { k.Minor, k.IomapSupport = 46, 0 }})
	if err == nil || refused == nil || !strings.Contains(refused.Error(), "7.46") || !strings.Contains(path, "7.46") {
		t.Errorf("a stock kernel: %v; %q, %v", err, path, refused)
	}
	refused = nil
	b := serveBare(t, bareConfig{options: on, early: true, ioctl: func(uint32) syscall.Errno { return syscall.EPERM }})
	if _, err := b.IomapConfig(fuse.IomapConfigIn{}); err != syscall.EOPNOTSUPP || refused == nil || !strings.Contains(refused.Error(), "register the device") {
		t.Errorf("no device: %v, %v", err, refused)
	}
	refused = nil
	_, err = connectBare(t, bareConfig{options: func(o *server.Options) { on(o); o.Iomap.Device, o.Iomap.NoDevice = -1, "no loop" }})
	if err == nil || refused == nil || !strings.Contains(refused.Error(), "no loop") {
		t.Errorf("nothing to register: %v, %v", err, refused)
	}
}

// countLines counts the lines that contain something.
func countLines(s, part string) int {
	n := 0
	for line := range strings.Lines(s) {
		if strings.Contains(line, part) {
			n++
		}
	}
	return n
}
