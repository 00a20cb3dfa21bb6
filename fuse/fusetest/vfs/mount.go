package vfs

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"ext4box/fuse"
	"ext4box/fuse/fusetest"
)

// allFlags is what the kernel offers.
const allFlags = fusetest.AllFlags | fuse.InitIomap

// FS is a mounted filesystem. Its methods are system calls and may be called concurrently.
type FS struct {
	*Task // of Config.UID and GID

	tb    testing.TB
	cfg   Config
	k     *fusetest.Kernel
	trace trace
	holds holds

	// What INIT and IOMAP_CONFIG settled; constant afterwards.
	init      fuse.InitOut
	flags     fuse.InitFlags // granted
	iomap     bool
	blocksize uint64 // of every inode
	maxbytes  uint64
	maxLinks  uint32
	timeGran  uint32

	cacheLimit atomic.Uint32 // bytes of mappings per fork
	sizes      atomic.Uint64 // counts changes of what servers must have recorded, of any inode
	dead       atomic.Bool   // the connection is in error state
	writers    sync.RWMutex  // sb_writers: held shared by what changes the filesystem, exclusively while frozen
	released   sync.WaitGroup
	renames    sync.Mutex // s_vfs_rename_mutex: held by renames between directories, outside of their locks
	names      dentries
	hostOnce   sync.Once
	hostDir    string // of nodes that stand for devices and pipes

	mu         sync.Mutex
	nosys      map[fuse.Opcode]bool // answered with ENOSYS
	violations []string
	expected   []*expectation
	over       bool // the test has ended
	devices    []*backing
	inodes     map[uint64]*inode // by nodeid
	inos       map[uint64]uint64 // nodeid by inode number
	open       int               // files
	root       *inode
}

// Mount mounts a server. Its failure ends the test, whose end unmounts.
func Mount(tb testing.TB, ops fuse.Operations, cfg Config) *FS {
	tb.Helper()
	fs, err := TryMount(tb, ops, cfg)
	if err != nil {
		tb.Fatal(err)
	}
	return fs
}

// TryMount is Mount for tests of what fails.
func TryMount(tb testing.TB, ops fuse.Operations, cfg Config) (*FS, error) {
	fs := &FS{
		tb: tb, cfg: cfg.withDefaults(), nosys: map[fuse.Opcode]bool{},
		inodes: map[uint64]*inode{}, inos: map[uint64]uint64{},
	}
	fs.Task = fs.As(Cred{UID: cfg.UID, GID: cfg.GID})
	for _, part := range cfg.Expect {
		fs.Expect(part)
	}
	kc := fusetest.Config{
		Minor: fuse.IomapMinor, Flags: fs.cfg.Flags, Socket: cfg.Socket, Options: cfg.Options, UID: cfg.UID, GID: cfg.GID,
		NoInit: true, OnNotify: fs.notified, OnIoctl: fs.ioctl, IomapSupport: fuse.IomapSupportFileIO | fuse.IomapSupportAtomic,
	}
	if cfg.NoIomap {
		kc.IomapSupport = 0
	}
	if cfg.Classic {
		kc.Minor, kc.IomapSupport, kc.OnIoctl = fuse.MaxMinor, 0, nil
	}
	k, err := fusetest.Connect(ops, kc)
	if err != nil {
		return nil, err
	}
	fs.k = k
	if err := fs.start(); err != nil {
		fs.dead.Store(true)
		fs.close()
		return nil, errors.Join(err, k.Unmount())
	}
	tb.Cleanup(func() {
		if err := fs.end(); err != nil {
			tb.Errorf("unmount: %v", err)
		}
	})
	return fs, nil
}

// start does INIT, IOMAP_CONFIG and makes the root.
func (fs *FS) start() error {
	// The kernel makes the root before any request, without flags.
	fs.root = fs.newInode(fs.cfg.RootNodeID, 0, syscall.S_IFDIR, 0)
	fs.root.refs, fs.root.nlookup = 1, 1
	fs.inodes[fs.root.nodeid] = fs.root

	if err := fs.k.Init(); err != nil {
		return err
	}
	fs.init = fs.k.Protocol
	fs.tamper(&Message{Op: fuse.OpInit, Payload: structure(&fs.init)})
	fs.flags = fs.init.InitFlags()
	fs.blocksize, fs.maxbytes, fs.timeGran = uint64(fs.cfg.PageSize), uint64(fs.cfg.Maxbytes), max(fs.init.TimeGran, 1)
	fs.cacheLimit.Store(fs.cfg.CacheLimit)
	if fs.cfg.Classic && fs.flags&fuse.InitIomap != 0 {
		fs.violate("INIT: bit 43 comes back, which is another feature in 7.%d", fuse.MaxMinor)
		fs.flags &^= fuse.InitIomap
	}
	if fs.flags&fuse.InitIomap == 0 {
		return nil
	}
	switch {
	case fs.cfg.Flags&fuse.InitIomap == 0:
		fs.violate("INIT: fuse-iomap was accepted, but not offered")
		return nil
	case fs.init.Minor < fuse.IomapMinor:
		fs.violate("INIT: fuse-iomap was accepted with minor %d: no inode can use it", fs.init.Minor)
	}
	fs.iomap = true
	return fs.configure()
}

