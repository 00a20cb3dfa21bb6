package dirent

import (
	"ext4box/ext4/internal/buffer"
	"ext4box/ext4/internal/disk"
	"ext4box/ext4/internal/extent"
)

// maxIndexLevels is the number of index levels below the root with large_dir.
const maxIndexLevels = 2

// frame is one step of the way through the index.
type frame struct {
	node disk.DxNode
	at   int
}

// lookupIndex looks a name up by its hash. usable is false if the index cannot
// be used and the directory has to be read through.
func (d *Dir) lookupIndex(m *matcher) (ino uint32, usable bool, err error) {
	blocks, err := d.blocks()
	if err != nil {
		return 0, false, err
	}
	b, err := d.mapped(0, blocks, func(uint64, []byte) buffer.Kind { return buffer.DxRoot })
	if err != nil {
		return 0, false, err
	}
	levels := maxIndexLevels - 1
	if d.LargeDir {
		levels = maxIndexLevels
	}
	what := "directory " + disk.InodeName(d.Map.Ino)
	root, node, err := disk.DecodeDxRoot(what, b, levels, d.Map.Sums.Metadata)
	if err != nil {
		return 0, false, nil
	}
	version := root.HashVersion
	if d.Unsigned {
		version = version.Unsigned()
	}
	hash, _, err := disk.DirHash(version, d.HashSeed, m.hashed())
	if err != nil {
		return 0, false, nil
	}

	var path [maxIndexLevels + 1]frame
	depth := 0
	path[0] = frame{node, node.Search(hash)}
	for range blocks {
		for depth < int(root.Levels) {
			f := &path[depth]
			node, err := d.indexNode(uint64(f.node.Block(f.at)), blocks)
			if err != nil {
				return 0, false, err
			}
			depth++
			path[depth] = frame{node, node.Search(hash)}
		}
		f := &path[depth]
		ino, err := d.searchLeaf(uint64(f.node.Block(f.at)), blocks, m)
		if ino != 0 || err != nil {
			return ino, true, err
		}
		// Names of equal hash may continue in the next leaf, whose index entry
		// then has that hash with the lowest bit set.
		for path[depth].at+1 >= path[depth].node.Count {
			if depth == 0 {
				return 0, true, nil
			}
			depth--
		}
		f = &path[depth]
		f.at++
		if f.node.Hash(f.at)&^1 != hash {
			return 0, true, nil
		}
	}
	return 0, false, disk.Corruptf(what, "index leads to more leaves than there are blocks")
}

// indexNode returns an inner node of the index.
func (d *Dir) indexNode(blk, blocks uint64) (disk.DxNode, error) {
	b, err := d.mapped(blk, blocks, d.kindByShape)
	if err != nil {
		return disk.DxNode{}, err
	}
	return disk.DecodeDxNode("directory "+disk.InodeName(d.Map.Ino), b, d.Map.Sums.Metadata)
}

// searchLeaf looks for the name in one leaf; 0 means that it is not there.
func (d *Dir) searchLeaf(blk, blocks uint64, m *matcher) (uint32, error) {
	b, err := d.mapped(blk, blocks, d.kindByShape)
	if err != nil {
		return 0, err
	}
	found := uint32(0)
	d.each(b, func(_ int, e *disk.DirEntry) bool {
		if e.Inode != 0 && m.matches(e.Name) {
			found = e.Inode
		}
		return found == 0
	})
	return found, nil
}

// mapped returns a block that the index refers to, which must exist.
func (d *Dir) mapped(blk, blocks uint64, kind func(uint64, []byte) buffer.Kind) ([]byte, error) {
	what := "directory " + disk.InodeName(d.Map.Ino)
	if blk >= blocks {
		return nil, disk.Corruptf(what, "index points to block %d of %d", blk, blocks)
	}
	run, err := d.Map.Lookup(blk)
	if err != nil {
		return nil, err
	}
	if run.State == extent.Hole {
		return nil, disk.Corruptf(what, "index points into a hole at block %d", blk)
	}
	return d.block(blk, run.Start+blk-run.Block, kind)
}
