package fastcommit

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"syscall"
	"testing"

	"pgregory.net/rapid"

	"ext4box/ext4/internal/disk"
)

func mustLoad(t testing.TB, a *area, base Base) *State {
	t.Helper()
	s, err := a.load(base)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// names prints the changes of a directory.
func names(d *Dir) string {
	if d == nil {
		return "none"
	}
	var out []string
	for _, e := range d.Entries() {
		out = append(out, fmt.Sprintf("%s:%d", e.Name, e.Ino))
	}
	return strings.Join(out, " ")
}

const regular = 0x81A4

func TestNames(t *testing.T) {
	for _, c := range []struct {
		name  string
		tags  func(a *area)
		root  string
		links map[uint32]uint16
		freed []uint32
	}{
		{"unlink the last name", func(a *area) {
			a.dentry(TagUnlink, 2, 20, "a")
		}, "a:0", map[uint32]uint16{20: 0}, []uint32{20}},
		{"unlink one of two names", func(a *area) {
			a.dentry(TagUnlink, 2, 21, "b")
			a.inode(21, image(regular, 1, 0))
		}, "b:0", map[uint32]uint16{21: 1}, nil},
		{"unlink what is not there", func(a *area) {
			a.dentry(TagUnlink, 2, 20, "zzz")
			a.dentry(TagUnlink, 2, 99, "a")
			a.dentry(TagUnlink, 98, 20, "a") // in what was a directory once
		}, "none", map[uint32]uint16{}, nil},
		{"unlink what leads elsewhere", func(a *area) {
			a.dentry(TagUnlink, 2, 21, "a")
		}, "none", map[uint32]uint16{21: 1}, nil},
		{"link", func(a *area) {
			a.dentry(TagLink, 2, 20, "a2")
			a.dentry(TagLink, 2, 20, "b")  // is there
			a.dentry(TagLink, 2, 99, "c")  // no such inode
			a.dentry(TagLink, 98, 20, "c") // in what was a directory once
		}, "a2:20", map[uint32]uint16{20: 2}, nil},
		{"rename", func(a *area) {
			a.dentry(TagLink, 2, 20, "c")
			a.dentry(TagUnlink, 2, 20, "a")
			a.inode(20, image(regular, 1, 0))
		}, "c:20 a:0", map[uint32]uint16{20: 1}, nil},
		{"rename over", func(a *area) {
			a.dentry(TagUnlink, 2, 21, "b")
			a.dentry(TagLink, 2, 20, "b")
			a.dentry(TagUnlink, 2, 20, "a")
			a.inode(20, image(regular, 1, 0))
		}, "b:20 a:0", map[uint32]uint16{20: 1, 21: 1}, nil},
		{"create", func(a *area) {
			a.inode(40, image(regular, 7, 0))
			a.dentry(TagCreat, 2, 40, "new")
			a.tail()
			a.dentry(TagUnlink, 2, 40, "new")
			a.tail()
			a.inode(40, image(regular, 1, 0))
			a.dentry(TagCreat, 2, 40, "newer")
		}, "new:0 newer:40", map[uint32]uint16{40: 1}, nil},
		{"create where a name is", func(a *area) {
			a.inode(40, image(regular, 7, 0))
			a.dentry(TagCreat, 2, 40, "a")
		}, "none", map[uint32]uint16{40: 1}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := newArea()
			c.tags(a)
			a.tail()
			s := mustLoad(t, a, newTree())
			if got := names(s.Dir(2)); got != c.root {
				t.Errorf("names: %s, want %s", got, c.root)
			}
			links := map[uint32]uint16{}
			var freed []uint32
			for ino, i := range s.Inodes() {
				links[ino] = i.Links
				if i.Freed {
					freed = append(freed, ino)
				}
			}
			for ino, n := range c.links {
				if links[ino] != n {
					t.Errorf("inode %d has %d links, want %d", ino, links[ino], n)
				}
			}
			if !slices.Equal(freed, c.freed) {
				t.Errorf("freed: %v", freed)
			}
		})
	}
}

