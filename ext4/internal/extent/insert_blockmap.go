package extent

import (
	"encoding/binary"
	"fmt"
	"syscall"

	"ext4box/ext4/internal/buffer"
	"ext4box/ext4/internal/disk"
)

// pointers is an array of block pointers: a whole indirect block, or those in
// the inode that stand for one tree, or for data.
type pointers struct {
	buf   *buffer.Buffer // nil for those in the inode
	data  []byte         // nil for an indirect block that does not exist
	n     uint64         // pointers
	level int            // 0: the pointers are to data
	first uint64         // file block of the first pointer
	span  uint64         // file blocks of each pointer
}

// rootPointers are the pointers in the inode for trees of the given level, which
// is 0 for the direct blocks.
func (m *Map) rootPointers(level int) pointers {
	if level == 0 {
		return pointers{data: m.Root[:4*directBlocks], n: directBlocks, span: 1}
	}
	perBlock := uint64(m.Geo.BlockSize / 4)
	p := pointers{data: m.Root[4*(directBlocks+level-1):][:4], n: 1, level: level, first: directBlocks, span: perBlock}
	for range level - 1 {
		p.first += p.span
		p.span *= perBlock
	}
	return p
}

// end is the file block behind the array.
func (p *pointers) end() uint64 { return p.first + p.n*p.span }

// slots is the range of pointers that concern the file blocks [lo, hi).
func (p *pointers) slots(lo, hi uint64) (i, j int) {
	lo, hi = max(lo, p.first), min(hi, p.end())
	if lo >= hi {
		return 0, 0
	}
	return int((lo - p.first) / p.span), int((hi-1-p.first)/p.span) + 1
}

// child is the array of pointers behind pointer i, whose content is b, or nil if
// it does not exist.
func (p *pointers) child(i int, b *buffer.Buffer, perBlock uint64) pointers {
	c := pointers{buf: b, n: perBlock, level: p.level - 1, first: p.first + uint64(i)*p.span, span: p.span / perBlock}
	if b != nil {
		c.data = b.Data
	}
	return c
}

func (p *pointers) set(i int, blk uint64) {
	binary.LittleEndian.PutUint32(p.data[4*i:], uint32(blk))
}

// pointee is the block that pointer i names, or 0, checked also where the
// pointer is in the inode.
func (m *Map) pointee(p *pointers, i int) (uint64, error) {
	blk := uint64(pointer(p.data, i))
	if blk != 0 && p.buf == nil && !m.mayHave(blk, 1) {
		return 0, disk.Corruptf(disk.InodeName(m.Ino), "block pointer to %d, which is not for files", blk)
	}
	return blk, nil
}

// filling is an Insert into a block map. Its first pass over the indirect blocks
// on the way finds out what there is, its second changes them. Both meet the
// same blocks in the same order, even if the map is not the tree that it should
// be and the second pass changes pointers that it has yet to come by.
type filling struct {
	*Map
	run    Run
	visits []visit
	news   int // indirect blocks that are missing
}

// visit is an indirect block on the way.
type visit struct {
	buf    *buffer.Buffer // nil in the first pass if the block is missing
	modify bool
}

// insertBlockMap is Insert for a map of block pointers.
func (m *Map) insertBlockMap(tx buffer.Tx, a Allocator, r Run) error {
	last := m.rootPointers(maxLevels)
	switch {
	case r.State != Written:
		return m.unsupported()
	case r.End() > last.end():
		return fmt.Errorf("inode %d cannot have %d blocks at %d: %w", m.Ino, r.Len, r.Block, syscall.EFBIG)
	case r.Start+r.Len > BlockMapLimit:
		return fmt.Errorf("inode %d cannot point to blocks %d+%d: %w", m.Ino, r.Start, r.Len, syscall.ENOSPC)
	}
	f := filling{Map: m, run: r}
	for level := range maxLevels + 1 {
		p := m.rootPointers(level)
		if _, err := f.survey(&p); err != nil {
			return err
		}
	}
	if err := f.prepare(tx, a); err != nil {
		return err
	}
	for level := range maxLevels + 1 {
		p := m.rootPointers(level)
		f.fill(&p)
	}
	return nil
}

// survey is the first pass, below p, which has no data if it does not exist. It
// tells whether p is going to change.
func (f *filling) survey(p *pointers) (change bool, err error) {
	lo, hi := p.slots(f.run.Block, f.run.End())
	for i := lo; i < hi; i++ {
		blk := uint64(0)
		if p.data != nil {
			if blk, err = f.pointee(p, i); err != nil {
				return false, err
			}
		}
		if p.level == 0 {
			if blk != 0 {
				return false, f.mappedAlready(f.run)
			}
			change = true
			continue
		}
		v := visit{}
		if blk == 0 {
			f.news++
			change = true
		} else if v.buf, err = f.indirect(blk); err != nil {
			return false, err
		}
		at := len(f.visits)
		f.visits = append(f.visits, v)
		child := p.child(i, v.buf, uint64(f.Geo.BlockSize/4))
		modify, err := f.survey(&child)
		if err != nil {
			return false, err
		}
		f.visits[at].modify = modify
	}
	return change, nil
}

// prepare creates what is missing and gets the rest into the transaction.
func (f *filling) prepare(tx buffer.Tx, a Allocator) error {
	goal := f.run.Start
	for i := range f.visits {
		if b := f.visits[i].buf; b != nil {
			goal = b.Block + 1
		}
	}
	blocks, err := allocate(tx, a, f.news, goal)
	if err != nil {
		return err
	}
	next := blocks
	for i := range f.visits {
		v := &f.visits[i]
		switch {
		case v.buf == nil:
			if next[0] >= BlockMapLimit {
				err = fmt.Errorf("inode %d cannot point to block %d: %w", f.Ino, next[0], syscall.ENOSPC)
				break
			}
			v.buf, err = tx.New(next[0], f.indirectTag())
			next = next[1:]
		case v.modify:
			err = tx.Modify(v.buf)
		}
		if err != nil {
			return unwound(err, free(tx, a, blocks))
		}
	}
	return nil
}

// fill is the second pass.
func (f *filling) fill(p *pointers) {
	lo, hi := p.slots(f.run.Block, f.run.End())
	for i := lo; i < hi; i++ {
		if p.level == 0 {
			p.set(i, f.run.Start+(p.first+uint64(i)-f.run.Block))
			continue
		}
		b := f.visits[0].buf
		f.visits = f.visits[1:]
		if uint64(pointer(p.data, i)) != b.Block {
			p.set(i, b.Block)
		}
		child := p.child(i, b, uint64(f.Geo.BlockSize/4))
		f.fill(&child)
	}
}
