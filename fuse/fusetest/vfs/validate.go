package vfs

import (
	"fmt"
	"syscall"

	"ext4box/fuse"
	"ext4box/iomap"
)

// slot is where a mapping stands in a message.
type slot int

const (
	readSlot slot = iota
	writeSlot
)

func (s slot) String() string { return [...]string{"read", "write"}[s] }

// mappingFlags are those that a server may set.
const mappingFlags = iomap.New | iomap.Dirty | iomap.Shared | iomap.Merged | iomap.Boundary | iomap.AnonWrite | iomap.AtomicBIO | iomap.WantEnd

// checkBegin says what is wrong with a reply to IOMAP_BEGIN, and the errno of the operation.
func (in *inode) checkBegin(pos uint64, op iomap.Op, out *fuse.IomapBeginOut) (string, syscall.Errno) {
	later := in.fs.cfg.Generation == Later
	for i, m := range []fuse.IomapIO{out.Read, out.Write} {
		s := slot(i)
		retry := m.Type == fuse.IomapRetryCache
		if retry && s == writeSlot && !later {
			return "RETRY_CACHE in the write slot", efscorrupted
		}
		if retry && later && op&(iomap.Atomic|iomap.SwapFile) != 0 {
			return "RETRY_CACHE for an operation that does not use the cache", efscorrupted
		}
		if retry && !in.mappings.has() {
			return "RETRY_CACHE, but nothing was ever pushed", efscorrupted
		}
		if !retry || later {
			if m.Type == fuse.IomapNoCache {
				return fmt.Sprintf("NOCACHE in the %v slot of a reply", s), efscorrupted
			}
			if why := in.checkMapping(s, m); why != "" {
				return fmt.Sprintf("%v slot: %s", s, why), efscorrupted
			}
		}
		if pos < m.Offset || pos-m.Offset >= m.Length {
			return fmt.Sprintf("%v slot: %d+%d does not contain %d", s, m.Offset, m.Length, pos), efscorrupted
		}
	}
	if out.Read.Type == fuse.IomapRetryCache || out.Write.Type == fuse.IomapRetryCache {
		return "", 0
	}
	target := out.Read
	if isFileWrite(op) && out.Write.Type != fuse.IomapPureOverwrite {
		target = out.Write
	}
	if later && op&iomap.Atomic != 0 && (target.Type != iomap.Mapped && target.Type != iomap.Unwritten || target.Flags&iomap.AtomicBIO == 0) {
		return "the target of an untorn write must be blocks with ATOMIC_BIO", syscall.EIO
	}
	if later && isFileWrite(op) && target.Dev != 0 && in.fs.backing(target.Dev).dev.ReadOnly() {
		return fmt.Sprintf("device %d was opened for reading only", target.Dev), syscall.EACCES
	}
	return "", 0
}

// checkMapping applies the rules that hold for mappings in replies and in the cache.
func (in *inode) checkMapping(s slot, m fuse.IomapIO) string {
	later := in.fs.cfg.Generation == Later
	block := in.fs.blocksize
	if m.Flags&^mappingFlags != 0 {
		return fmt.Sprintf("flags %s", flagsString(m.Flags&^mappingFlags))
	}
	switch {
	case m.Length == 0:
		return "length 0"
	case m.Offset%block != 0 || m.Length%block != 0:
		return fmt.Sprintf("%d+%d is not aligned to blocks of %d", m.Offset, m.Length, block)
	case m.Offset+m.Length < m.Offset:
		return fmt.Sprintf("%d+%d overflows", m.Offset, m.Length)
	case m.Offset >= in.fs.maxbytes:
		return fmt.Sprintf("offset %d is behind the largest file", m.Offset)
	}
	bare := m.Dev == 0 && m.Addr == fuse.IomapNullAddr
	switch m.Type {
	case iomap.Mapped, iomap.Unwritten:
		switch {
		case m.Dev == 0 || in.fs.backing(m.Dev) == nil:
			return fmt.Sprintf("device %d is not registered", m.Dev)
		case m.Addr == fuse.IomapNullAddr:
			return "no address"
		case m.Addr+m.Length < m.Addr:
			return fmt.Sprintf("address %d + %d overflows", m.Addr, m.Length)
		}
	case iomap.Hole, iomap.Delalloc, iomap.Inline:
		if !bare {
			return typeString(m.Type) + " with a device or an address"
		}
		if m.Type == iomap.Inline && m.Offset != 0 {
			return fmt.Sprintf("INLINE at offset %d", m.Offset)
		}
	case fuse.IomapPureOverwrite:
		if s != writeSlot {
			return "PURE_OVERWRITE in the read slot"
		}
		if later && (!bare || m.Flags != 0) {
			return "PURE_OVERWRITE with flags, a device or an address"
		}
	case fuse.IomapRetryCache, fuse.IomapNoCache:
		if later && (!bare || m.Flags != 0) {
			return typeString(m.Type) + " with flags, a device or an address"
		}
	default:
		return fmt.Sprintf("unknown type %d", m.Type)
	}
	return ""
}