func TestDirectories(t *testing.T) {
	a := newArea()
	a.inode(50, image(0x41ED, 2, flagExtents))
	a.dentry(TagCreat, 2, 50, "sub")
	a.inode(51, image(regular, 1, 0))
	a.dentry(TagCreat, 50, 51, "file")
	a.dentry(TagUnlink, 2, 30, "dir")
	a.tail()
	s := mustLoad(t, a, newTree())
	d := s.Dir(50)
	if d == nil || !d.Made || d.Parent != 2 || names(d) != "file:51" {
		t.Errorf("%+v", d)
	}
	if i := s.Inode(50); i.Links != 1 || i.Reset {
		t.Errorf("%+v", i)
	}
	if i := s.Inode(30); i.Links != 1 || i.Freed {
		t.Errorf("%+v", i)
	}
	if e, found := s.Dir(2).Lookup([]byte("dir")); !found || e.Ino != 0 {
		t.Errorf("%+v, %v", e, found)
	}
	var dirs []uint32
	for ino := range s.Dirs() {
		dirs = append(dirs, ino)
	}
	if !slices.Equal(dirs, []uint32{2, 50}) {
		t.Errorf("%v", dirs)
	}
}

func TestNamesAreComparedByKey(t *testing.T) {
	base := newTree()
	base.fold = true
	a := newArea()
	a.dentry(TagUnlink, 2, 20, "A")
	a.dentry(TagLink, 2, 21, "New")
	a.dentry(TagUnlink, 2, 21, "NEW")
	a.dentry(TagLink, 2, 21, "neW")
	a.tail()
	s := mustLoad(t, a, base)
	if got := names(s.Dir(2)); got != "A:0 neW:21" {
		t.Error(got)
	}
	if e, found := s.Dir(2).Lookup([]byte("a")); !found || e.Ino != 0 {
		t.Errorf("%+v, %v", e, found)
	}
}

// An inode number that is used again has nothing of the old file.
func TestInodeIsUsedAgain(t *testing.T) {
	a := newArea()
	a.addRange(20, 0, 5, 500, false)
	a.dentry(TagUnlink, 2, 20, "a")
	a.addRange(20, 0, 7, 700, false) // nobody's
	a.inode(20, image(regular, 1, flagExtents))
	a.addRange(20, 2, 3, 900, false)
	a.dentry(TagCreat, 2, 20, "again")
	a.tail()
	s := mustLoad(t, a, newTree())
	i := s.Inode(20)
	if i.Freed || !i.Reset || i.Links != 1 || !slices.Equal(i.Ranges(), []Range{{2, 3, 900, Written}}) {
		t.Fatalf("%+v", i)
	}
	raw := bytes.Repeat([]byte{0xDD}, testInodeSize)
	i.Patch(raw)
	root := raw[inodeBlock:inodeGeneration]
	if le.Uint16(root) != extentMagic || le.Uint16(root[2:]) != 0 || le.Uint16(root[4:]) != 4 || le.Uint16(root[6:]) != 0 {
		t.Errorf("the old mapping is still there: %x", root)
	}
}

func TestPatch(t *testing.T) {
	oldRoot := bytes.Repeat([]byte{0xDD}, 60)
	extents := bytes.Clone(oldRoot)
	le.PutUint16(extents, extentMagic)
	for _, c := range []struct {
		name  string
		flags uint32
		disk  []byte
		want  func(image []byte) []byte
	}{
		{"extents", flagExtents, extents, func([]byte) []byte { return extents }},
		{"no extents yet", flagExtents, oldRoot, func([]byte) []byte {
			return append([]byte{0x0A, 0xF3, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0}, oldRoot[12:]...)
		}},
		{"inline data", flagInlineData, oldRoot, func(image []byte) []byte { return image[0x28:0x64] }},
		{"neither", 0, oldRoot, func([]byte) []byte { return oldRoot }},
	} {
		t.Run(c.name, func(t *testing.T) {
			im := image(regular, 3, c.flags)
			raw := bytes.Repeat([]byte{0x11}, testInodeSize)
			copy(raw[inodeBlock:], c.disk)
			want := bytes.Clone(raw)
			copy(want, im[:0x28])
			copy(want[0x28:], c.want(im))
			copy(want[0x64:], im[0x64:])
			(&Inode{Image: im, Links: 3}).Patch(raw)
			if !bytes.Equal(raw, want) {
				t.Errorf("%x\n%x", raw, want)
			}
		})
	}
	raw := bytes.Repeat([]byte{0x11}, 128)
	(&Inode{Links: 5}).Patch(raw)
	if le.Uint16(raw[inodeLinks:]) != 5 || raw[0] != 0x11 {
		t.Errorf("%x", raw)
	}
}

