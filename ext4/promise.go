package ext4

import (
	"ext4box/ext4/internal/disk"
)

// When data has been written outside it is too late to find that there is no
// space for a node of the file's map: the data would be lost. So when blocks are
// handed out that are going to need nodes, these are promised, in memory, and the
// allocator of nodes takes from the promise first. How the blocks will be written
// is not known: in the worst case every second one alone.

// promise is how many nodes are kept back for the map of a file.
type promise struct {
	nodes     uint32
	unwritten int // extents that were handed out to be written, up to maxUnwritten
}

// maxUnwritten bounds what is promised for extents that are in the map but not
// written. There, what whoever has them cached does with one cannot be followed;
// beyond the promise the blocks that are kept back for metadata have to do.
const maxUnwritten = 64

// promiseNodes sees to it that enough nodes are promised for what is pending and
// was handed out of a file. ENOSPC: there are not so many.
func (fs *FS) promiseNodes(in *inode) error {
	if fs.outside == nil {
		return nil
	}
	m := fs.blockMap(in)
	p := &in.promise
	places := len(in.pending) + p.unwritten
	blocks := int(in.pendingBlocks) + 3*p.unwritten // of which each splits an extent at both ends
	lo, hi := uint64(0), uint64(0)
	if k := len(in.pending); k > 0 {
		lo, hi = in.pending[0].Block, in.pending[k-1].End()
	}
	if need := uint32(m.NodesFor(lo, hi, places, blocks)); need > p.nodes {
		if err := fs.w.groups.ReserveSpace((need-p.nodes)<<fs.geo.ClusterBits, true, true); err != nil {
			return err
		}
		p.nodes = need
	}
	in.pinned.Store(true)
	return nil
}

// promiseUnwritten is promiseNodes for a file of which an unwritten extent is
// about to be handed out.
func (fs *FS) promiseUnwritten(in *inode) error {
	if fs.outside == nil || in.Flags&disk.FlagExtents == 0 {
		return nil
	}
	was := in.promise.unwritten
	in.promise.unwritten = min(was+1, maxUnwritten)
	err := fs.promiseNodes(in)
	if err != nil {
		in.promise.unwritten = was
	}
	return err
}

// pin keeps an inode in memory for as long as something is pending, and ends its
// promise with that.
func (fs *FS) pin(in *inode) {
	if len(in.pending) > 0 {
		in.pinned.Store(true)
		return
	}
	in.pending, in.unseen = nil, false
	if in.promise.unwritten > 0 {
		return
	}
	if n := in.promise.nodes; n > 0 {
		in.promise.nodes = 0
		fs.w.groups.ReturnSpace(n << fs.geo.ClusterBits)
	}
	in.pinned.Store(false)
}
