package disk_test

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"math"
	"slices"
	"strings"
	"syscall"
	"testing"

	"ext4box/ext4/internal/disk"
	"ext4box/ext4/internal/disktest"
)

// TestSizes compares the constants with the lengths that the format documents.
func TestSizes(t *testing.T) {
	for name, s := range map[string][2]int{
		"superblock":              {disk.SuperblockSize, 1024},
		"superblock offset":       {disk.SuperblockOffset, 1024},
		"small group descriptor":  {disk.GroupDescSizeMin, 32},
		"large group descriptor":  {disk.GroupDescSize64, 64},
		"old inode":               {disk.InodeSizeOld, 128},
		"inode block area":        {disk.InodeBlockSize, 60},
		"extent header":           {disk.ExtentHeaderSize, 12},
		"extent":                  {disk.ExtentEntrySize, 12},
		"directory entry":         {disk.DirEntryHeader, 8},
		"directory tail":          {disk.DirTailSize, 12},
		"directory hash":          {disk.DirHashSize, 8},
		"directory index entry":   {disk.DxEntrySize, 8},
		"attribute block header":  {disk.XattrHeaderSize, 32},
		"attribute inode header":  {disk.XattrIbodyHeaderSize, 4},
		"attribute entry":         {disk.XattrEntrySize, 16},
		"mmp":                     {disk.MMPSize, 1024},
		"orphan slots of 1 KiB":   {disk.OrphanSlots(1024), 254},
		"orphan slots of 64 KiB":  {disk.OrphanSlots(65536), 16382},
		"longest name":            {disk.NameMax, 255},
		"longest written extent":  {disk.ExtentMaxLen, 32768},
		"deepest extent tree":     {disk.ExtentMaxDepth, 5},
		"largest block":           {disk.MaxBlockSize, 65536},
		"largest orphan file":     {disk.OrphanFileMaxBlocks, 512},
		"flags that chattr shows": {int(disk.FlagsUserVisible), 0x725BDFFF},
	} {
		if s[0] != s[1] {
			t.Errorf("%s: %d, not %d", name, s[0], s[1])
		}
	}
}

