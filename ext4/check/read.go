package check

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"

	"ext4box/ext4/internal/disk"
)

// errBeyond says that something lies beyond the end of the device, which is
// damage and not a failure.
var errBeyond = errors.New("beyond the end of the device")

// read fills b from byte off of the device.
func (c *checker) read(b []byte, off uint64) error {
	size := uint64(c.dev.Size())
	if off > size || uint64(len(b)) > size-off {
		return errBeyond
	}
	_, err := c.dev.ReadAt(b, int64(off))
	if err == io.EOF {
		return errBeyond // somebody truncates the image
	}
	if err != nil {
		return fmt.Errorf("reading %d bytes at %d: %w", len(b), off, err)
	}
	return nil
}

// readBlock fills b, of one or more whole blocks, from block blk on. The blocks
// need not lie inside the filesystem.
func (c *checker) readBlock(b []byte, blk uint64) error {
	if blk > ^uint64(0)>>c.geo.BlockBits {
		return errBeyond
	}
	return c.read(b, blk<<c.geo.BlockBits)
}

// descTable reads group descriptors as they are asked for, and keeps the blocks
// that it read last.
type descTable struct {
	mu     sync.Mutex
	blocks map[uint32][]byte
}

const descBlocksKept = 128

// desc returns the descriptor of a group. ok is false where it cannot be read.
func (c *checker) desc(group uint32) (d disk.GroupDesc, raw []byte, ok bool, err error) {
	t := &c.descs
	i, off := group/c.geo.DescPerBlock, group%c.geo.DescPerBlock*c.geo.DescSize
	t.mu.Lock()
	defer t.mu.Unlock()
	b := t.blocks[i]
	if b == nil {
		b = make([]byte, c.geo.BlockSize)
		switch err := c.readBlock(b, c.geo.DescBlock(c.sbBlock, i)); {
		case err == errBeyond:
			return d, nil, false, nil
		case err != nil:
			return d, nil, false, err
		}
		if t.blocks == nil || len(t.blocks) >= descBlocksKept {
			t.blocks = map[uint32][]byte{}
		}
		t.blocks[i] = b
	}
	raw = b[off : off+c.geo.DescSize]
	return disk.DecodeGroupDesc(raw), raw, true, nil
}

// inode is an inode as it is stored.
type inode struct {
	disk.Inode
	ino  uint32
	raw  []byte
	seed uint32 // of its checksums
}

// inode reads an inode, which must be in 1..InodesCount. ok is false where its
// table is not on the device.
func (c *checker) inode(ino uint32) (in *inode, ok bool, err error) {
	group, i := c.geo.InodeGroup(ino)
	d, _, ok, err := c.desc(group)
	if !ok || err != nil {
		return nil, false, err
	}
	if d.InodeTable >= c.geo.BlocksCount {
		return nil, false, nil
	}
	raw := make([]byte, c.geo.InodeSize)
	err = c.read(raw, d.InodeTable<<c.geo.BlockBits+uint64(i)*uint64(c.geo.InodeSize))
	if err == errBeyond {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	return c.decode(ino, raw), true, nil
}

// decode makes sense of a raw inode, which must not change while the result is in
// use.
func (c *checker) decode(ino uint32, raw []byte) *inode {
	in := &inode{Inode: disk.DecodeInode(raw, c.hurd), ino: ino, raw: raw}
	in.seed = c.sums.InodeSeed(ino, in.Generation)
	return in
}

func (in *inode) is(flag disk.InodeFlags) bool { return in.Flags&flag != 0 }

// mapped tells whether the inode has a map of blocks at all.
func (in *inode) mapped() bool {
	switch in.Type() {
	case disk.ModeReg, disk.ModeDir:
		return !in.is(disk.FlagInlineData)
	case disk.ModeLink:
		switch {
		case in.is(disk.FlagInlineData):
			return false
		case in.FileACL == 0:
			return in.Blocks != 0
		}
		return in.Size >= disk.InodeBlockSize || in.Size > 4 && isZero(in.Block[4:8])
	}
	return in.ino < 11 && in.Mode == 0 // reserved inodes may have no type
}

// fastSymlink tells whether a symbolic link has its target in place of a map.
func (in *inode) fastSymlink() bool {
	if in.is(disk.FlagExtents) {
		return false
	}
	return in.Size > 0 && in.Size < disk.InodeBlockSize
}

// mapping is a run of blocks of a file.
type mapping struct {
	logical   uint64
	start, n  uint64 // on the device
	unwritten bool
	node      bool // the blocks are of the map itself; logical is where what they lead to begins
}

// mapProblem is told of what is wrong with a map; blk is the node, or 0 for the
// one in the inode.
type mapProblem func(class Class, blk uint64, format string, args ...any)

// walkMap calls fn for the nodes and the blocks of an inode's map in the order of
// the file, until it returns false, which for a node means not to follow it. Each
// run lies inside the filesystem, and no node is on the way to itself. What is
// wrong is told to problem, unless that is nil, and left out.
func (c *checker) walkMap(in *inode, problem mapProblem, fn func(mapping) bool) error {
	if problem == nil {
		problem = func(Class, uint64, string, ...any) {}
	}
	if in.is(disk.FlagExtents) {
		return c.walkExtents(in, problem, fn)
	}
	return c.walkPointers(in, problem, fn)
}

func le32(b []byte) uint32 { return binary.LittleEndian.Uint32(b) }
