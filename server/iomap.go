package server

import (
	"context"
	"encoding/hex"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"syscall"

	"ext4box/ext4"
	"ext4box/fuse"
)

// IomapMode says whether the kernel is to move file data itself, along mappings that
// the server answers (fuse-iomap), instead of sending it through the server.
type IomapMode uint8

// The values of IomapMode.
const (
	IomapOff  IomapMode = iota
	IomapAuto           // where the kernel can
	IomapOn             // or the mount fails
)

// Iomap is what the server needs for the kernel to move data itself.
type Iomap struct {
	Mode IomapMode
	// Device is the descriptor of the block device that holds the filesystem, opened for
	// reading and writing, for the kernel to register. It stays the caller's. -1: there is
	// none, and NoDevice is the reason, half a sentence.
	Device   int
	NoDevice string
	// Name is that of the device, for people.
	Name string
	// Offset is where the filesystem begins on the device, in bytes.
	Offset uint64
	// SectorSize is the logical block size of the device in bytes: the unit of direct I/O.
	// 0: not known.
	SectorSize uint32
	// AtomicMin and AtomicMax are the smallest and the largest write, in bytes, that the
	// device does as a whole or not at all. 0: none, or not known.
	AtomicMin, AtomicMax uint32
	// Chosen, if not nil, is told once which way data goes, instead of the log.
	Chosen func(Choice)
}

// Choice is which way file data goes.
type Choice struct {
	Iomap bool   // the kernel moves it itself
	Path  string // in words, with the reason; see Server.DataPath
	// Err, if not nil, says that the mount must fail, because it is not the way that Mode
	// wants.
	Err error
}

// noIomap says why there is no point in asking the kernel to move data itself, or nothing.
func (s *Server) noIomap() string {
	o := &s.iomap
	switch {
	case o.Mode == IomapOff:
		return "iomap=off"
	case s.owners.overrides():
		return "owners or permissions are not shown as they are stored"
	case o.Device < 0 && o.NoDevice != "":
		return o.NoDevice
	case o.Device < 0:
		return "there is no block device that the kernel could use"
	case o.SectorSize != 0 && o.Offset%uint64(o.SectorSize) != 0:
		return fmt.Sprintf("the filesystem begins inside a sector of the device, at %d", o.Offset)
	}
	return s.fs.DataElsewhere()
}

// DataPath tells which way file data goes, and why: "fuse-iomap, device NAME", or
// "through the server: REASON". It is empty until the kernel and the server have agreed.
func (s *Server) DataPath() string {
	if p := s.path.Load(); p != nil {
		return *p
	}
	return ""
}

// chosen notes which way data goes, and tells whoever wants to know, or else the log.
func (s *Server) chosen(level slog.Level, path string, err error) {
	switch {
	case !s.path.CompareAndSwap(nil, &path):
	case s.iomap.Chosen != nil:
		s.iomap.Chosen(Choice{s.outside.Load() != nil, path, err})
	case err != nil:
		s.log.Error("the filesystem is not served", "error", err)
	default:
		s.log.Log(context.Background(), level, "data: "+path)
	}
}

// moves has file data go through the server, because of why; failed says that the
// kernel would have moved it, but for an error.
func (s *Server) moves(why string, failed bool) syscall.Errno {
	path := "through the server: " + why
	if s.iomap.Mode == IomapOn {
		s.chosen(slog.LevelError, path, fmt.Errorf("iomap=on: the kernel cannot move the data itself: %s: %w", why, syscall.EOPNOTSUPP))
		return syscall.EOPNOTSUPP
	}
	level := slog.LevelInfo
	if failed {
		level = slog.LevelWarn
	}
	s.chosen(level, path, nil)
	return 0
}

// outside is the half of the server that works only where the kernel moves file data
// itself. It answers where data is, and afterwards is told what was written.
type outside struct {
	*Server
	session   *fuse.Session
	dev       uint32 // the number of the device
	blockSize uint64
	maxSize   uint64 // of a file: no mapping begins there or behind
	atomic    bool   // a block can be written untorn

	strange  sync.Once // data came that should not come
	unmapped sync.Map  // reasons, of why a file's data goes through the server, that were logged
}

