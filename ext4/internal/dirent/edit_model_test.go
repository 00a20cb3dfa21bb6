package dirent_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"syscall"
	"testing"

	"pgregory.net/rapid"

	"ext4box/ext4/internal/buffer"
	"ext4box/ext4/internal/dirent"
	"ext4box/ext4/internal/disk"
)

// lower folds so that a test can fold too; names that begin with "!" are
// invalid.
func lower(dst, name []byte) ([]byte, error) {
	if bytes.HasPrefix(name, []byte("!")) {
		return dst, errors.New("invalid name")
	}
	return append(dst, bytes.ToLower(name)...), nil
}

// drawShape draws a kind of directory.
func drawShape(t *rapid.T) rigShape {
	s := rigShape{
		blockSize: rapid.SampledFrom([]int{1024, 1024, 4096}).Draw(t, "block size"),
		csum:      rapid.Bool().Draw(t, "csum"),
		casefold:  rapid.Bool().Draw(t, "casefold"),
		most:      uint64(rapid.SampledFrom([]int{5, 200, 2000}).Draw(t, "blocks")),
		format: dirent.Format{
			Filetype:    rapid.Bool().Draw(t, "filetype"),
			Index:       rapid.IntRange(0, 4).Draw(t, "dir_index") > 0,
			LargeDir:    rapid.Bool().Draw(t, "large_dir"),
			HashVersion: disk.HashVersion(rapid.IntRange(0, 2).Draw(t, "hash")),
			Unsigned:    rapid.Bool().Draw(t, "unsigned"),
			HashSeed:    rigSeed,
		},
	}
	if s.casefold {
		s.format.Fold = lower
	}
	return s
}

// nameOf makes the i-th name of a kind: short ones, ones of equal legacy hash,
// ones of any bytes, ones of which few fill a block, and ones with capitals.
func nameOf(kind, i int, equal []string) string {
	switch kind {
	case 0:
		return fmt.Sprint("n", i)
	case 1:
		return equal[i%len(equal)]
	case 2:
		return strings.ReplaceAll(fmt.Sprintf("\xff%c\x80%d", rune(0x100+i), i), "/", "_")
	case 3:
		return long(255-i%7, i)
	}
	return fmt.Sprintf("!Name %d"[i%2:], i)
}

// model is what a directory should hold: by folded names, the names.
type model struct {
	names map[string]string
	inos  map[string]uint32
	fold  bool
}

func (m *model) key(name string) string {
	if m.fold {
		if f, err := lower(nil, []byte(name)); err == nil {
			return string(f)
		}
	}
	return name
}

func TestEditsEqualModel(t *testing.T) {
	equal := sameHash(256, "")
	rapid.Check(t, func(rt *rapid.T) {
		shape := drawShape(rt)
		r := newRig(t, shape)
		r.tb = rt
		r.init()
		m := model{map[string]string{}, map[string]uint32{}, shape.casefold}
		checks := 0
		verify := func() {
			r.holds(m.inos)
			checks++
		}
		verify()
		rt.Repeat(map[string]func(*rapid.T){
			"add": func(rt *rapid.T) {
				kind, first := rapid.IntRange(0, 4).Draw(rt, "kind"), rapid.IntRange(0, 300).Draw(rt, "first")
				for i := range rapid.IntRange(1, 40).Draw(rt, "n") {
					name, n := nameOf(kind, first+i, equal), uint32(rapid.IntRange(11, 1<<24).Draw(rt, "inode"))
					found, err := r.open().Lookup(name)
					old, there := m.names[m.key(name)]
					if there != (err == nil) || there && found != m.inos[old] {
						rt.Fatalf("lookup of %q: %d, %v", name, found, err)
					}
					if there {
						continue
					}
					switch err := r.add(name, n); {
					case err == nil:
						m.names[m.key(name)], m.inos[name] = name, n
					case !errors.Is(err, syscall.ENOSPC) || r.blocks < r.most && !strings.Contains(err.Error(), "index is full"):
						rt.Fatalf("add %q: %v", name, err)
					}
					if i < 3 {
						verify()
					}
				}
			},
			"remove": func(rt *rapid.T) {
				all := slices.Sorted(maps.Keys(m.inos))
				for range rapid.IntRange(1, 30).Draw(rt, "n") {
					if len(all) == 0 {
						break
					}
					i := rapid.IntRange(0, len(all)-1).Draw(rt, "which")
					name := all[i]
					all = slices.Delete(all, i, i+1)
					asked := name
					if m.fold && !strings.HasPrefix(name, "!") {
						asked = string(bytes.ToUpper([]byte(name)))
						if m.key(asked) != m.key(name) {
							asked = name
						}
					}
					if n, err := r.remove(asked); err != nil || n != m.inos[name] {
						rt.Fatalf("remove %q: %d, %v", asked, n, err)
					}
					delete(m.inos, name)
					delete(m.names, m.key(name))
					if n, err := r.remove(asked); err != dirent.NotFound || r.touched != 0 {
						rt.Fatalf("remove %q again: %d, %v", asked, n, err)
					}
				}
			},
			"replace": func(rt *rapid.T) {
				if len(m.inos) == 0 {
					return
				}
				name := rapid.SampledFrom(slices.Sorted(maps.Keys(m.inos))).Draw(rt, "name")
				n := uint32(rapid.IntRange(11, 1<<24).Draw(rt, "inode"))
				if old, err := r.replace(name, n, disk.FTSymlink); err != nil || old != m.inos[name] {
					rt.Fatalf("replace %q: %d, %v", name, old, err)
				}
				m.inos[name] = n
			},
			"forget": func(*rapid.T) { r.forget() },
			"empty": func(rt *rapid.T) {
				if got, err := r.open().Empty(); err != nil || got != (len(m.inos) == 0) {
					rt.Fatalf("empty: %v, %v with %d names", got, err, len(m.inos))
				}
			},
			"": func(*rapid.T) { verify() },
		})
	})
}

