package vfs

import (
	"slices"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"ext4box/blockdev"
	"ext4box/blockdev/blocktest"
	"ext4box/fuse"
	"ext4box/iomap"
)

// devFD is the descriptor by which the server knows its device.
const devFD = 7

// server is a file server for fuse-iomap as small as one can be: files in the root directory, whose blocks
// are allocated one after the other, as unwritten. Hooks make it misbehave.
type server struct {
	fuse.Unimplemented
	block  uint64
	direct bool           // answers BEGIN with the mapping itself instead of by the cache
	exact  bool           // maps what was asked for, not all there is
	opens  bool           // wants to see OPEN
	flags  fuse.AttrFlags // of new files
	open   fuse.OpenFlags // with opens
	config func(*fuse.IomapConfigOut)
	begin  func(in *fuse.IomapBeginIn, out *fuse.IomapBeginOut) syscall.Errno // may change the reply
	ioend  func(in *fuse.IomapIoendIn, out *fuse.IomapIoendOut) syscall.Errno // may change the reply
	end    func(in *fuse.IomapEndIn) syscall.Errno                            // nil: ENOSYS
	attr   func(a *fuse.Attr)                                                 // may change what is answered
	fail   map[fuse.Opcode]syscall.Errno

	mu      sync.Mutex
	s       *fuse.Session
	dev     uint32
	next    uint64
	names   map[string]uint64
	files   map[uint64]*file
	forgets map[uint64]uint64
}

// file is a file of the server.
type file struct {
	attr   fuse.Attr
	blocks map[uint64]block // by number in the file
	inline []byte           // not nil: the data, up to inlineRoom
}

type block struct {
	addr    uint64
	written bool
}

const inlineRoom = 60

func newServer() *server {
	return &server{
		block: 4096, next: 1 << 20, flags: fuse.AttrExclusive | fuse.AttrIomap, names: map[string]uint64{}, files: map[uint64]*file{},
		forgets: map[uint64]uint64{}, fail: map[fuse.Opcode]syscall.Errno{},
	}
}

// mountOn mounts a server, on a device of 64 MiB unless the configuration has another.
func mountOn(t *testing.T, s *server, cfg Config) (*FS, *blocktest.Mem) {
	t.Helper()
	mem := blocktest.NewMem(64 << 20)
	if cfg.Devices == nil {
		cfg.Devices = map[int]blockdev.Device{devFD: mem}
	}
	cfg.Options.Iomap = true
	if cfg.Options.Flags == 0 {
		cfg.Options.Flags = fuse.InitNoOpenSupport | fuse.InitNoOpendirSupport | fuse.InitHandleKillprivV2 | fuse.InitAtomicOTrunc
	}
	return Mount(t, s, cfg), mem
}

func (s *server) Init(r *fuse.Request, p *fuse.Protocol) syscall.Errno {
	s.s = r.Session()
	return 0
}
func (s *server) Destroy() {}

func (s *server) IomapConfig(r *fuse.Request, in *fuse.IomapConfigIn, out *fuse.IomapConfigOut) syscall.Errno {
	dev, err := s.s.OpenBacking(devFD)
	if err != nil {
		return errnoIn(err)
	}
	s.dev = dev
	if err := s.s.SetBackingBlocksize(dev, uint32(s.block)); err != nil {
		return errnoIn(err)
	}
	out.Flags, out.Blocksize = fuse.IomapConfigBlocksize, uint32(s.block)
	if s.config != nil {
		s.config(out)
	}
	return s.fail[fuse.OpIomapConfig]
}

// entry answers with a file; mu is held.
func (s *server) entry(nodeid uint64, out *fuse.EntryOut) {
	out.NodeID, out.Generation = nodeid, 1
	out.SetEntryValid(fuse.Forever)
	out.SetAttrValid(fuse.Forever)
	out.Attr = s.files[nodeid].attr
	if s.attr != nil {
		s.attr(&out.Attr)
	}
}

func (s *server) Lookup(r *fuse.Request, name string, out *fuse.EntryOut) syscall.Errno {
	s.mu.Lock()
	defer s.mu.Unlock()
	id, ok := s.names[name]
	if !ok {
		return syscall.ENOENT
	}
	s.entry(id, out)
	return 0
}

