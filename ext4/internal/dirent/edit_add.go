package dirent

import (
	"ext4box/ext4/internal/buffer"
	"ext4box/ext4/internal/disk"
)

// add puts the entry where there is room for it, or makes room.
func (e *edit) add(name string, n disk.DirEntry) error {
	d := e.d
	if d.Indexed {
		return e.addIndexed(name, n)
	}
	blocks, err := d.blocks()
	if err != nil {
		return err
	}
	if blocks == 0 {
		return disk.Corruptf(d.name(), "has no block")
	}
	var first *buffer.Buffer
	done := false
	err = d.scan(0, blocks, func(blk uint64, b *buffer.Buffer) (bool, error) {
		if blk == 0 {
			first = b
		}
		var err error
		done, err = e.put(b, n)
		return !done, err
	})
	switch {
	case err != nil || done:
		return err
	case first == nil:
		return disk.Corruptf(d.name(), "has a hole instead of its first block")
	case blocks == 1 && d.Index:
		if err := e.makeIndex(first); err != nil {
			return err
		}
		return e.addIndexed(name, n)
	}
	_, b, err := e.append(buffer.DirLeaf)
	if err != nil {
		return err
	}
	_, err = e.put(b, n)
	return err
}

// put puts the entry into a leaf, if that has room.
func (e *edit) put(b *buffer.Buffer, n disk.DirEntry) (done bool, err error) {
	area, err := e.d.entries(b)
	if err != nil {
		return false, err
	}
	s, ok, err := e.d.room(e.d.what(b.Block), area, disk.DirEntrySize(len(n.Name)))
	if !ok {
		return false, err
	}
	if err := e.modify(b, buffer.DirLeaf); err != nil {
		return false, err
	}
	e.d.fill(area, s, n)
	return true, nil
}

// makeIndex moves the entries of the only block of a directory into a new leaf
// and makes the block the root of an index. The room for this comes from "."
// and "..", which stay.
func (e *edit) makeIndex(b *buffer.Buffer) error {
	d := e.d
	if d.HashVersion > disk.HashTEA {
		return disk.Corruptf("superblock", "directories cannot be hashed by %v", d.HashVersion)
	}
	what := d.what(b.Block)
	area, err := d.entries(b)
	if err != nil {
		return err
	}
	area = append([]byte(nil), area...)
	var records []record
	dots := 0
	if err := d.walk(what, area, func(off int, e *disk.DirEntry) bool {
		switch {
		case e.Inode == 0:
		case off == 0 && e.RecLen == dotsSize/2 && string(e.Name) == ".",
			off == dotsSize/2 && string(e.Name) == "..":
			dots++
		default:
			records = append(records, record{off: off, size: disk.DirEntrySize(len(e.Name))})
		}
		return true
	}); err != nil {
		return err
	}
	if dots != 2 {
		return disk.Corruptf(what.String(), "does not start with . and ..")
	}
	if err := e.modify(b, buffer.DirLeaf); err != nil {
		return err
	}
	blk, leaf, err := e.append(buffer.DirLeaf)
	if err != nil {
		return err
	}
	pack(leaf.Data[:len(area)], area, records)
	disk.InitDxRoot(b.Data, d.HashVersion, uint32(blk), d.Map.Sums.Metadata)
	d.Indexed = true
	return e.touch(b, buffer.DxRoot)
}