func TestOnlyWholeCommitsCount(t *testing.T) {
	build := func() *area {
		a := newArea()
		a.dentry(TagLink, 2, 20, "one")
		a.tail()
		a.dentry(TagLink, 2, 20, "two")
		for i := range 100 { // several blocks
			a.delRange(20, uint32(i), 1)
		}
		a.tail()
		return a
	}
	whole := build()
	if got := names(mustLoad(t, whole, newTree()).Dir(2)); got != "one:20 two:20" {
		t.Fatal(got)
	}
	for cut := 0; cut < len(whole.image); cut += 7 {
		a := build()
		a.image[cut] ^= 0x40
		s, err := a.load(newTree())
		if err != nil {
			// Only the feature word of the head can be damaged into an error.
			if errors.Is(err, syscall.EOPNOTSUPP) && cut < 8 {
				continue
			}
			t.Fatalf("damage at %d: %v", cut, err)
		}
		want := "one:20"
		switch {
		case cut < 40:
			want = "none"
		case cut < 1024: // the rest of the tail's block is not checksummed
			want = "one:20 two:20"
		case cut >= len(whole.image)-testBlockSize+tailAt(whole.image)+12:
			want = "one:20 two:20"
		}
		if got := names(s.Dir(2)); got != want {
			t.Errorf("damage at %d: %s, want %s", cut, got, want)
		}
		if s.Empty() != (want == "none") {
			t.Errorf("damage at %d: %d tags", cut, s.Tags())
		}
	}
}

// tailAt is the offset of the tail in the last block.
func tailAt(image []byte) int {
	b := image[len(image)-testBlockSize:]
	for off := 0; ; {
		t, _ := decodeTag(b[off:], testInodeSize)
		if t.typ == TagTail {
			return off
		}
		off += len(t.raw)
	}
}

func TestVoidCommits(t *testing.T) {
	other := &area{tid: testTID - 1}
	other.head()
	other.dentry(TagLink, 2, 20, "x")
	other.tail()
	headless := &area{tid: testTID}
	headless.dentry(TagLink, 2, 20, "x")
	headless.tail()
	// The first commit of a new series was written over one of the old series.
	mixed := newArea()
	mixed.dentry(TagLink, 2, 20, "new")
	mixed.tail()
	mixed.tid = testTID - 1
	mixed.dentry(TagLink, 2, 20, "old")
	mixed.tail()
	for name, c := range map[string]struct {
		a    *area
		want string
	}{"other transaction": {other, "none"}, "no head": {headless, "none"}, "empty": {&area{}, "none"}, "mixed": {mixed, "new:20"}} {
		if got := names(mustLoad(t, c.a, newTree()).Dir(2)); got != c.want {
			t.Errorf("%s: %s", name, got)
		}
	}
}

func TestErrors(t *testing.T) {
	features := &area{tid: testTID}
	features.tag(TagHead, []byte{1, 0, 0, 0, testTID, 0, 0, 0})
	beyond := newArea()
	beyond.addRange(20, 0, 10, 1<<34-9, false)
	beyond.tail()
	early := newArea()
	early.dentry(TagCreat, 2, 77, "x")
	early.tail()
	for name, c := range map[string]struct {
		a    *area
		want syscall.Errno
	}{
		"features": {features, syscall.EOPNOTSUPP}, "beyond": {beyond, syscall.EUCLEAN}, "no inode": {early, syscall.EUCLEAN},
	} {
		if _, err := c.a.load(newTree()); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, tag := range []TagType{TagLink, TagUnlink} {
		base := newTree()
		base.err = syscall.EIO
		a := newArea()
		a.dentry(tag, 2, 20, "x")
		a.tail()
		if _, err := a.load(base); !errors.Is(err, syscall.EIO) {
			t.Errorf("tag %d: %v", tag, err)
		}
	}
	short := io.NewSectionReader(bytes.NewReader(make([]byte, 100)), 0, 4096)
	if _, err := Load(short, Options{BlockSize: 1024, InodeSize: 256}, newTree()); !errors.Is(err, syscall.EUCLEAN) {
		t.Errorf("%v", err)
	}
}

// The folded ranges tell the same of each block as the history does.
func TestRangesEqualHistory(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const blocks = 40
		type place struct {
			block uint64
			state RangeState
		}
		model := map[uint32]place{}
		var history []Range
		for range rapid.IntRange(0, 30).Draw(t, "changes") {
			r := Range{
				Start: uint32(rapid.IntRange(0, blocks-1).Draw(t, "start")),
				State: RangeState(rapid.IntRange(0, 2).Draw(t, "state")),
			}
			r.Len = uint32(rapid.IntRange(1, blocks-int(r.Start)).Draw(t, "len"))
			if r.State != Removed {
				r.Block = uint64(rapid.IntRange(0, 5).Draw(t, "block")*100 + int(r.Start))
			}
			history = append(history, r)
			for i := range r.Len {
				model[r.Start+i] = place{r.from(r.Start + i).Block, r.State}
			}
		}
		i := Inode{ranges: fold(history)}
		for at := 1; at < len(i.ranges); at++ {
			a, b := i.ranges[at-1], i.ranges[at]
			if b.Len == 0 || a.end() > b.Start || len(push([]Range{a}, b)) == 1 {
				t.Fatalf("%+v and %+v are not disjoint and merged", a, b)
			}
		}
		for block := range uint32(blocks + 1) {
			want, known := model[block]
			r, found, next := i.Find(block)
			if found != known || found && (r.Start != block || r.Block != want.block || r.State != want.state || next != r.end()) {
				t.Fatalf("block %d: %+v, %v, %d; want %+v, %v", block, r, found, next, want, known)
			}
			if _, behind := model[next]; !found && !behind && next != maxFileBlocks {
				t.Fatalf("block %d: nothing at %d", block, next)
			}
		}
	})
}

