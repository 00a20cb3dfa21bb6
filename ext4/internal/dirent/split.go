package dirent

import (
	"cmp"
	"fmt"
	"slices"
	"syscall"

	"ext4box/ext4/internal/buffer"
	"ext4box/ext4/internal/disk"
)

// addIndexed puts an entry where its hash belongs. It makes room step by step,
// each of which leaves the directory whole: what is below a full node is split
// only when the node has been.
func (e *edit) addIndexed(name string, n disk.DirEntry) error {
	d := e.d
	m := d.matcher(name)
	// A new level, a split of each level, a split of the leaf, and then the
	// entry goes in.
	for range maxIndexLevels + 3 {
		blocks, err := d.blocks()
		if err != nil {
			return err
		}
		p, h, err := d.index(blocks)
		if err != nil {
			return err
		}
		hash, _, err := h.folded(m.hashed())
		if err != nil {
			return err
		}
		if err := p.probe(hash); err != nil {
			return err
		}
		_, b, err := p.leaf()
		if err != nil {
			return err
		}
		if done, err := e.put(b, n); done || err != nil {
			return err
		}
		if err := e.makeRoom(&p, b, &h, disk.DirEntrySize(len(name))); err != nil {
			return err
		}
	}
	return disk.Corruptf(d.name(), "no split makes room in the index")
}

// makeRoom takes one step towards room for need bytes in the leaf b.
func (e *edit) makeRoom(p *path, b *buffer.Buffer, h *hasher, need int) error {
	d := e.d
	area, err := d.entries(b)
	if err != nil {
		return err
	}
	area = append([]byte(nil), area...)
	var records []record
	var hashErr error
	if err := d.walk(d.what(b.Block), area, func(off int, e *disk.DirEntry) bool {
		if e.Inode == 0 {
			return true
		}
		r := record{off: off, size: disk.DirEntrySize(len(e.Name))}
		r.hash, _, hashErr = h.entry(area, off, e)
		records = append(records, r)
		return hashErr == nil
	}); err != nil || hashErr != nil {
		return cmp.Or(err, hashErr)
	}
	switch {
	case total(records)+need <= len(area):
		// There is room, though in pieces. Positions are hashes: entries of
		// this leaf may move.
		if err := e.modify(b, buffer.DirLeaf); err != nil {
			return err
		}
		pack(b.Data[:len(area)], area, records)
		return nil
	case p.frames[p.depth].node.Full():
		return e.splitNode(p)
	}
	return e.splitLeaf(p, b, area, records)
}

// splitLeaf moves the entries with the higher hashes, about half of the bytes,
// from the leaf b, of which area is a copy, to a new one.
func (e *edit) splitLeaf(p *path, b *buffer.Buffer, area []byte, records []record) error {
	d := e.d
	slices.SortStableFunc(records, func(a, b record) int { return cmp.Compare(a.hash, b.hash) })
	at, moved := len(records), 0
	for at > 0 && moved+records[at-1].size/2 <= len(b.Data)/2 {
		at--
		moved += records[at].size
	}
	if at <= 0 {
		return disk.Corruptf(d.what(b.Block).String(), "is full of %d entries of %d bytes", len(records), moved)
	}
	hash := records[at].hash
	if hash == records[at-1].hash {
		if err := p.roomInChain(hash); err != nil {
			return err
		}
		hash |= 1 // continues the hash
	}
	if err := e.modify(b, buffer.DirLeaf); err != nil {
		return err
	}
	if err := e.modifyNode(p, p.depth); err != nil {
		return err
	}
	blk, other, err := e.append(buffer.DirLeaf)
	if err != nil {
		return err
	}
	f := &p.frames[p.depth]
	pack(other.Data[:len(area)], area, records[at:])
	pack(b.Data[:len(area)], area, records[:at])
	f.node.Insert(f.at+1, hash, uint32(blk))
	return nil
}

// roomInChain verifies that lookups will still find all names of a hash when one
// leaf more has them.
func (p *path) roomInChain(hash uint32) error {
	q := *p
	if err := q.probe(hash); err != nil {
		return err
	}
	for range maxCollisions - 1 {
		if bound, ok := q.bound(); !ok || bound != hash|1 {
			return nil
		}
		if err := q.next(); err != nil {
			return err
		}
	}
	return fmt.Errorf("%s: too many names have the hash %#x: %w", p.d.name(), hash, syscall.ENOSPC)
}

// splitNode makes room in the index above the leaf: it splits the highest full
// node that is below one which is not full, or adds a level.
func (e *edit) splitNode(p *path) error {
	d := e.d
	at := p.depth
	for at > 0 && p.frames[at-1].node.Full() {
		at--
	}
	if at == 0 && p.levels >= d.indexLevels() {
		return fmt.Errorf("%s: the index is full: %w", d.name(), syscall.ENOSPC)
	}
	for i := max(at-1, 0); i <= at; i++ {
		if err := e.modifyNode(p, i); err != nil {
			return err
		}
	}
	blk, b, err := e.append(buffer.DxNode)
	if err != nil {
		return err
	}
	other := disk.InitDxNode(b.Data, 0, d.Map.Sums.Metadata)
	node := &p.frames[at].node
	if at == 0 {
		node.PushDown(&other, uint32(blk))
		disk.SetDxLevels(p.frames[0].b.Data, uint8(p.levels+1))
		return nil
	}
	hash := node.MoveTail(node.Count/2, &other)
	above := &p.frames[at-1]
	above.node.Insert(above.at+1, hash, uint32(blk))
	return nil
}

// modifyNode makes the index block of a frame part of the transaction.
func (e *edit) modifyNode(p *path, i int) error {
	kind := buffer.DxNode
	if i == 0 {
		kind = buffer.DxRoot
	}
	return e.modify(p.frames[i].b, kind)
}
