package vfs

import (
	"syscall"

	"ext4box/fuse"
	"ext4box/iomap"
)

// mapAt finds what backs pos, in the cache or by asking the server, for an operation on the range
// [pos, pos+count). It is called with whatever locks the operation holds.
func (in *inode) mapAt(c caller, pos, count uint64, op iomap.Op) (found, syscall.Errno) {
	for range in.fs.cfg.Retries {
		if f, ok := in.mappings.lookup(in.fs.cfg.Generation, pos, op); ok {
			in.use(pos, count, op)
			return f, 0
		}
		if in.fs.cfg.Generation == Later && op&iomap.NoWait != 0 {
			return found{}, syscall.EAGAIN
		}
		out, errno := in.begin(c, pos, count, op)
		if errno != 0 {
			return found{}, errno
		}
		if out.Read.Type == fuse.IomapRetryCache || out.Write.Type == fuse.IomapRetryCache {
			continue
		}
		target := newMapping(out.Read)
		f := found{target, target}
		if isFileWrite(op) && out.Write.Type != fuse.IomapPureOverwrite {
			f.target = newMapping(out.Write)
		}
		in.use(pos, count, op)
		return f, 0
	}
	in.fs.violate("node %d: RETRY_CACHE without end for %s at %d", in.nodeid, opString(op), pos)
	return found{}, syscall.EIO
}

// use is the moment between a mapping and its use.
func (in *inode) use(pos, count uint64, op iomap.Op) {
	in.fs.hold(&Event{Stage: MappingFound, NodeID: in.nodeid, Pos: pos, Count: count, Iomap: op}, nil)
}

// begin sends IOMAP_BEGIN and checks the reply.
func (in *inode) begin(c caller, pos, count uint64, op iomap.Op) (*fuse.IomapBeginOut, syscall.Errno) {
	msg := fuse.IomapBeginIn{Op: op, Ino: in.number(), Pos: pos, Count: count}
	payload, errno := in.fs.request(c, fuse.OpIomapBegin, in.nodeid, structure(&msg))
	if errno != 0 {
		return nil, errno
	}
	out := decode[fuse.IomapBeginOut](payload)
	if why, errno := in.checkBegin(pos, op, &out); errno != 0 {
		in.fs.violate("IOMAP_BEGIN of node %d, %s at %d+%d: %s", in.nodeid, opString(op), pos, count, why)
		return nil, errno
	}
	in.checkOwner(out.Read)
	in.checkOwner(out.Write)
	return &out, 0
}

// finish sends IOMAP_END if the operation on one mapping calls for it.
func (in *inode) finish(c caller, pos, count, written uint64, op iomap.Op, m *mapping) syscall.Errno {
	want := iomap.WantEnd
	if in.fs.cfg.Generation == V7 {
		want = iomap.AnonWrite // the kernel tests the wrong bit
	}
	due := m.flags&want != 0 || isFileWrite(op) && (m.flags&iomap.SizeChanged != 0 || written < count)
	if !due || m.typ == iomap.Inline {
		return 0
	}
	msg := fuse.IomapEndIn{Op: op, Ino: in.number(), Pos: pos, Count: count, Written: int64(written), Map: m.wire()}
	return in.fs.optional(c, fuse.OpIomapEnd, in.nodeid, structure(&msg))
}

// step is one mapping's part of an operation: it works on [pos, pos+n) and returns how much of it was
// done. errStale means that the mapping no longer holds.
type step func(f *found, pos, n uint64) (done uint64, errno syscall.Errno)

// errStale never leaves iterate.
const errStale = syscall.Errno(1<<12 - 1)

// iterate goes along the mappings of a range as iomap_iter does, and returns how much was done.
func (in *inode) iterate(c caller, pos, count uint64, op iomap.Op, do step) (uint64, syscall.Errno) {
	done := uint64(0)
	stale := 0
	for done < count {
		at := pos + done
		f, errno := in.mapAt(c, at, count-done, op)
		if errno != 0 {
			return done, errno
		}
		n := min(count-done, f.target.end()-at, f.source.end()-at)
		m, errno := do(&f, at, n)
		if errno == errStale {
			f.target.flags |= iomap.Stale
		}
		end := in.finish(c, at, n, m, op, &f.target)
		done += m
		switch {
		case errno == errStale:
			if stale++; m == 0 && stale > 100*in.fs.cfg.Retries {
				in.fs.violate("node %d: mappings for %s at %d are out of date as soon as they are there", in.nodeid, opString(op), at)
				return done, syscall.EIO
			}
		case errno != 0:
			return done, errno
		case end != 0:
			return done, end
		case m == 0:
			return done, 0
		}
	}
	return done, 0
}
