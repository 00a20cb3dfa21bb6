package extent

import (
	"encoding/binary"

	"ext4box/ext4/internal/buffer"
	"ext4box/ext4/internal/disk"
)

// splice replaces the entries [i, j) of the leaf at the end of p with those in
// entries, which must be in order and fit between their neighbours. Nodes that
// overflow are split, up to the root, and those that have nothing left go. goal
// is the device block near which new nodes should be.
//
// When it fails for lack of space nothing has changed. Afterwards the steps of p
// hold unless a node was split; those of nodes that are gone have no entries.
func (m *Map) splice(tx buffer.Tx, a Allocator, p *path, i, j int, entries []byte, goal uint64) error {
	pl, err := m.plan(p, i, j, entries)
	if err != nil {
		return err
	}
	if err := m.prepare(tx, a, &pl, p, goal); err != nil {
		return err
	}
	m.apply(&pl, p, entries)
	// Only now, so that at worst a block is lost, never one in use handed out.
	for h := range pl.level[:pl.top] {
		if pl.level[h].gone {
			if err := a.FreeNode(tx, p.at(h).buf.Block); err != nil {
				return err
			}
		}
	}
	return nil
}

// prepare gets everything into the transaction that apply is going to change.
func (m *Map) prepare(tx buffer.Tx, a Allocator, pl *plan, p *path, goal uint64) error {
	if pl.nodes > 0 {
		if err := m.create(tx, a, pl, goal); err != nil {
			return err
		}
	}
	for h := range pl.level[:pl.top+1] {
		// The root is not a block, and nodes above it do not exist yet.
		if !pl.level[h].modify || h >= p.depth {
			continue
		}
		if err := tx.Modify(p.at(h).buf); err != nil {
			return unwound(err, pl.release(tx, a))
		}
	}
	return nil
}

// create allocates the nodes of a plan.
func (m *Map) create(tx buffer.Tx, a Allocator, pl *plan, goal uint64) error {
	blocks, err := allocate(tx, a, pl.nodes, goal)
	if err != nil {
		return err
	}
	created := make([]*buffer.Buffer, 0, len(blocks))
	for h := range pl.level {
		l := &pl.level[h]
		for range l.news {
			b, err := tx.New(blocks[len(created)], m.nodeTag(h))
			if err != nil {
				return unwound(err, free(tx, a, blocks))
			}
			created = append(created, b)
		}
		l.created = created[len(created)-l.news:]
	}
	return nil
}

// release gives the nodes of a plan back that is not carried out.
func (pl *plan) release(tx buffer.Tx, a Allocator) error {
	var blocks []uint64
	for h := range pl.level {
		for _, b := range pl.level[h].created {
			blocks = append(blocks, b.Block)
		}
	}
	return free(tx, a, blocks)
}

// apply carries out a plan. It cannot fail.
func (m *Map) apply(pl *plan, p *path, entries []byte) {
	for range pl.grow {
		l := &pl.level[p.depth]
		m.grow(p, l.created[0])
		l.created = l.created[1:]
	}
	for h := 0; h <= pl.top; h++ {
		l, s := &pl.level[h], p.at(h)
		var above []byte // entries for the parent
		switch {
		case l.gone:
			s.n = 0
		case len(l.created) > 0:
			above = m.split(s, l, entries, h)
		default:
			s.replace(l.i, l.j, entries)
		}
		if l.modify {
			m.seal(s)
		}
		if h < p.depth && !l.gone {
			if parent := p.at(h + 1); key(parent.node, parent.i) != l.first {
				binary.LittleEndian.PutUint32(entry(parent.node, parent.i), uint32(l.first))
			}
		}
		entries = above
	}
	if p.depth > 0 && p.steps[0].n == 0 {
		initNode(m.Root, 0)
	}
}

// grow moves the content of the root into node b, which becomes the root's only
// child.
func (m *Map) grow(p *path, b *buffer.Buffer) {
	root := p.steps[0]
	initNode(b.Data, p.depth)
	child := newStep(b, b.Data, root.end)
	child.replace(0, 0, entry(root.node, 0)[:root.n*disk.ExtentEntrySize])
	child.i = root.i

	index := disk.ExtentIndex{Leaf: b.Block}
	if root.n > 0 {
		index.Block = uint32(key(root.node, 0))
	}
	p.depth++
	initNode(m.Root, p.depth)
	copy(p.steps[1:], p.steps[:p.depth])
	p.steps[0] = newStep(nil, m.Root, MaxBlocks)
	p.steps[1] = child
	var e [disk.ExtentEntrySize]byte
	disk.EncodeExtentIndex(e[:], &index)
	p.steps[0].replace(0, 0, e[:])
}

// split does what l says to s, with what does not fit in the nodes created for
// it, and returns the index entries of those.
func (m *Map) split(s *step, l *levelPlan, entries []byte, height int) []byte {
	const size = disk.ExtentEntrySize
	// What comes in order fills the nodes; else all get the same.
	full := l.j == s.n
	old := entry(s.node, 0)[:s.n*size]
	all := append(make([]byte, 0, len(old)+len(entries)), old[:l.i*size]...)
	all = append(append(all, entries...), old[l.j*size:]...)
	share := func(nodes, limit int) (part []byte) {
		n := len(all) / size
		if full {
			n = min(n, limit)
		} else {
			n = min((n+nodes-1)/nodes, limit)
		}
		part, all = all[:n*size], all[n*size:]
		return part
	}
	nodes := 1 + len(l.created)
	part := share(nodes, s.max)
	if l.modify {
		s.replace(0, s.n, part)
	}
	above := make([]byte, len(l.created)*size)
	for i, b := range l.created {
		nodes--
		initNode(b.Data, height)
		c := newStep(b, b.Data, 0)
		c.replace(0, 0, share(nodes, c.max))
		m.seal(&c)
		disk.EncodeExtentIndex(above[i*size:], &disk.ExtentIndex{Block: uint32(key(c.node, 0)), Leaf: b.Block})
	}
	return above
}

// replace puts other entries in the place of [i, j). There must be room.
func (s *step) replace(i, j int, entries []byte) {
	const size = disk.ExtentEntrySize
	add := len(entries) / size
	n := s.n - (j - i) + add
	copy(entry(s.node, i+add), entry(s.node, j)[:(s.n-j)*size])
	copy(entry(s.node, i), entries)
	if n < s.n {
		clear(entry(s.node, n)[:(s.n-n)*size])
	}
	h := disk.DecodeExtentHeader(s.node)
	h.Entries = uint16(n)
	disk.EncodeExtentHeader(s.node, &h)
	s.n = n
}

// seal stores the checksum of a node that is a block.
func (m *Map) seal(s *step) {
	if s.buf != nil {
		m.Sums.SealExtentNode(m.Seed, s.node)
	}
}

// initNode makes b an empty node.
func initNode(b []byte, depth int) {
	clear(b)
	disk.EncodeExtentHeader(b, &disk.ExtentHeader{
		Magic: disk.ExtentMagic, Max: uint16(disk.ExtentNodeCapacity(len(b))), Depth: uint16(depth)})
}