// unhex reads bytes written as hexadecimal digits, spaces ignored.
func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestGoldenRecords decodes bytes written out by hand from the documentation of
// the format.
func TestGoldenRecords(t *testing.T) {
	if got, want := disk.DecodeExtentHeader(unhex(t, "0af3 0200 0400 0100 78563412")),
		(disk.ExtentHeader{Magic: disk.ExtentMagic, Entries: 2, Max: 4, Depth: 1, Generation: 0x12345678}); got != want {
		t.Errorf("extent header %+v, want %+v", got, want)
	}
	for raw, want := range map[string]disk.Extent{
		"01000000 0080 0200 03000000": {Block: 1, Len: 32768, Start: 0x200000003},
		"ffffffff 0100 ffff ffffffff": {Block: math.MaxUint32, Len: 1, Start: 0xFFFFFFFFFFFF},
		"00000000 0180 0000 07000000": {Len: 1, Unwritten: true, Start: 7},
		"00000000 ffff 0000 07000000": {Len: 32767, Unwritten: true, Start: 7},
		"00000000 0000 0000 00000000": {},
	} {
		if got := disk.DecodeExtent(unhex(t, raw)); got != want {
			t.Errorf("extent %s is %+v, want %+v", raw, got, want)
		}
	}
	if e := (disk.Extent{Block: math.MaxUint32, Len: 1}); e.End() != 1<<32 {
		t.Errorf("the last extent ends at %d", e.End())
	}
	if got, want := disk.DecodeExtentIndex(unhex(t, "05000000 11223344 5566 ffff")), (disk.ExtentIndex{Block: 5, Leaf: 0x665544332211}); got != want {
		t.Errorf("extent index %+v, want %+v", got, want)
	}
	raw := unhex(t, "01000000 02000000 03000000 0400 0500 0600 0700 00000000 0800 0900 0a00 0b00"+
		"10000000 20000000 30000000 4000 5000 6000 7000 00000000 8000 9000 00000000")
	if got, want := disk.DecodeGroupDesc(raw[:32]), (disk.GroupDesc{BlockBitmap: 1, InodeBitmap: 2, InodeTable: 3, FreeBlocks: 4, FreeInodes: 5,
		UsedDirs: 6, Flags: 7, BlockBitmapCsum: 8, InodeBitmapCsum: 9, ItableUnused: 10, Checksum: 11}); got != want {
		t.Errorf("small group descriptor %+v, want %+v", got, want)
	}
	if got, want := disk.DecodeGroupDesc(raw), (disk.GroupDesc{BlockBitmap: 0x10<<32 | 1, InodeBitmap: 0x20<<32 | 2, InodeTable: 0x30<<32 | 3,
		FreeBlocks: 0x400004, FreeInodes: 0x500005, UsedDirs: 0x600006, Flags: 7, BlockBitmapCsum: 0x800008, InodeBitmapCsum: 0x900009,
		ItableUnused: 0x70000A, Checksum: 11}); got != want {
		t.Errorf("large group descriptor %+v, want %+v", got, want)
	}
	xattr := unhex(t, "000002ea 02000000 01000000 44332211 88776655 000000000000000000000000")
	if got, want := disk.DecodeXattrHeader(xattr), (disk.XattrHeader{Magic: disk.XattrMagic, RefCount: 2, Blocks: 1, Hash: 0x11223344, Checksum: 0x55667788}); got != want {
		t.Errorf("attribute header %+v, want %+v", got, want)
	}
	entry := unhex(t, "03 01 e803 0c000000 05000000 efbeadde 616263 00 00000000")
	e, next, last, problem := disk.NextXattr(entry, 0)
	if problem != "" || last || next != 20 || e.NameIndex != disk.XattrUser || e.ValueOffs != 1000 || e.ValueIno != 12 || e.ValueSize != 5 ||
		e.Hash != 0xDEADBEEF || string(e.Name) != "abc" {
		t.Errorf("attribute entry %+v, next %d, last %v, %s", e, next, last, problem)
	}
	if _, _, last, problem := disk.NextXattr(entry, 20); !last || problem != "" {
		t.Errorf("the end of the attributes is not seen: %s", problem)
	}
	dir := unhex(t, "0c000000 1000 03 02 616263 0000000000")
	d, problem := disk.DecodeDirEntry(dir, 0, true)
	if problem != "" || d.Inode != 12 || d.RecLen != 16 || d.FileType != disk.FTDir || string(d.Name) != "abc" {
		t.Errorf("directory entry %+v, %s", d, problem)
	}
}

// TestNextXattrProblems gives entries that do not fit.
func TestNextXattrProblems(t *testing.T) {
	long := append([]byte{5, 1}, make([]byte, 14)...)
	for name, c := range map[string]struct {
		b   []byte
		off int
	}{
		"no end":           {make([]byte, 16), 13},
		"behind the end":   {make([]byte, 16), 16},
		"name leaves":      {append(long, "abcd"...), 0},
		"header leaves":    {[]byte{1, 1, 0, 0, 0, 0, 0, 0}, 0},
		"name leaves late": {append(make([]byte, 8), long...), 8},
	} {
		if _, _, last, problem := disk.NextXattr(c.b, c.off); last || problem == "" {
			t.Errorf("%s: accepted", name)
		}
	}
}