// checkUpsert says what is wrong with one slot of IOMAP_UPSERT_MAPPINGS.
func (in *inode) checkUpsert(s slot, m fuse.IomapIO) (string, syscall.Errno) {
	switch m.Type {
	case fuse.IomapRetryCache:
		return "RETRY_CACHE cannot be cached", efscorrupted
	case fuse.IomapNoCache:
		if in.fs.cfg.Generation == V7 {
			return "", 0
		}
	}
	if why := in.checkMapping(s, m); why != "" {
		return why, efscorrupted
	}
	if m.Type == iomap.Mapped || m.Type == iomap.Unwritten {
		size := uint64(in.fs.backing(m.Dev).dev.Size())
		switch {
		case size == 0:
			return fmt.Sprintf("device %d is empty", m.Dev), syscall.EINVAL
		case m.Addr > size || m.Length > size-m.Addr:
			return fmt.Sprintf("address %d + %d is behind the end of device %d", m.Addr, m.Length, m.Dev), efscorrupted
		}
		if m.Flags&iomap.AtomicBIO != 0 {
			// The kernel takes it, and then breaks every larger direct write.
			in.fs.violate("node %d: a mapping with ATOMIC_BIO is pushed into the cache", in.nodeid)
		}
	}
	return "", 0
}

// checkOwner complains if blocks that a mapping names are also those of another file. Files whose blocks
// are being freed are left out: until the kernel has heard of it, it cannot use their mappings, and the
// blocks may have been taken already.
func (in *inode) checkOwner(m fuse.IomapIO) {
	if m.Type != iomap.Mapped && m.Type != iomap.Unwritten || m.Flags&iomap.Shared != 0 {
		return
	}
	in.fs.mu.Lock()
	var others []*inode
	for _, o := range in.fs.inodes {
		if o != in && o.freed == nil && o.mapped() && o.freeing.Load() == 0 {
			others = append(others, o)
		}
	}
	in.fs.mu.Unlock()
	for _, o := range others {
		x, ok := o.mappings.overlaps(m)
		if !ok || o.freeing.Load() != 0 || in.fs.isGone(o) {
			continue
		}
		in.fs.violate("node %d is given %s, which node %d has as %s", in.nodeid, ioString(m), o.nodeid, ioString(x.wire()))
	}
}

// isGone tells whether an inode is being evicted, or was.
func (fs *FS) isGone(in *inode) bool {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	return in.freed != nil
}

// overlaps returns a cached mapping to the same place on the device.
func (c *mappingCache) overlaps(m fuse.IomapIO) (mapping, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, f := range []*fork{&c.read, &c.write} {
		for _, x := range f.list {
			blocks := x.typ == iomap.Mapped || x.typ == iomap.Unwritten
			if blocks && x.dev == m.Dev && x.addr < m.Addr+m.Length && m.Addr < x.addr+x.length {
				return x, true
			}
		}
	}
	return mapping{}, false
}