// reading is a listing that goes on while the directory changes.
type reading struct {
	pos   int64
	seen  map[string]int
	since map[string]bool // names that were there from the beginning on
	end   bool
}

// step reads up to n entries more.
func (l *reading) step(t rapidTB, read func(int64, func(dirent.Entry) bool) error, n int) {
	t.Helper()
	taken := 0
	if err := read(l.pos, func(e dirent.Entry) bool {
		if taken == n {
			return false
		}
		if e.Next <= l.pos || e.Next < 0 {
			t.Fatalf("position %d of %q behind %d", e.Next, e.Name, l.pos)
		}
		taken++
		l.pos = e.Next
		l.seen[string(e.Name)]++
		return true
	}); err != nil {
		t.Fatalf("read: %v", err)
	}
	l.end = taken < n
}

// finish wants each name once that was there all the time, and others at most
// once for each time that they were added.
func (l *reading) finish(t rapidTB, added map[string]int) {
	t.Helper()
	for name := range l.since {
		if l.seen[name] != 1 {
			t.Fatalf("%q is listed %d times", name, l.seen[name])
		}
	}
	for name, n := range l.seen {
		if n > 1+added[name] {
			t.Fatalf("%q is listed %d times, and was added %d times", name, n, added[name])
		}
	}
}

// TestReadingWhileWriting lists directories while they are changed: they begin
// as small ones and get an index on the way.
func TestReadingWhileWriting(t *testing.T) {
	equal := sameHash(64, "")
	rapid.Check(t, func(rt *rapid.T) {
		shape := drawShape(rt)
		shape.most = 3000
		r := newRig(t, shape)
		r.tb = rt
		r.init()
		m := model{names: map[string]string{}, fold: shape.casefold}
		names := map[string]bool{}
		added := map[string]int{}
		var lists []*reading
		change := func(n int) {
			for range n {
				name := nameOf(rapid.SampledFrom([]int{0, 1, 1, 3, 4}).Draw(rt, "kind"), rapid.IntRange(0, 120).Draw(rt, "i"), equal)
				_, err := r.open().Lookup(name)
				switch {
				case err == nil && rapid.IntRange(0, 2).Draw(rt, "keep") == 0:
					if _, err := r.remove(name); err != nil {
						rt.Fatalf("remove: %v", err)
					}
					old := m.names[m.key(name)] // the case may differ
					delete(names, old)
					for _, l := range lists {
						delete(l.since, old)
					}
				case err == dirent.NotFound:
					r.mustAdd(name, 100)
					m.names[m.key(name)] = name
					names[name] = true
					added[name]++
				}
			}
		}
		change(rapid.IntRange(0, 100).Draw(rt, "before"))
		for range rapid.IntRange(1, 4).Draw(rt, "readings") {
			change(5)
			l := &reading{seen: map[string]int{}, since: maps.Clone(names)}
			l.since["."], l.since[".."] = true, true
			lists = append(lists, l)
		}
		for more := true; more; {
			more = false
			for _, l := range lists {
				if !l.end {
					l.step(rt, r.open().ReadByHash, rapid.IntRange(1, 30).Draw(rt, "read"))
					more = true
				}
				change(rapid.IntRange(0, 20).Draw(rt, "change"))
			}
		}
		for _, l := range lists {
			l.finish(rt, added)
		}
	})
}

