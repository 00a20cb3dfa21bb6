package fastcommit

import (
	"bytes"
	"io"

	"ext4box/ext4/internal/disk"
)

const (
	testBlockSize = 1024
	testInodeSize = 256
	testTID       = 9
)

// area is a fast commit area in the making.
type area struct {
	image []byte
	sum   uint32
	tid   uint32
}

func newArea() *area {
	a := &area{tid: testTID}
	a.head()
	return a
}

func (a *area) head() {
	a.tag(TagHead, le.AppendUint32(make([]byte, 4), a.tid))
}

// tag appends a tag, in the next block where it does not fit into this one.
func (a *area) tag(t TagType, value []byte) {
	const header = tagHeaderSize
	left := testBlockSize - len(a.image)%testBlockSize
	need := header + len(value)
	if t != TagTail {
		need += header + tailSize // the kernel keeps room for the tail
	}
	if left < need && left < testBlockSize {
		a.append(TagPad, make([]byte, left-header))
	}
	a.append(t, value)
}

func (a *area) append(t TagType, value []byte) {
	start := len(a.image)
	a.image = le.AppendUint16(a.image, uint16(t))
	a.image = le.AppendUint16(a.image, uint16(len(value)))
	a.image = append(a.image, value...)
	a.sum = disk.CRC32C(a.sum, a.image[start:])
}

func (a *area) tail() {
	left := testBlockSize - len(a.image)%testBlockSize
	a.image = le.AppendUint16(a.image, uint16(TagTail))
	a.image = le.AppendUint16(a.image, uint16(left-tagHeaderSize))
	a.image = le.AppendUint32(a.image, a.tid)
	a.sum = disk.CRC32C(a.sum, a.image[len(a.image)-8:])
	a.image = le.AppendUint32(a.image, a.sum)
	a.image = append(a.image, make([]byte, left-12)...)
	a.sum = 0
}

func (a *area) inode(ino uint32, image []byte) {
	a.tag(TagInode, append(le.AppendUint32(nil, ino), image...))
}

func (a *area) dentry(t TagType, parent, ino uint32, name string) {
	v := le.AppendUint32(nil, parent)
	v = le.AppendUint32(v, ino)
	a.tag(t, append(v, name...))
}

func (a *area) addRange(ino, start, n uint32, block uint64, unwritten bool) {
	if unwritten {
		n += maxWritten
	}
	v := le.AppendUint32(nil, ino)
	v = le.AppendUint32(v, start)
	v = le.AppendUint16(v, uint16(n))
	v = le.AppendUint16(v, uint16(block>>32))
	a.tag(TagAddRange, le.AppendUint32(v, uint32(block)))
}

func (a *area) delRange(ino, start, n uint32) {
	v := le.AppendUint32(nil, ino)
	v = le.AppendUint32(v, start)
	a.tag(TagDelRange, le.AppendUint32(v, n))
}

// reader is the area with stale garbage behind it.
func (a *area) reader() *io.SectionReader {
	image := append(bytes.Clone(a.image), bytes.Repeat([]byte{0xA5}, 3*testBlockSize)...)
	image = image[:len(image)/testBlockSize*testBlockSize]
	return io.NewSectionReader(bytes.NewReader(image), 0, int64(len(image)))
}

func (a *area) load(base Base) (*State, error) {
	return Load(a.reader(), Options{BlockSize: testBlockSize, InodeSize: testInodeSize, Blocks: 1 << 34, TID: testTID}, base)
}

// image is an inode of some mode, link count and flags.
func image(mode, links uint16, flags uint32) []byte {
	b := bytes.Repeat([]byte{0xEE}, 160)
	le.PutUint16(b[inodeMode:], mode)
	le.PutUint16(b[inodeLinks:], links)
	le.PutUint32(b[inodeFlags:], flags)
	return b
}

// tree is a filesystem for the fast commits to be laid over.
type tree struct {
	links map[uint32]uint16
	names map[uint32]map[string]uint32
	fold  bool
	err   error
}

func (t tree) Links(ino uint32) uint16 { return t.links[ino] }

func (t tree) Lookup(dir uint32, name []byte) (uint32, error) {
	return t.names[dir][string(t.Key(dir, name))], t.err
}

func (t tree) Key(_ uint32, name []byte) []byte {
	if t.fold {
		return bytes.ToLower(name)
	}
	return name
}

// newTree has files 20 (a), 21 (b and, in directory 30, b2) and directory 30.
func newTree() tree {
	return tree{
		links: map[uint32]uint16{2: 3, 20: 1, 21: 2, 30: 2},
		names: map[uint32]map[string]uint32{
			2:  {"a": 20, "b": 21, "dir": 30},
			30: {"b2": 21},
			98: {"a": 20}, // not in use
		},
	}
}