func TestRangesAtTheEndOfAFile(t *testing.T) {
	a := newArea()
	a.delRange(20, 0, 1<<31-1)
	a.delRange(20, 1<<31-1, 1<<31-1)
	a.delRange(20, 1<<32-2, 1)
	a.delRange(20, 1<<32-1, 1)     // not a block of a file
	a.delRange(20, 1<<32-5, 1<<31) // beyond the end
	a.addRange(20, 7, 0, 9, false)
	a.addRange(20, 9, 1<<15, 1<<33, false)
	a.addRange(20, 100, 1<<15-1, 5000, true)
	a.tail()
	got := mustLoad(t, a, newTree()).Inode(20).Ranges()
	want := []Range{
		{0, 9, 0, Removed}, {9, 91, 1 << 33, Written}, {100, 1<<15 - 1, 5000, Unwritten},
		{100 + 1<<15 - 1, maxFileBlocks - 100 - (1<<15 - 1), 0, Removed},
	}
	if !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

// A long history in the worst order takes no more than a moment.
func TestManyRanges(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	history := make([]Range, 1<<17)
	for i := range history {
		history[i] = Range{Start: r.Uint32N(1 << 30), Len: 1 + r.Uint32N(1<<20), Block: uint64(i), State: Written}
	}
	if len(fold(history)) == 0 {
		t.Fatal("nothing left")
	}
}

func FuzzLoad(f *testing.F) {
	a := newArea()
	a.inode(40, image(regular, 1, flagExtents))
	a.addRange(40, 0, 3, 77, false)
	a.dentry(TagCreat, 2, 40, "new")
	a.dentry(TagUnlink, 2, 20, "a")
	a.delRange(21, 0, 1<<31)
	a.tail()
	f.Add(a.image)
	f.Fuzz(func(t *testing.T, b []byte) {
		// Checksums would keep the fuzzer out, so the area is made of the tags
		// that the input has, with a tail that is right.
		fuzzed := newArea()
		for len(b) >= tagHeaderSize {
			tag, ok := decodeTag(b, testInodeSize)
			if !ok {
				b = b[1:]
				continue
			}
			b = b[len(tag.raw):]
			if tag.typ < TagPad && len(tag.value) < testBlockSize-64 {
				fuzzed.tag(tag.typ, tag.value)
			}
		}
		fuzzed.tail()
		s, err := fuzzed.load(newTree())
		if err != nil {
			if !errors.Is(err, syscall.EUCLEAN) {
				t.Fatal(err)
			}
			return
		}
		if s.Empty() {
			t.Fatal("a whole fast commit was not found")
		}
		for ino, i := range s.Inodes() {
			if i.Freed && (i.Links != 0 || i.Image != nil) {
				t.Fatalf("inode %d is freed and not", ino)
			}
			i.Patch(make([]byte, testInodeSize))
		}
	})
}

// FuzzTag feeds the decoders with anything.
func FuzzTag(f *testing.F) {
	f.Add(newArea().image)
	f.Fuzz(func(t *testing.T, b []byte) {
		s := scan{tid: testTID, inodeSize: testInodeSize}
		if _, err := s.block(b); err != nil {
			var feature *disk.FeatureError
			if !errors.As(err, &feature) {
				t.Fatal(err)
			}
		}
		if s.valid > s.tags || s.tags > len(b)/tagHeaderSize {
			t.Fatalf("%+v", s)
		}
		tag, ok := decodeTag(b, testInodeSize)
		if !ok {
			return
		}
		switch tag.typ {
		case TagAddRange:
			_, _ = decodeAddRange(tag.value)
		case TagDelRange:
			_, _ = decodeDelRange(tag.value)
		case TagCreat, TagLink, TagUnlink:
			if e := decodeDentry(tag.value); len(e.name) == 0 || len(e.name) > maxNameLen {
				t.Fatalf("%+v", e)
			}
		}
	})
}