func (s *server) Create(r *fuse.Request, in *fuse.CreateIn, name string, out *fuse.EntryOut, open *fuse.OpenOut) syscall.Errno {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.names[name]; ok {
		return syscall.EEXIST
	}
	id := uint64(len(s.files) + 11)
	s.files[id] = &file{attr: fuse.Attr{Ino: id, Mode: in.Mode&07777 | syscall.S_IFREG, Nlink: 1, Flags: s.flags}, blocks: map[uint64]block{}}
	s.names[string([]byte(name))] = id
	s.entry(id, out)
	open.OpenFlags = fuse.OpenKeepCache | s.open
	return 0
}

func (s *server) Unlink(r *fuse.Request, name string) syscall.Errno {
	s.mu.Lock()
	defer s.mu.Unlock()
	id, ok := s.names[name]
	if !ok {
		return syscall.ENOENT
	}
	s.files[id].attr.Nlink--
	delete(s.names, name)
	return 0
}

func (s *server) Forget(nodeid, n uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.forgets[nodeid] += n
}

func (s *server) Getattr(r *fuse.Request, in *fuse.GetattrIn, out *fuse.AttrOut) syscall.Errno {
	s.mu.Lock()
	defer s.mu.Unlock()
	out.SetAttrValid(fuse.Forever)
	if r.NodeID == 1 {
		out.Attr = fuse.Attr{Ino: 2, Mode: syscall.S_IFDIR | 0o755, Nlink: 2}
		return 0
	}
	out.Attr = s.files[r.NodeID].attr
	if s.attr != nil {
		s.attr(&out.Attr)
	}
	return 0
}

func (s *server) Setattr(r *fuse.Request, in *fuse.SetattrIn, out *fuse.AttrOut) syscall.Errno {
	if errno := s.fail[fuse.OpSetattr]; errno != 0 {
		return errno
	}
	s.mu.Lock()
	f := s.files[r.NodeID]
	if f == nil {
		s.mu.Unlock()
		return syscall.ENOENT
	}
	a := &f.attr
	if in.Valid&fuse.SetattrSize != 0 {
		a.Size = in.Size
		for b := range f.blocks {
			if b*s.block >= in.Size {
				delete(f.blocks, b)
			}
		}
	}
	if in.Valid&fuse.SetattrMode != 0 {
		a.Mode = a.Mode&syscall.S_IFMT | in.Mode&07777
	}
	if in.Valid&fuse.SetattrUID != 0 {
		a.UID = in.UID
	}
	if in.Valid&fuse.SetattrGID != 0 {
		a.GID = in.GID
	}
	if in.Valid&fuse.SetattrAtime != 0 {
		a.Atime, a.AtimeNsec = in.Atime, in.AtimeNsec
	}
	if in.Valid&fuse.SetattrMtime != 0 {
		a.Mtime, a.MtimeNsec = in.Mtime, in.MtimeNsec
	}
	if in.Valid&fuse.SetattrCtime != 0 {
		a.Ctime, a.CtimeNsec = in.Ctime, in.CtimeNsec
	}
	s.mu.Unlock()
	return s.Getattr(r, nil, out)
}