// TestDirEntryProblems gives entries that do not fit into their block.
func TestDirEntryProblems(t *testing.T) {
	le := binary.LittleEndian
	entry := func(recLen, nameLen, ft int) []byte {
		b := make([]byte, 1024)
		le.PutUint32(b, 12)
		le.PutUint16(b[4:], uint16(recLen))
		b[6], b[7] = byte(nameLen), byte(ft)
		return b
	}
	for _, c := range []struct {
		name     string
		b        []byte
		off      int
		filetype bool
		ok       bool
	}{
		{"whole block", entry(1024, 5, 1), 0, true, true},
		{"shortest", entry(12, 4, 1), 0, true, true},
		{"longest name", entry(264, 255, 1), 0, true, true},
		{"longest name, one too many", entry(260, 255, 1), 0, true, false},
		{"record of 8", entry(8, 0, 1), 0, true, false},
		{"record of 0", entry(0, 0, 1), 0, true, false},
		{"record of 13", entry(13, 1, 1), 0, true, false},
		{"name longer than record", entry(12, 5, 1), 0, true, false},
		{"record crosses the end", entry(1028, 5, 1), 0, true, false},
		{"record of 65532", entry(65532, 5, 1), 0, true, false},
		{"record of 65535", entry(65535, 5, 1), 0, true, false},
		{"too close to the end", entry(12, 1, 1), 1020, true, false},
		{"behind the end", entry(12, 1, 1), 1 << 30, true, false},
		{"before the beginning", entry(12, 1, 1), -8, true, false},
		{"without file type", entry(12, 4, 0), 0, false, true},
		{"checksum entry without file type", entry(12, 0, 0xDE), 0, false, true},
	} {
		e, problem := disk.DecodeDirEntry(c.b, c.off, c.filetype)
		if (problem == "") != c.ok {
			t.Errorf("%s: %q", c.name, problem)
		}
		if problem == "" && !c.filetype && e.FileType != disk.FTUnknown {
			t.Errorf("%s: has file type %d", c.name, e.FileType)
		}
	}
}

// TestRecordLengthOf64KiB checks how a length of more than 16 bits is stored.
func TestRecordLengthOf64KiB(t *testing.T) {
	b := make([]byte, 65536)
	for stored, want := range map[uint16]int{0: 65536, 65535: 65536, 1: 65536, 65532: 65532, 12: 12, 0x8000: 0x8000} {
		binary.LittleEndian.PutUint16(b[4:], stored)
		if e, problem := disk.DecodeDirEntry(b, 0, true); problem != "" || e.RecLen != want {
			t.Errorf("stored %d: length %d, %s; want %d", stored, e.RecLen, problem, want)
		}
	}
	for _, stored := range []uint16{2, 3, 0xFFFE} {
		binary.LittleEndian.PutUint16(b[4:], stored)
		if e, problem := disk.DecodeDirEntry(b, 0, true); problem == "" {
			t.Errorf("stored %d: length %d is accepted", stored, e.RecLen)
		}
	}
}

func TestDirTail(t *testing.T) {
	good := disktest.DirBlock(1024, true, disktest.Entry{Ino: 12, Name: "a"})
	disktest.SealDirLeaf(9, good)
	if sum, ok := disk.DirTail(good); !ok || sum != disk.DirLeafChecksum(9, good) {
		t.Errorf("tail %#x, %v", sum, ok)
	}
	for _, at := range []int{0, 3, 4, 5, 6, 7} {
		bad := slices.Clone(good)
		bad[1024-12+at] ^= 0x10
		if _, ok := disk.DirTail(bad); ok {
			t.Errorf("a change of byte %d of the tail is accepted", at)
		}
	}
}

// anywhere accepts every run of device blocks below 2^32.
func anywhere(start, n uint64) bool { return start+n <= 1<<32 }