// configure does IOMAP_CONFIG.
func (fs *FS) configure() error {
	in := fuse.IomapConfigIn{
		Flags:    configKnown,
		Maxbytes: fs.cfg.Maxbytes, CacheMaxbytes: fs.cfg.CacheLimit,
	}
	payload, errno := fs.request(kernelTask, fuse.OpIomapConfig, 0, structure(&in))
	if errno == syscall.ENOSYS {
		return nil
	}
	if errno != 0 {
		return fmt.Errorf("IOMAP_CONFIG: %w", errno)
	}
	out := decode[fuse.IomapConfigOut](payload)
	if why := fs.checkConfig(payload, &out); why != "" {
		fs.violate("IOMAP_CONFIG: %s", why)
		return fmt.Errorf("IOMAP_CONFIG: %s: %w", why, syscall.EINVAL)
	}
	if out.Flags&fuse.IomapConfigBlocksize != 0 {
		fs.blocksize = uint64(out.Blocksize)
	}
	if out.Flags&fuse.IomapConfigMaxbytes != 0 {
		fs.maxbytes = uint64(out.Maxbytes)
	}
	if out.Flags&fuse.IomapConfigMaxLinks != 0 {
		fs.maxLinks = out.MaxLinks
	}
	if out.Flags&fuse.IomapConfigTime != 0 {
		fs.timeGran = max(out.TimeGran, 1)
	}
	if out.Flags&fuse.IomapConfigCacheMaxbytes != 0 && out.CacheMaxbytes != 0 {
		fs.cacheLimit.Store(min(max(out.CacheMaxbytes, 256), 2<<20))
	}
	for _, b := range fs.devices {
		if b.blocksize != fs.blocksize {
			fs.violate("device %d has blocks of %d bytes, the filesystem of %d: its page cache would mix data with metadata",
				b.id, b.blocksize, fs.blocksize)
		}
	}
	return nil
}

// configKnown are the fields that the kernel knows.
const configKnown = fuse.IomapConfigSID | fuse.IomapConfigUUID | fuse.IomapConfigBlocksize | fuse.IomapConfigMaxLinks |
	fuse.IomapConfigTime | fuse.IomapConfigMaxbytes | fuse.IomapConfigCacheMaxbytes

// maxBlocksize is the largest block of a filesystem.
const maxBlocksize = 64 << 10

// checkConfig says what is wrong with the reply.
func (fs *FS) checkConfig(payload []byte, out *fuse.IomapConfigOut) string {
	later := fs.cfg.Generation == Later
	switch {
	case len(payload) > 104:
		return fmt.Sprintf("a reply of %d bytes", len(payload))
	case out.Flags&^configKnown != 0:
		return fmt.Sprintf("unknown flags %#x", uint64(out.Flags&^configKnown))
	case out.UUIDLen > 16:
		return fmt.Sprintf("a UUID of %d bytes", out.UUIDLen)
	case len(payload) >= 60 && (payload[57] != 0 || payload[58] != 0 || payload[59] != 0):
		return "padding is not zero"
	case out.Flags&fuse.IomapConfigBlocksize != 0 && !validBlocksize(out.Blocksize):
		return fmt.Sprintf("blocks of %d bytes", out.Blocksize)
	case later && out.Flags&fuse.IomapConfigTime != 0 && (out.TimeGran == 0 || out.TimeGran > 1e9):
		return fmt.Sprintf("a time granularity of %d ns", out.TimeGran)
	case later && out.Flags&fuse.IomapConfigMaxbytes != 0 && (out.Maxbytes < 0 || out.Maxbytes > fs.cfg.Maxbytes):
		return fmt.Sprintf("a largest file of %d bytes", out.Maxbytes)
	}
	return ""
}

// validBlocksize tells whether the block layer takes a block size.
func validBlocksize(n uint32) bool { return n >= 512 && n <= maxBlocksize && n&(n-1) == 0 }

// Iomap tells whether fuse-iomap is in force.
func (fs *FS) Iomap() bool { return fs.iomap }

// Session is that of the server, for tests that send notifications of their own.
func (fs *FS) Session() *fuse.Session { return fs.k.Session }

// errUnmounted is returned for a second Unmount.
var errUnmounted = fmt.Errorf("not mounted: %w", syscall.EINVAL)

// Unmount writes everything back, tells the server in the order in which a kernel does, and waits for
// it. With open files it fails with EBUSY.
func (fs *FS) Unmount() error {
	fs.mu.Lock()
	open, over := fs.open, fs.over
	fs.mu.Unlock()
	switch {
	case over:
		return errUnmounted
	case open != 0:
		return fmt.Errorf("%d files are open: %w", open, syscall.EBUSY)
	}
	return fs.end()
}

// end unmounts, with files open or not, unless that was done already.
func (fs *FS) end() error {
	fs.mu.Lock()
	if fs.over {
		fs.mu.Unlock()
		return nil
	}
	fs.mu.Unlock()
	fs.holds.releaseAll()
	fs.releaseNames()
	err := fs.Sync()
	fs.evictAll()
	fs.root.forget()
	fs.released.Wait()
	if fs.iomap && !fs.dead.Load() {
		_, errno := fs.request(kernelTask, fuse.OpDestroy, 0)
		err = errors.Join(err, fail(errno))
	}
	fs.close()
	return errors.Join(err, fs.k.Unmount())
}

// close ends what the test sees of violations.
func (fs *FS) close() {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	fs.over = true
	for _, e := range fs.expected {
		if !e.met {
			fs.tb.Errorf("no violation whose message has %q", e.part)
		}
	}
}

// Kill ends the connection as a kernel that stops in the middle: nothing more is written back, every
// request fails from now on. The server sees the end of the connection and may write what it likes; what
// a power cut leaves is to be taken from the devices before.
func (fs *FS) Kill() {
	fs.dead.Store(true)
	fs.holds.releaseAll()
	fs.mu.Lock()
	over := fs.over
	fs.over = true
	fs.mu.Unlock()
	if !over {
		_ = fs.k.Unmount()
	}
}