func (s *server) Open(r *fuse.Request, in *fuse.OpenIn, out *fuse.OpenOut) syscall.Errno {
	if !s.opens {
		return syscall.ENOSYS
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if in.Flags&syscall.O_TRUNC != 0 {
		f := s.files[r.NodeID]
		f.attr.Size, f.blocks = 0, map[uint64]block{}
	}
	out.Fh, out.OpenFlags = 99, fuse.OpenKeepCache|s.open
	return 0
}

func (s *server) Release(r *fuse.Request, in *fuse.ReleaseIn) syscall.Errno { return 0 }
func (s *server) Fsync(r *fuse.Request, in *fuse.FsyncIn) syscall.Errno     { return 0 }
func (s *server) Syncfs(r *fuse.Request) syscall.Errno                      { return 0 }
func (s *server) Getxattr(r *fuse.Request, name string, buf []byte) (int, syscall.Errno) {
	return 0, syscall.ENODATA
}

func (s *server) Fallocate(r *fuse.Request, in *fuse.FallocateIn) syscall.Errno {
	s.mu.Lock()
	defer s.mu.Unlock()
	f, end := s.files[r.NodeID], in.Offset+in.Length
	whole := func(b uint64) bool { return b*s.block >= in.Offset && (b+1)*s.block <= end }
	for b := in.Offset / s.block; b*s.block < end; b++ {
		old, have := f.blocks[b]
		switch {
		case in.Mode&unix.FALLOC_FL_PUNCH_HOLE != 0:
			if whole(b) {
				delete(f.blocks, b)
			}
		case !have:
			f.blocks[b] = block{addr: s.alloc()}
		case in.Mode&unix.FALLOC_FL_ZERO_RANGE != 0 && whole(b):
			f.blocks[b] = block{addr: old.addr}
		}
	}
	if in.Mode&unix.FALLOC_FL_KEEP_SIZE == 0 {
		f.attr.Size = max(f.attr.Size, end)
	}
	return 0
}

func (s *server) alloc() uint64 {
	s.next += s.block
	return s.next - s.block
}

// mapping is what backs a position: as much as is contiguous, to a limit. mu is held.
func (s *server) mapping(f *file, pos, limit uint64) fuse.IomapIO {
	b := pos / s.block
	first, ok := f.blocks[b]
	m := fuse.IomapIO{Offset: b * s.block, Addr: fuse.IomapNullAddr}
	if !ok {
		for m.Length = s.block; m.Offset+m.Length < limit; m.Length += s.block {
			if _, ok := f.blocks[b+m.Length/s.block]; ok {
				break
			}
		}
		return m
	}
	m.Addr, m.Dev, m.Type = first.addr, s.dev, iomap.Unwritten
	if first.written {
		m.Type = iomap.Mapped
	}
	for m.Length = s.block; ; m.Length += s.block {
		n, ok := f.blocks[b+m.Length/s.block]
		if !ok || n.written != first.written || n.addr != first.addr+m.Length || s.exact && m.Offset+m.Length >= limit {
			return m
		}
	}
}

// filler is what stands in the write slot, and where nothing is meant.
func filler(m fuse.IomapIO, t iomap.Type) fuse.IomapIO {
	return fuse.IomapIO{Offset: m.Offset, Length: m.Length, Addr: fuse.IomapNullAddr, Type: t}
}

func (s *server) IomapBegin(r *fuse.Request, in *fuse.IomapBeginIn, out *fuse.IomapBeginOut) syscall.Errno {
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.files[r.NodeID]
	if f.inline != nil {
		if in.Op&iomap.Write == 0 || in.Pos+in.Count <= inlineRoom {
			out.Read = fuse.IomapIO{Length: s.block, Addr: fuse.IomapNullAddr, Type: iomap.Inline}
			if in.Pos >= s.block {
				out.Read.Offset, out.Read.Type = in.Pos/s.block*s.block, iomap.Hole
			}
			out.Write = filler(out.Read, fuse.IomapPureOverwrite)
			return s.override(in, out)
		}
		return syscall.ENOSPC
	}
	if in.Op&(iomap.Write|iomap.Writeback) != 0 && in.Op&iomap.Report == 0 {
		for b := in.Pos / s.block; b*s.block < in.Pos+in.Count; b++ {
			if _, ok := f.blocks[b]; !ok {
				f.blocks[b] = block{addr: s.alloc()}
			}
		}
	}
	m := s.mapping(f, in.Pos, roundUp(in.Pos+in.Count, s.block))
	if isFileWrite(in.Op) && m.Type == iomap.Unwritten {
		m.Flags |= iomap.Dirty
	}
	out.Read, out.Write = m, filler(m, fuse.IomapPureOverwrite)
	if !s.direct && in.Op&(iomap.Atomic|iomap.SwapFile|iomap.Report) == 0 {
		up := fuse.IomapUpsertMappings{NodeID: r.NodeID, Ino: f.attr.Ino, Read: m, Write: filler(m, fuse.IomapNoCache)}
		if s.s.UpsertMappings(&up) == nil {
			out.Read = filler(m, fuse.IomapRetryCache)
		}
	}
	if in.Op&iomap.Atomic != 0 {
		out.Read.Flags |= iomap.AtomicBIO
	}
	return s.override(in, out)
}

func (s *server) override(in *fuse.IomapBeginIn, out *fuse.IomapBeginOut) syscall.Errno {
	if s.begin != nil {
		return s.begin(in, out)
	}
	return 0
}

func (s *server) IomapEnd(r *fuse.Request, in *fuse.IomapEndIn) syscall.Errno {
	if s.end == nil {
		return syscall.ENOSYS
	}
	return s.end(in)
}

func (s *server) IomapIoend(r *fuse.Request, in *fuse.IomapIoendIn, out *fuse.IomapIoendOut) syscall.Errno {
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.files[r.NodeID]
	if in.Error != 0 {
		return syscall.Errno(-in.Error)
	}
	end := in.Pos + in.Written
	if in.Flags&fuse.IoendUnwritten != 0 {
		for b := in.Pos / s.block; b*s.block < end; b++ {
			if x, ok := f.blocks[b]; ok {
				f.blocks[b] = block{addr: x.addr, written: true}
			}
		}
	}
	if in.Flags&fuse.IoendSwapoff == 0 {
		f.attr.Size = max(f.attr.Size, end)
	}
	out.Newsize = f.attr.Size
	if s.ioend != nil {
		return s.ioend(in, out)
	}
	return 0
}

func (s *server) Read(r *fuse.Request, in *fuse.ReadIn, buf []byte) (int, syscall.Errno) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if errno := s.fail[fuse.OpRead]; errno != 0 {
		return 0, errno
	}
	clear(buf)
	if data := s.files[r.NodeID].inline; in.Offset < uint64(len(data)) {
		copy(buf, data[in.Offset:])
	}
	return len(buf), 0
}