// TestCheckExtentNode gives nodes with one thing wrong.
func TestCheckExtentNode(t *testing.T) {
	leaf := func(e ...disktest.Extent) []byte { return disktest.ExtentNode(disktest.RootSize, 0, e...) }
	index := func(e ...disktest.Extent) []byte { return disktest.ExtentNode(disktest.RootSize, 1, e...) }
	set := func(b []byte, off int, v uint16) []byte { binary.LittleEndian.PutUint16(b[off:], v); return b }
	for _, c := range []struct {
		name  string
		node  []byte
		depth int
		want  string // in the error; "" accepts
	}{
		{"empty leaf", leaf(), 0, ""},
		{"adjacent extents", leaf(disktest.Written(0, 5, 10), disktest.Unwritten(5, 1, 100)), 0, ""},
		{"up to the last block", leaf(disktest.Written(math.MaxUint32, 1, 10)), 0, ""},
		{"index", index(disktest.Written(0, 0, 10), disktest.Written(1, 0, 10)), 1, ""},
		{"magic", set(leaf(), 0, 0xF30B), 0, "magic"},
		{"depth too small", leaf(), 1, "depth"},
		{"depth too large", index(disktest.Written(0, 0, 10)), 0, "depth"},
		{"no capacity", set(leaf(), 4, 0), 0, "room"},
		{"capacity beyond the node", set(leaf(), 4, 5), 0, "room"},
		{"capacity 65535", set(leaf(), 4, math.MaxUint16), 0, "room"},
		{"more entries than capacity", set(leaf(), 2, 5), 0, "entries"},
		{"more entries than a small capacity", set(set(leaf(), 2, 3), 4, 2), 0, "entries"},
		{"empty index", index(), 1, "empty"},
		{"empty extent", leaf(disktest.Written(0, 0, 10)), 0, "empty"},
		{"overlap", leaf(disktest.Written(0, 5, 10), disktest.Written(4, 1, 100)), 0, "overlaps"},
		{"same block twice", leaf(disktest.Written(4, 1, 10), disktest.Written(4, 1, 100)), 0, "overlaps"},
		{"out of order", leaf(disktest.Written(9, 1, 10), disktest.Written(4, 1, 100)), 0, "overlaps"},
		{"behind the largest file", leaf(disktest.Written(math.MaxUint32, 2, 10)), 0, "beyond the largest file"},
		{"behind the device", leaf(disktest.Written(0, 2, 1<<32-1)), 0, "not for data"},
		{"far behind the device", leaf(disktest.Unwritten(0, 1, 1<<48-1)), 0, "not for data"},
		{"index out of order", index(disktest.Written(5, 0, 10), disktest.Written(4, 0, 11)), 1, "out of order"},
		{"index with the same block twice", index(disktest.Written(5, 0, 10), disktest.Written(5, 0, 11)), 1, "out of order"},
		{"index behind the device", index(disktest.Written(5, 0, 1<<32)), 1, "cannot be a node"},
	} {
		err := disk.CheckExtentNode("inode 12", c.node, c.depth, anywhere)
		var corrupt *disk.CorruptError
		switch {
		case c.want == "" && err != nil:
			t.Errorf("%s: %v", c.name, err)
		case c.want != "" && (!errors.As(err, &corrupt) || corrupt.What != "inode 12" || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%s: %v", c.name, err)
		}
	}
	if _, _, ok := disk.ExtentBlockChecksum(0, set(disktest.ExtentNode(1024, 0), 4, 85)); ok {
		t.Error("there is room for a checksum in a node that is full")
	}
	if _, _, ok := disk.ExtentBlockChecksum(0, set(disktest.ExtentNode(1024, 0), 4, math.MaxUint16)); ok {
		t.Error("there is a checksum behind the node")
	}
}

// dx makes index entries of pairs of hash and block.
func dx(pairs ...uint32) (list []disktest.DxEntry) {
	for ; len(pairs) > 0; pairs = pairs[2:] {
		list = append(list, disktest.DxEntry{Hash: pairs[0], Block: pairs[1]})
	}
	return list
}

// TestDxProblems gives index blocks with one thing wrong.
func TestDxProblems(t *testing.T) {
	le := binary.LittleEndian
	entries := dx(0, 1, 0x10, 2, 0x20, 3, 0x21, 4)
	for _, csum := range []bool{false, true} {
		for _, size := range []int{1024, 4096, 65536} {
			root := func() []byte { return disktest.DxRoot(size, csum, 2, 2, 1, 2, entries...) }
			node := func() []byte { return disktest.DxNode(size, csum, entries...) }
			if r, n, err := disk.DecodeDxRoot("dir", root(), 2, csum); err != nil || n.Count != 4 || r.Levels != 2 || r.HashVersion != disk.HashHalfMD4 ||
				n.Limit != disktest.DxLimit(size, true, csum) || n.Hash(0) != 0 || n.Hash(3) != 0x21 || n.Block(0) != 1 || n.Block(3) != 4 {
				t.Errorf("size %d: root %+v, node %+v, %v", size, r, n, err)
			}
			if n, err := disk.DecodeDxNode("dir", node(), csum); err != nil || n.Count != 4 || n.Block(2) != 3 {
				t.Errorf("size %d: node %+v, %v", size, n, err)
			}
			for name, do := range map[string]func(b []byte){
				"first record":   func(b []byte) { le.PutUint16(b[4:], 16) },
				"second record":  func(b []byte) { le.PutUint16(b[16:], 16) },
				"reserved word":  func(b []byte) { b[24] = 1 },
				"header length":  func(b []byte) { b[29] = 9 },
				"levels":         func(b []byte) { b[30] = 3 },
				"flags":          func(b []byte) { b[31] = 1 },
				"no entries":     func(b []byte) { le.PutUint16(b[34:], 0) },
				"count":          func(b []byte) { le.PutUint16(b[34:], le.Uint16(b[32:])+1) },
				"limit too high": func(b []byte) { le.PutUint16(b[32:], le.Uint16(b[32:])+1) },
				"limit too low":  func(b []byte) { le.PutUint16(b[32:], le.Uint16(b[32:])-1) },
				"order":          func(b []byte) { le.PutUint32(b[48:], 0x0F) },
			} {
				b := root()
				do(b)
				if _, _, err := disk.DecodeDxRoot("dir", b, 2, csum); !errors.Is(err, syscall.EUCLEAN) {
					t.Errorf("root of %d bytes, %s: %v", size, name, err)
				}
			}
			for name, do := range map[string]func(b []byte){
				"in use":     func(b []byte) { b[0] = 1 },
				"has a name": func(b []byte) { b[6] = 1 },
				"record":     func(b []byte) { le.PutUint16(b[4:], uint16(size-12)) },
				"no entries": func(b []byte) { le.PutUint16(b[10:], 0) },
				"count":      func(b []byte) { le.PutUint16(b[10:], math.MaxUint16) },
				"limit":      func(b []byte) { le.PutUint16(b[8:], math.MaxUint16) },
				"order":      func(b []byte) { le.PutUint32(b[8+16:], 0x0F) },
			} {
				b := node()
				do(b)
				if _, err := disk.DecodeDxNode("dir", b, csum); !errors.Is(err, syscall.EUCLEAN) {
					t.Errorf("node of %d bytes, %s: %v", size, name, err)
				}
			}
		}
	}
	b := disktest.DxNode(1024, true, entries...)
	le.PutUint16(b[8:], math.MaxUint16)
	if _, _, ok := disk.DxChecksum(0, b, false); ok {
		t.Error("the checksum of an index node lies behind it")
	}
}

// TestDxSearch compares with a search from the beginning.
func TestDxSearch(t *testing.T) {
	entries := dx(0, 9, 0x10, 1, 0x20, 2, 0x21, 3, 0x21, 4, 0xFFFFFFFC, 5)
	n, err := disk.DecodeDxNode("dir", disktest.DxNode(1024, false, entries...), false)
	if err != nil {
		t.Fatal(err)
	}
	for _, hash := range []uint32{0, 0xE, 0x10, 0x1E, 0x20, 0x22, 0xFFFFFFFA, 0xFFFFFFFC, 0xFFFFFFFE} {
		want := 0
		for i, e := range entries {
			if i > 0 && e.Hash <= hash {
				want = i
			}
		}
		if got := n.Search(hash); got != want {
			t.Errorf("hash %#x is in entry %d, not %d", hash, got, want)
		}
	}
}

func TestErrors(t *testing.T) {
	err := disk.Corruptf(disk.InodeName(12), "size %d is impossible", 7)
	if err.Error() != "inode 12: size 7 is impossible" || !errors.Is(err, syscall.EUCLEAN) {
		t.Errorf("corruption is reported as %q", err)
	}
	var feature error = &disk.FeatureError{Names: (disk.IncompatDirdata | 1<<31).Names()}
	if !errors.Is(feature, syscall.EOPNOTSUPP) || !strings.Contains(feature.Error(), "dirdata, FEATURE_I31") {
		t.Errorf("features are reported as %q", feature)
	}
	if got := disk.BlockName(1 << 40); got != "block 1099511627776" {
		t.Errorf("a block is called %q", got)
	}
	if got := disk.CString([]byte("no end")); got != "no end" {
		t.Errorf("text without NUL is %q", got)
	}
	if !disk.Time(0).IsZero() || disk.Time(1).Unix() != 1 {
		t.Error("times of the superblock are wrong")
	}
}