// TestReadingOneByOne stops after each entry of a directory with many names of
// one hash, which continue through many leaves, while others come and go.
func TestReadingOneByOne(t *testing.T) {
	f := rigFormat()
	f.HashVersion = disk.HashLegacy
	r := newRig(t, rigShape{blockSize: 1024, csum: true, format: f})
	r.init()
	l := &reading{seen: map[string]int{}, since: map[string]bool{}}
	for _, suffix := range []string{"", "a", "b"} {
		for _, name := range sameHash(200, suffix) {
			r.mustAdd(name, 100)
			l.since[name] = true
		}
	}
	for i := range 300 {
		r.mustAdd(long(60, i), 100)
		l.since[long(60, i)] = true
	}
	for i := 0; !l.end; i++ {
		l.step(t, r.open().ReadByHash, 1)
		if i < 300 {
			r.mustAdd(long(61, i), 100)
		} else if _, err := r.remove(long(61, i%300)); err != nil && err != dirent.NotFound {
			t.Fatal(err)
		}
	}
	l.finish(t, nil)
}

// TestManyOfOneHash has more names of one hash than are held at once.
func TestManyOfOneHash(t *testing.T) {
	f := rigFormat()
	f.HashVersion = disk.HashLegacy
	r := newRig(t, rigShape{blockSize: 4096, csum: true, format: f})
	r.init()
	l := &reading{seen: map[string]int{}, since: map[string]bool{}}
	for _, name := range sameHash(8192, "") {
		l.since[name] = true
	}
	// One leaf after the other is full of that hash; to add by name would split
	// the first one each time.
	for name := range l.since {
		r.mustAdd(name, 100)
	}
	for !l.end {
		l.step(t, r.open().ReadByHash, 3000)
	}
	l.finish(t, nil)
	whole := &reading{seen: map[string]int{}, since: l.since}
	whole.step(t, r.open().ReadByHash, math.MaxInt)
	whole.finish(t, nil)
}

// TestWrongLeaf has entries where their hash does not belong: they are found by
// no lookup, but listed.
func TestWrongLeaf(t *testing.T) {
	r := newRig(t, rigShape{blockSize: 1024, csum: true, format: rigFormat()})
	r.init()
	want := map[string]bool{".": true, "..": true}
	for i := range 100 {
		want[long(100, i)] = true
		r.mustAdd(long(100, i), 100)
	}
	r.format.HashSeed[2]++ // every name is in the wrong place now
	r.forget()
	lost := 0
	for name := range want {
		if _, err := r.open().Lookup(name); err != nil {
			lost++
		}
	}
	if lost < 50 {
		t.Errorf("only %d names are lost", lost)
	}
	l := &reading{seen: map[string]int{}, since: want}
	for !l.end {
		l.step(t, r.open().ReadByHash, 7)
	}
	l.finish(t, nil)
}

// TestPositionsThatAreNone starts anywhere.
func TestPositionsThatAreNone(t *testing.T) {
	r := newRig(t, rigShape{blockSize: 1024, csum: true, format: rigFormat()})
	r.init()
	for i := range 100 {
		r.mustAdd(long(100, i), 100)
	}
	d := r.open()
	var all []int64
	if err := d.ReadByHash(0, func(e dirent.Entry) bool { all = append(all, e.Next); return true }); err != nil {
		t.Fatal(err)
	}
	if len(all) != 102 || all[0] != 1 || all[1] != 2 {
		t.Fatalf("%d entries, the first at %d and %d", len(all), all[0], all[1])
	}
	for _, pos := range append([]int64{math.MinInt64, -1, 3, 1 << 32, 1 << 62, math.MaxInt64 - 1, math.MaxInt64}, all...) {
		var got []int64
		if err := d.ReadByHash(pos, func(e dirent.Entry) bool { got = append(got, e.Next); return true }); err != nil {
			t.Fatal(err)
		}
		want := all
		for pos >= 0 && len(want) > 0 && want[0] <= pos {
			want = want[1:]
		}
		if pos >= 0 && !slices.Equal(got, want) {
			t.Errorf("from %d: %d entries instead of %d", pos, len(got), len(want))
		}
	}
}