func (s *server) Write(r *fuse.Request, in *fuse.WriteIn, data []byte) (int, syscall.Errno) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.files[r.NodeID]
	end := in.Offset + uint64(len(data))
	if uint64(len(f.inline)) < end {
		f.inline = append(f.inline, make([]byte, end-uint64(len(f.inline)))...)
	}
	copy(f.inline[in.Offset:], data)
	f.attr.Size = max(f.attr.Size, end)
	return len(data), 0
}

func (s *server) FreezeFS(*fuse.Request, *fuse.FreezeFSIn) syscall.Errno     { return 0 }
func (s *server) UnfreezeFS(*fuse.Request) syscall.Errno                     { return 0 }
func (s *server) ShutdownFS(*fuse.Request, *fuse.ShutdownFSIn) syscall.Errno { return 0 }

// put makes a file whose content is written, of blocks that are contiguous.
func (s *server) put(name string, dev blockdev.Device, data []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	id := uint64(len(s.files) + 11)
	f := &file{attr: fuse.Attr{Ino: id, Mode: syscall.S_IFREG | 0o644, Nlink: 1, Size: uint64(len(data)), Flags: s.flags}, blocks: map[uint64]block{}}
	for b := uint64(0); b*s.block < uint64(len(data)); b++ {
		addr := s.alloc()
		part := make([]byte, s.block)
		copy(part, data[b*s.block:])
		if _, err := dev.WriteAt(part, int64(addr)); err != nil {
			panic(err)
		}
		f.blocks[b] = block{addr, true}
	}
	s.files[id], s.names[name] = f, id
}

// stored is what the device has of a file, to the size that the server has recorded.
func (s *server) stored(name string, dev blockdev.Device) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.files[s.names[name]]
	if f.inline != nil {
		return slices.Clone(f.inline)
	}
	out := make([]byte, roundUp(f.attr.Size, s.block))
	for b, x := range f.blocks {
		if x.written && b*s.block < uint64(len(out)) {
			if _, err := dev.ReadAt(out[b*s.block:(b+1)*s.block], int64(x.addr)); err != nil {
				panic(err)
			}
		}
	}
	return out[:f.attr.Size]
}
