package ext4

import (
	"errors"
	"fmt"
	"syscall"

	"ext4box/ext4/internal/disk"
	"ext4box/ext4/internal/extent"
	"ext4box/iomap"
)

// Where the kernel moves file data itself, mappings leave the engine: they are used while no request is
// being handled, and until they are taken back.

// MoveOutside says that from now on data is moved by whoever keeps mappings in c. It must be called before
// anything is mapped. From then on
//
//   - the end of a file, and of ranges that are punched out, is zeroed by the one who moves data, never
//     here;
//   - what Begin reserved for a write stays reserved until IOEndOutside, or until whoever moves data
//     cannot need it any longer.
func (fs *FS) MoveOutside(c iomap.Cache) { fs.outside = c }

// Mappable says why data of an inode cannot be moved outside, or nothing if it can.
func (fs *FS) Mappable(ino Ino) (reason string) {
	in, err := fs.rlock(ino)
	if err != nil {
		return err.Error()
	}
	defer in.runlock()
	if in.IsReg() && in.encrypted() {
		return "it is encrypted"
	}
	return ""
}

// MapOutside is [FS.Begin] for whoever moves data outside, on behalf of somebody for whom, if limited,
// limits of quota hold. With kept the cache of mappings has this one already, and maybe those that follow;
// otherwise it is for this operation alone.
//
//   - What stores data is never answered with a hole: blocks are reserved, or it fails with ENOSPC or
//     EDQUOT. Blocks beyond the range may be, too: see ahead.go. EFBIG: the range begins where no file can
//     have data.
//   - Anything else sees holes as they are. One at the end is as long as the file, or the range.
//   - Reserved blocks are unwritten, for whoever asks.
//   - Inline content is the first block of its file, and what stores to memory or writes back gets a block
//     instead.
//   - [iomap.Atomic] is answered with exactly its block. EINVAL: it is not one.
//   - [iomap.SwapFile] fails with EINVAL for what cannot be swap space.
//   - [iomap.NoWait] fails with EAGAIN while somebody else has the inode locked, and is served otherwise:
//     who asks waits for the answer anyway.
//   - [iomap.OverwriteOnly] fails with EAGAIN where there is no data to overwrite.
func (fs *FS) MapOutside(ino Ino, off, n uint64, op iomap.Op, limited bool) (m iomap.Mapping, kept bool, err error) {
	err = fs.retryingFor(ino, func() (err error) {
		for {
			known := fs.zones.Changes()
			m, kept, err = fs.mapOutside(ino, off, n, op, limited, false)
			if err == errAlone {
				m, kept, err = fs.mapOutside(ino, off, n, op, limited, true)
			}
			if err != nil || known == fs.zones.Changes() {
				return err
			}
			// Blocks turned out to be the filesystem's own, maybe too late for this mapping.
			if err := fs.dropAll(ino); err != nil {
				return err
			}
		}
	})
	return m, kept, err
}

// errAlone says that an inode must be locked for itself alone, to promise what is handed out of it.
var errAlone = errors.New("to be locked alone")

func (fs *FS) mapOutside(ino Ino, off, n uint64, op iomap.Op, limited, alone bool) (m iomap.Mapping, kept bool, err error) {
	in, unlock, err := fs.lockToMap(ino, op, alone)
	if err != nil {
		return m, false, err
	}
	defer unlock()
	bs := uint64(fs.geo.BlockSize)
	if op.Stores() {
		limit := fs.maxSize(in)
		if off >= limit {
			return m, false, syscall.EFBIG
		}
		n = min(n, limit-off)
		if op&iomap.Atomic != 0 && (n != bs || off%bs != 0) {
			return m, false, fmt.Errorf("inode %d: %d bytes at %d are not a block: %w", ino, n, off, syscall.EINVAL)
		}
	}
	if m, err = fs.mapFor(in, off, n, op, limited); err != nil {
		return m, false, err
	}
	if op&iomap.SwapFile != 0 {
		if err := fs.refuseSwap(in, &m, off); err != nil {
			return m, false, err
		}
	}
	keeps := fs.keeps(in, op)
	if keeps && m.Type == iomap.Unwritten && !op.Stores() && fs.w != nil {
		// What writes there later does not ask.
		if !alone {
			return m, false, errAlone
		}
		keeps = fs.promiseReader(in, extent.Run{Block: off >> fs.geo.BlockBits, Len: m.Length >> fs.geo.BlockBits}) == nil
	}
	fs.adapt(in, &m, off, n, op)
	kept = keeps && fs.keep(in, &m, off, n, op)
	if !kept && op.Stores() && m.Type != iomap.Inline {
		// Nobody can tell when it is out of date: as little as possible.
		clipMapping(&m, off&^(bs-1), fs.roundUp(off+max(n, 1)))
	}
	return m, kept, nil
}