// storedHashes makes a directory as encryption and casefolding together do, with
// n names of ciphertext and, behind each, the hash that needs the key.
func storedHashes(t *testing.T, n int, hash func(i int) (major, minor uint32)) *rig {
	t.Helper()
	r := newRig(t, rigShape{blockSize: 65536, format: rigFormat()})
	r.init()
	b := r.raw()
	disk.SetDirRecLen(b, 12, 12)
	off := 24
	for i := range n {
		e := disk.DirEntry{Inode: uint32(50 + i), RecLen: 24 + 8, FileType: 1, Name: fmt.Appendf(nil, "\x00/cipher %05d", i)}
		if i == n-1 {
			e.RecLen = len(b) - off
		}
		disk.EncodeDirEntry(b, off, &e, true)
		major, minor := hash(i)
		binary.LittleEndian.PutUint32(b[off+24:], major)
		binary.LittleEndian.PutUint32(b[off+28:], minor)
		off += e.RecLen
	}
	if _, err := r.dev.WriteAt(b, int64(rigStart*r.blockSize)); err != nil {
		t.Fatal(err)
	}
	r.forget()
	return r
}

func (r *rig) openEncrypted() *dirent.Dir {
	d := r.open()
	d.Casefold, d.RawNames = true, true
	return d
}

// TestEncryptedCasefolded lists by stored hashes, and removes.
func TestEncryptedCasefolded(t *testing.T) {
	r := storedHashes(t, 20, func(i int) (uint32, uint32) { return uint32(2 * (20 - i)), 1 })
	var order []uint32
	if err := r.openEncrypted().ReadByHash(0, func(e dirent.Entry) bool { order = append(order, e.Ino); return true }); err != nil {
		t.Fatal(err)
	}
	if len(order) != 22 || order[2] != 69 || order[21] != 50 {
		t.Errorf("order is %v", order)
	}
	if err := r.change(func(_ *dirent.Dir, tx buffer.Tx, _ dirent.Grow) error {
		n, err := r.openEncrypted().Remove(tx, "\x00/cipher 00007")
		if n != 57 {
			t.Errorf("inode %d", n)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
}

// TestCrowd lists names that all agree in both hashes, so that only a few bits
// tell their positions apart, from each of these positions.
func TestCrowd(t *testing.T) {
	for _, hash := range []uint32{0, 2, 0x7FFFFFFF << 1} {
		r := storedHashes(t, 100, func(int) (uint32, uint32) { return hash, 1 })
		l := &reading{seen: map[string]int{}, since: map[string]bool{".": true, "..": true}}
		for i := range 100 {
			l.since[fmt.Sprintf("\x00/cipher %05d", i)] = true
		}
		for !l.end {
			l.step(t, r.openEncrypted().ReadByHash, 1)
		}
		l.finish(t, nil)
	}
	// More than there are positions for: what is lost is lost without a panic, a
	// repetition or an endless listing.
	r := storedHashes(t, 1000, func(int) (uint32, uint32) { return 2, 1 })
	l := &reading{seen: map[string]int{}}
	if err := r.openEncrypted().ReadByHash(0, func(e dirent.Entry) bool { l.seen[string(e.Name)]++; return true }); err != nil {
		t.Fatal(err)
	}
	if l.finish(t, nil); len(l.seen) != 1002 {
		t.Errorf("%d names are listed at once", len(l.seen))
	}
	l = &reading{seen: map[string]int{}}
	for !l.end {
		l.step(t, r.openEncrypted().ReadByHash, 1)
	}
	if l.finish(t, nil); len(l.seen) < 250 {
		t.Errorf("%d names are listed one by one", len(l.seen))
	}
}
