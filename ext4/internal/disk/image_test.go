package disk_test

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"ext4box/ext4/internal/disk"
	"ext4box/internal/e2test"
)

// image is a real image with what is needed to find records in it.
type image struct {
	*testing.T
	path string
	sb   disk.Superblock
	g    disk.Geometry
	sums disk.Checksums
}

func load(t *testing.T, path string) *image {
	t.Helper()
	im := &image{T: t, path: path}
	im.sb, im.g = open(t, path)
	im.sums = im.sb.Checksums()
	return im
}

func (im *image) block(blk uint64) []byte {
	im.Helper()
	return e2test.Bytes(im.T, im.path, int64(blk)<<im.g.BlockBits, int(im.g.BlockSize))
}

func (im *image) group(group uint32) (disk.GroupDesc, []byte) {
	im.Helper()
	b := im.block(im.g.DescBlock(disk.SuperblockOffset>>im.g.BlockBits, group/im.g.DescPerBlock))
	raw := b[group%im.g.DescPerBlock*im.g.DescSize:][:im.g.DescSize]
	return disk.DecodeGroupDesc(raw), raw
}

func (im *image) inode(ino uint32) (disk.Inode, []byte) {
	im.Helper()
	group, index := im.g.InodeGroup(ino)
	d, _ := im.group(group)
	off := int64(d.InodeTable)<<im.g.BlockBits + int64(index)*int64(im.g.InodeSize)
	raw := e2test.Bytes(im.T, im.path, off, int(im.g.InodeSize))
	return disk.DecodeInode(raw, im.sb.CreatorOS == disk.CreatorHurd), raw
}

var statIno = regexp.MustCompile(`Inode: (\d+) `)

// ino asks debugfs for the number of a file.
func (im *image) ino(path string) uint32 {
	im.Helper()
	m := statIno.FindStringSubmatch(e2test.Debugfs(im.T, im.path, fmt.Sprintf("stat %q", path)))
	if m == nil {
		im.Fatalf("debugfs knows no %s", path)
	}
	n, _ := strconv.ParseUint(m[1], 10, 32)
	return uint32(n)
}

// seed is the seed of an inode's checksums.
func (im *image) seed(ino uint32) uint32 {
	im.Helper()
	in, _ := im.inode(ino)
	return im.sums.InodeSeed(ino, in.Generation)
}

// flips calls check with each of some single-bit changes of b, which it must
// not accept.
func flips(t *testing.T, what string, b []byte, from, to int, accepted func(b []byte) bool) {
	t.Helper()
	if !accepted(b) {
		t.Errorf("%s: the checksum of a real image does not match", what)
		return
	}
	for off := from; off < to; off += 1 + (to-from)/64 {
		c := append([]byte(nil), b...)
		c[off] ^= 1 << (off % 8)
		if accepted(c) {
			t.Errorf("%s: a change of byte %d goes unnoticed", what, off)
		}
	}
}

// richTree is a directory tree for mke2fs -d that needs every kind of block.
func richTree(t *testing.T) string {
	files := map[string]string{"small": "hello\n", "dir/sub/": "", "linear/a": "a", "linear/b": "b"}
	for i := range 900 {
		files[fmt.Sprintf("big/%s%04d", strings.Repeat("n", 196), i)] = ""
	}
	return e2test.Tree(t, files)
}
