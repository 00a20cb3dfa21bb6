package ext4

import (
	"ext4box/ext4/internal/disk"
	"ext4box/ext4/internal/extent"
	"ext4box/iomap"
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
	splits    int // and what they may be split into, up to maxSplits
}

// Extents that are in the map but not written are handed out once, and then written
// in any number of places without another question. These bound what is promised for
// that, in all and for one of them. When nodes were taken the promise is renewed; if
// it cannot be, whoever writes next has to ask. Beyond the promise, for what is on
// its way at one time, the blocks that are kept back for metadata have to do.
const (
	maxUnwritten = 64
	maxSplits    = 512
	extentSplits = 128
)

// promiseNodes sees to it that enough nodes are promised for what is pending and
// was handed out of a file. ENOSPC: there are not so many.
func (fs *FS) promiseNodes(in *inode) error { return fs.promiseNodesOf(in, true) }

// promiseNodesOf is promiseNodes, with what is reserved and kept back if spare.
func (fs *FS) promiseNodesOf(in *inode, spare bool) error {
	if fs.outside == nil {
		return nil
	}
	m := fs.blockMap(in)
	p := &in.promise
	places := len(in.pending) + p.unwritten
	blocks := int(in.pendingBlocks) + p.splits
	lo, hi := uint64(0), uint64(0)
	if k := len(in.pending); k > 0 {
		lo, hi = in.pending[0].Block, in.pending[k-1].End()
	}
	if need := uint32(m.NodesFor(lo, hi, places, blocks)); need > p.nodes {
		if err := fs.w.groups.ReserveSpace((need-p.nodes)<<fs.geo.ClusterBits, spare, spare); err != nil {
			return err
		}
		p.nodes = need
	}
	in.pinned.Store(true)
	return nil
}

// promiseUnwritten is promiseNodes for a file of which an unwritten extent is
// about to be handed out.
func (fs *FS) promiseUnwritten(in *inode, run extent.Run) error {
	return fs.promiseUnwrittenOf(in, run, true)
}

// promiseReader is promiseUnwritten for what is handed out to somebody who only
// reads there. That is no reason to take what is kept back.
func (fs *FS) promiseReader(in *inode, run extent.Run) error {
	if firstPending(in.pending, run.Block, run.Block+1).State != extent.Hole {
		return nil
	}
	return fs.promiseUnwrittenOf(in, run, false)
}

// promiseAgain is promiseNodes after some of the nodes were taken. Without enough of
// them nothing may be written without a question.
func (fs *FS) promiseAgain(in *inode) {
	if in.promise.unwritten > 0 {
		fs.takeBack(in, 0, iomap.ToEOF, fs.promiseNodesOf(in, false))
	}
}

func (fs *FS) promiseUnwrittenOf(in *inode, run extent.Run, spare bool) error {
	if fs.outside == nil || in.Flags&disk.FlagExtents == 0 {
		return nil
	}
	p := &in.promise
	unwritten, splits := p.unwritten, p.splits
	p.unwritten = min(unwritten+1, maxUnwritten)
	p.splits = min(splits+int(min(run.Len+2, extentSplits)), maxSplits)
	err := fs.promiseNodesOf(in, spare)
	if err != nil {
		p.unwritten, p.splits = unwritten, splits
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
	in.pending = nil
	if in.promise.unwritten > 0 {
		return
	}
	if n := in.promise.nodes; n > 0 {
		in.promise.nodes = 0
		fs.w.groups.ReturnSpace(n << fs.geo.ClusterBits)
	}
	in.pinned.Store(false)
}