// adapt makes of what the engine's own mover would get what data is moved by outside.
func (fs *FS) adapt(in *inode, m *iomap.Mapping, off, n uint64, op iomap.Op) {
	bs := uint64(fs.geo.BlockSize)
	end := fs.roundUp(max(off+max(n, 1), in.size))
	m.Flags &^= iomap.New // which makes no difference to unwritten blocks, and would not always be true
	switch m.Type {
	case iomap.Inline:
		m.Offset, m.Length = 0, bs
		if off >= bs {
			m.Type, m.Inline, m.Offset, m.Length = iomap.Hole, nil, bs, end-bs
		} else if op&iomap.Zero != 0 {
			// What is cleared is behind the end of the file as it was or will be: there is
			// nothing, and no room for zeros.
			m.Type, m.Inline = iomap.Hole, nil
		}
		return
	case iomap.Hole:
		if m.Offset+m.Length >= extent.MaxBlocks<<fs.geo.BlockBits {
			m.Length = end - m.Offset
		}
		return
	}
	if m.Type == iomap.Unwritten && op&iomap.SwapFile == 0 || fs.w != nil && !fs.w.log.Committed(in.tid) {
		m.Flags |= iomap.Dirty
	}
	if op&iomap.Report != 0 && in.Flags&disk.FlagExtents == 0 {
		m.Flags |= iomap.Merged
	}
	if op&iomap.Atomic != 0 {
		clipMapping(m, off, off+bs)
		m.Flags |= iomap.AtomicBIO
	}
}

// clipMapping cuts a mapping to the range [lo, hi), with which it must overlap.
func clipMapping(m *iomap.Mapping, lo, hi uint64) {
	if m.Offset < lo {
		if m.Addr != iomap.NullAddr {
			m.Addr += lo - m.Offset
		}
		m.Length -= lo - m.Offset
		m.Offset = lo
	}
	m.Length = min(m.Length, hi-m.Offset)
}

// refuseSwap returns an error if a mapping of a file cannot be a part of swap space.
func (fs *FS) refuseSwap(in *inode, m *iomap.Mapping, off uint64) error {
	why := ""
	switch {
	case in.encrypted():
		why = "is encrypted"
	case m.Type == iomap.Inline:
		why = "has its content in the inode"
	case m.Type == iomap.Hole && off < in.size, fs.pendingAt(in, off>>fs.geo.BlockBits).State != extent.Hole:
		why = "has holes"
	default:
		return nil
	}
	return fmt.Errorf("inode %d %s and cannot be swap space: %w", in.ino, why, syscall.EINVAL)
}

// keptRuns is how many mappings one operation hands out at most. More of them only push others out of the
// cache.
const keptRuns = 4

// keeps tells whether the mapping that an operation gets may be handed out to be kept.
func (fs *FS) keeps(in *inode, op iomap.Op) bool {
	return fs.outside != nil && !in.inline() && !in.mayInline && op&(iomap.Report|iomap.SwapFile|iomap.Atomic) == 0 && fs.mayHandOut(in.ino)
}

// keep hands a mapping out, and the next ones as far as the operation goes and there are not many. It tells
// whether the cache has the first one now.
func (fs *FS) keep(in *inode, m *iomap.Mapping, off, n uint64, op iomap.Op) bool {
	if err := fs.outside.Store(in.ino, *m); err != nil {
		return false
	}
	next := *m
	for range keptRuns - 1 {
		pos := next.Offset + next.Length
		if pos >= off+n || len(in.pending) > 0 {
			break
		}
		var err error
		if next, err = fs.mapping(in, pos); err != nil || op.Stores() && next.Type != iomap.Mapped || next.Type == iomap.Unwritten {
			break
		}
		fs.adapt(in, &next, pos, off+n-pos, op)
		if fs.outside.Store(in.ino, next) != nil {
			break
		}
	}
	return true
}

// IOEndOutside says that data was written to the range [off, off+n) of a file by whoever moves it, or
// that this failed with ioerr, which is returned then and changes nothing. What was unwritten in the range
// is written now; what is a hole is left one. size is how long the file is now.
//
// It does not fail for lack of space: what it takes was set aside when the range was mapped.
// ESTALE: there is no such file any longer.
func (fs *FS) IOEndOutside(ino Ino, off, n uint64, ioerr syscall.Errno) (size uint64, err error) {
	switch {
	case ioerr != 0:
		return 0, ioerr
	case off+n < off || off+n > extent.MaxBlocks<<fs.geo.BlockBits:
		return 0, syscall.EINVAL
	}
	err = fs.retryingFor(ino, func() (err error) {
		size, err = fs.ioEnd(ino, off, n, func(uint64) error { return nil })
		return err
	})
	if err == nil {
		fs.w.written.Add(n)
	}
	return size, err
}

// ForgetOutside says that whoever moves data has let go of an inode: what is reserved for it and not
// written by now will not be. It does nothing while somebody holds the inode.
func (fs *FS) ForgetOutside(ino Ino) {
	if fs.w == nil || fs.outside == nil {
		return
	}
	in := fs.nodes.Get(uint64(ino))
	if in == nil {
		return
	}
	defer in.put()
	if !in.pinned.Load() {
		return
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	// Nobody maps what is not held, and who comes to hold it now has to wait.
	if fs.w.holds.held(ino) {
		return
	}
	fs.letGo(in)
}

// letGo gives back all that is reserved for an inode.
func (fs *FS) letGo(in *inode) {
	in.promise.unwritten, in.promise.splits = 0, 0
	fs.dropPending(in, 0, extent.MaxBlocks)
	in.prealloc.Discard(fs.w.groups)
}