// IomapConfig registers the device, tells the kernel what it has to know of the
// filesystem, and leaves its data to the kernel from then on. If the device cannot be
// registered the kernel is told nothing, and never that a file has mappings: everything
// goes on as without fuse-iomap.
func (s *Server) IomapConfig(r *fuse.Request, in *fuse.IomapConfigIn, out *fuse.IomapConfigOut) syscall.Errno {
	if s.outside.Load() != nil || s.path.Load() != nil {
		return syscall.EBUSY // it comes once
	}
	o, err := s.register(r)
	if err != nil {
		return s.moves(err.Error(), true)
	}
	info := s.fs.Info()
	o.describeFS(&info, in, out)
	s.fs.MoveOutside(o)
	s.outside.Store(o)
	s.chosen(slog.LevelInfo, "fuse-iomap, device "+s.iomap.Name, nil)
	return 0
}

// register gives the device to the kernel.
func (s *Server) register(r *fuse.Request) (*outside, error) {
	info := s.fs.Info()
	o := &outside{Server: s, session: r.Session(), blockSize: uint64(info.BlockSize), maxSize: s.fs.MaxFileSize()}
	var err error
	if o.dev, err = o.session.OpenBacking(s.iomap.Device); err != nil {
		return nil, err
	}
	// Or what the page cache of the device has of metadata could, in larger blocks, lie
	// beside file data, and be written over it.
	if err := o.session.SetBackingBlocksize(o.dev, info.BlockSize); err != nil {
		return nil, err
	}
	i := &s.iomap
	o.atomic = r.Protocol.IomapSupport&fuse.IomapSupportAtomic != 0 && i.Offset%o.blockSize == 0 &&
		i.AtomicMin != 0 && i.AtomicMin <= info.BlockSize && info.BlockSize <= i.AtomicMax
	return o, nil
}

// describeFS fills in, of what the kernel understands, what holds for the filesystem.
// The number of links is left out, for the engine looks after it: a directory can have
// more than its count of links can tell.
func (o *outside) describeFS(info *ext4.Info, in *fuse.IomapConfigIn, out *fuse.IomapConfigOut) {
	set := func(f fuse.IomapConfigFlags, fill func()) {
		if in.Flags&f != 0 {
			out.Flags |= f
			fill()
		}
	}
	set(fuse.IomapConfigSID, func() { copy(out.SID[:len(out.SID)-1], o.iomap.Name) })
	set(fuse.IomapConfigUUID, func() {
		n, err := hex.Decode(out.UUID[:], []byte(strings.ReplaceAll(info.UUID, "-", "")))
		if err != nil {
			n = 0
		}
		out.UUIDLen = uint8(n)
	})
	set(fuse.IomapConfigBlocksize, func() { out.Blocksize = info.BlockSize })
	set(fuse.IomapConfigTime, func() {
		out.TimeGran = o.timeGran()
		out.TimeMin, out.TimeMax = o.fs.TimeRange()
	})
	set(fuse.IomapConfigMaxbytes, func() {
		if in.Maxbytes > 0 {
			o.maxSize = min(o.maxSize, uint64(in.Maxbytes))
		}
		out.Maxbytes = int64(o.maxSize)
	})
}

// moved returns the other half of the server if the kernel moves the data of a regular
// file itself, or would if the inode were one, and nil otherwise.
func (s *Server) moved(nodeid uint64) *outside {
	o := s.outside.Load()
	if o == nil || s.fs.Mappable(s.inode(nodeid)) != "" {
		return nil
	}
	return o
}

// exclusive returns the other half of the server if the kernel looks after the times,
// mode and ACLs of an inode itself, and nil otherwise: of the root directory the kernel
// knows nothing but that it is one, for it is there before there is a word with the
// server.
func (s *Server) exclusive(nodeid uint64) *outside {
	if nodeid == s.root {
		return nil
	}
	return s.outside.Load()
}

// final tells whether the mode and the ACLs of what is made in a directory are what the
// kernel makes of them. Otherwise umask and default ACL are for the server to apply.
func (s *Server) final(r *fuse.Request) bool {
	return s.exclusive(r.NodeID) != nil && r.Protocol.Has(fuse.InitPosixACL)
}

// whyUnmapped notes that the data of a file goes through the server.
func (o *outside) whyUnmapped(ino ext4.Ino, reason string) {
	level := slog.LevelDebug
	if _, known := o.unmapped.LoadOrStore(reason, true); !known {
		level = slog.LevelInfo
	}
	o.log.Log(context.Background(), level, "data of a file: through the server", "inode", ino, "reason", reason)
}
