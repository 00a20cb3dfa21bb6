package dirent

import (
	"ext4box/ext4/internal/buffer"
	"ext4box/ext4/internal/disk"
	"ext4box/ext4/internal/extent"
)

// maxIndexLevels is the number of index levels below the root with large_dir.
const maxIndexLevels = 2

// maxCollisions is the number of leaves that names of one hash may fill. Those
// of the largest directories fill one or two, in a hostile image they have no
// end.
const maxCollisions = 4096

// indexLevels is the number of index levels below the root that the features
// allow.
func (f *Format) indexLevels() int {
	if f.LargeDir {
		return maxIndexLevels
	}
	return maxIndexLevels - 1
}

// unusable is why an index cannot be used, though its root can be read.
type unusable struct{ error }

// Unwrap returns the reason.
func (u unusable) Unwrap() error { return u.error }

// frame is one step of the way through the index.
type frame struct {
	blk  uint64 // of the directory
	b    *buffer.Buffer
	node disk.DxNode
	at   int // the entry that is followed
}

// path is the way from the root of the index to a leaf.
type path struct {
	d      *Dir
	blocks uint64 // of the directory
	visits uint64 // leaves that may still be visited
	levels int    // of the index, below the root
	frames [maxIndexLevels + 1]frame
	depth  int // of the last frame; levels, when the path leads to a leaf
}

// index opens the index of a directory of so many blocks: a path of the root
// alone, and what hashes its names. The error is an unusable where it is only
// the index that is of no use.
func (d *Dir) index(blocks uint64) (p path, h hasher, err error) {
	b, err := d.mapped(0, blocks, func(uint64, []byte) buffer.Kind { return buffer.DxRoot })
	if err != nil {
		return p, h, err
	}
	root, node, err := d.root(b)
	if err != nil {
		return p, h, unusable{err}
	}
	h = d.hasher(root.HashVersion, d.Casefold, d.RawNames)
	p = path{d: d, blocks: blocks, visits: blocks, levels: int(root.Levels)}
	p.frames[0] = frame{b: b, node: node}
	return p, h, nil
}

// Notes of index blocks, the order of whose entries has been checked: which costs
// more than to find an entry. A change of the block takes them back; see edit.touch.
const (
	sortedRoot buffer.Note = 1 << iota
	sortedNode
)

// root decodes the root of the index.
func (d *Dir) root(b *buffer.Buffer) (root disk.DxRoot, node disk.DxNode, err error) {
	if b.Noted(d.tag(), sortedRoot) {
		if root, node, err = disk.ViewDxRoot("", b.Data, d.indexLevels(), d.Map.Sums.Metadata); err == nil {
			return root, node, nil
		}
	}
	if root, node, err = disk.DecodeDxRoot(d.name(), b.Data, d.indexLevels(), d.Map.Sums.Metadata); err == nil {
		b.SetNote(d.tag(), sortedRoot)
	}
	return root, node, err
}

// node decodes an inner block of the index.
func (d *Dir) node(b *buffer.Buffer) (node disk.DxNode, err error) {
	if b.Noted(d.tag(), sortedNode) {
		if node, err = disk.ViewDxNode("", b.Data, d.Map.Sums.Metadata); err == nil {
			return node, nil
		}
	}
	if node, err = disk.DecodeDxNode(d.what(b.Block).String(), b.Data, d.Map.Sums.Metadata); err == nil {
		b.SetNote(d.tag(), sortedNode)
	}
	return node, err
}

// locateIndexed looks a name up by its hash.
func (d *Dir) locateIndexed(m *matcher, blocks uint64) (place, error) {
	p, h, err := d.index(blocks)
	if err != nil {
		return place{}, err
	}
	hash := m.hash
	if m.by == nil {
		hash, _, err = h.folded(m.hashed())
	} else {
		err = h.usable()
	}
	if err != nil {
		return place{}, unusable{err}
	}
	p.visits = min(p.visits, maxCollisions)
	if err := p.probe(hash); err != nil {
		return place{}, err
	}
	for {
		blk, b, err := p.leaf()
		if err != nil {
			return place{}, err
		}
		if found := d.search(b, m); found.ino != 0 {
			found.blk = blk
			return found, nil
		}
		// Names of equal hash may continue in the next leaf, whose index entry
		// then has that hash with the lowest bit set.
		if bound, ok := p.bound(); !ok || bound&^1 != hash {
			return place{}, NotFound
		}
		if err := p.next(); err != nil {
			return place{}, err
		}
	}
}

// probe leads the path to the first leaf that may have names of the hash.
func (p *path) probe(hash uint32) error {
	p.depth = 0
	p.frames[0].at = p.frames[0].node.Search(hash)
	return p.descend(hash)
}

// descend follows the index from the last frame to the level above the leaves.
func (p *path) descend(hash uint32) error {
	for p.depth < p.levels {
		blk, b, err := p.child()
		if err != nil {
			return err
		}
		node, err := p.d.node(b)
		if err != nil {
			return err
		}
		p.depth++
		p.frames[p.depth] = frame{blk, b, node, node.Search(hash)}
	}
	return nil
}

// leaf returns the leaf that the path leads to.
func (p *path) leaf() (blk uint64, b *buffer.Buffer, err error) { return p.child() }

// child returns the block that the last frame leads to.
func (p *path) child() (blk uint64, b *buffer.Buffer, err error) {
	f := &p.frames[p.depth]
	blk = uint64(f.node.Block(f.at))
	for i := range p.depth + 1 {
		if blk == p.frames[i].blk {
			return 0, nil, disk.Corruptf(p.d.name(), "index leads back to block %d", blk)
		}
	}
	b, err = p.d.mapped(blk, p.blocks, p.d.kindByShape)
	return blk, b, err
}

// bound is the hash with which the leaf behind begins in the index. ok is false
// if there is none.
func (p *path) bound() (hash uint32, ok bool) {
	for i := p.depth; i >= 0; i-- {
		if f := &p.frames[i]; f.at+1 < f.node.Count {
			return f.node.Hash(f.at + 1), true
		}
	}
	return 0, false
}

// next leads the path, which must have a bound, to the leaf behind.
func (p *path) next() error {
	if p.visits--; p.visits == 0 {
		return disk.Corruptf(p.d.name(), "index leads to more leaves than there can be")
	}
	for p.frames[p.depth].at+1 >= p.frames[p.depth].node.Count {
		p.depth--
	}
	p.frames[p.depth].at++
	return p.descend(0)
}

func (d *Dir) name() string { return d.what(0).String() }

// mapped returns a block that the index refers to, which must exist.
func (d *Dir) mapped(blk, blocks uint64, kind func(uint64, []byte) buffer.Kind) (*buffer.Buffer, error) {
	if blk >= blocks {
		return nil, disk.Corruptf(d.name(), "index points to block %d of %d", blk, blocks)
	}
	run, err := d.Map.Lookup(blk)
	if err != nil {
		return nil, err
	}
	if run.State == extent.Hole {
		return nil, disk.Corruptf(d.name(), "index points into a hole at block %d", blk)
	}
	return d.block(blk, run.Start+blk-run.Block, kind)
}
