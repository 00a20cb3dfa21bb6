package dirent_test

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/bits"
	"slices"
	"strings"
	"syscall"
	"testing"

	"ext4box/ext4/internal/buffer"
	"ext4box/ext4/internal/dirent"
	"ext4box/ext4/internal/disk"
	"ext4box/ext4/internal/disktest"
)

var rigSeed = [4]uint32{0xDEADBEEF, 2, 3, 4}

// rigFormat is that of a usual filesystem.
func rigFormat() dirent.Format {
	return dirent.Format{Filetype: true, Index: true, HashVersion: disk.HashHalfMD4, HashSeed: rigSeed}
}

// long makes names of n bytes.
func long(n, i int) string {
	s := fmt.Sprintf("%d ", i)
	return s + strings.Repeat("n", n-len(s))
}

func TestGrowToEveryLevel(t *testing.T) {
	for _, c := range []struct {
		blockSize, name, count, levels int
		csum, largeDir                 bool
	}{
		{1024, 250, 3, 0, true, false},
		{1024, 250, 600, 1, true, false},
		{1024, 250, 600, 1, false, true},
		{4096, 30, 3000, 0, true, false},
		{65536, 255, 3000, 0, true, false},
		{65536, 255, 3000, 0, false, false},
	} {
		t.Run(fmt.Sprint(c), func(t *testing.T) {
			f := rigFormat()
			f.LargeDir = c.largeDir
			r := newRig(t, rigShape{blockSize: c.blockSize, csum: c.csum, format: f, most: 3000})
			r.init()
			want := map[string]uint32{}
			for i := range c.count {
				name := long(c.name, i)
				want[name] = uint32(100 + i)
				r.mustAdd(name, want[name])
			}
			r.holds(want)
			r.forget()
			for i := range c.count {
				if i%3 != 0 {
					name := long(c.name, i)
					if n, err := r.remove(name); err != nil || n != want[name] {
						t.Fatalf("remove %q: %d, %v", name, n, err)
					}
					delete(want, name)
				}
			}
			r.holds(want)
		})
	}
}

// TestHundredThousand grows a directory of small blocks to three levels, and
// wants the last names to cost what the first did.
func TestHundredThousand(t *testing.T) {
	f := rigFormat()
	f.LargeDir = true
	r := newRig(t, rigShape{blockSize: 1024, csum: true, format: f})
	r.init()
	const n = 100000
	want := make(map[string]uint32, n)
	var sum, most [n / 1000]int
	for i := range n {
		name := long(100, i)
		want[name] = uint32(100 + i)
		r.mustAdd(name, want[name])
		sum[i/1000] += r.touched
		most[i/1000] = max(most[i/1000], r.touched)
	}
	t.Logf("%d blocks; per 1000 names the first touched %d blocks, the second %d, the last %d; at most %d", r.blocks, sum[0], sum[1], sum[99], slices.Max(most[:]))
	if sum[99] > sum[1]*3/2 {
		t.Errorf("the last thousand names touched %d blocks, the second thousand %d", sum[99], sum[1])
	}
	if levels := r.levels(); levels != 2 {
		t.Errorf("the root has %d levels below it", levels)
	}
	r.holds(want)
}

// TestTinyCache has a cache that drops blocks between their being read and their
// being changed.
func TestTinyCache(t *testing.T) {
	r := newRig(t, rigShape{blockSize: 1024, csum: true, format: rigFormat(), cacheSize: 1})
	r.init()
	want := map[string]uint32{}
	for i := range 2500 {
		name := long(240, i)
		want[name] = uint32(100 + i)
		r.mustAdd(name, want[name])
		if i%3 == 0 {
			if _, err := r.remove(long(240, i/2)); err == nil {
				delete(want, long(240, i/2))
			}
		}
	}
	r.holds(want)
}

func (r *rig) levels() int {
	b := make([]byte, r.blockSize)
	if _, err := r.dev.ReadAt(b, int64(rigStart*r.blockSize)); err != nil {
		r.tb.Fatalf("%v", err)
	}
	return int(b[30])
}

// TestIndexFull adds until the index cannot grow, and goes on from there.
func TestIndexFull(t *testing.T) {
	r := newRig(t, rigShape{blockSize: 1024, csum: true, format: rigFormat(), most: 25000})
	r.init()
	want := map[string]uint32{}
	full := 0
	for i := 0; full < 20; i++ {
		name := long(255, i)
		switch err := r.add(name, uint32(100+i)); {
		case errors.Is(err, syscall.ENOSPC) && strings.Contains(err.Error(), "index is full"):
			full++
		case err != nil:
			t.Fatal(err)
		default:
			want[name] = uint32(100 + i)
		}
	}
	t.Logf("%d names in %d blocks", len(want), r.blocks)
	if r.blocks < 123*60 {
		t.Errorf("full with %d blocks", r.blocks)
	}
	r.holds(want)
}

// TestGrowFails lets every grow of a history fail once.
func TestGrowFails(t *testing.T) {
	r := newRig(t, rigShape{blockSize: 1024, csum: true, format: rigFormat()})
	r.init()
	want := map[string]uint32{}
	failed := 0
	for i := range 900 {
		name := long(240, i)
		for when := 0; ; when++ {
			r.growErr, r.growWhen = syscall.ENOSPC, when
			err := r.add(name, uint32(100+i))
			r.growErr = nil
			if err == nil {
				break
			}
			if failed++; !errors.Is(err, syscall.ENOSPC) || when > 4 {
				t.Fatal(err)
			}
			if failed%50 == 0 || r.blocks < 6 {
				r.holds(want)
			}
			when = -1 // what grew before has made room
			if r.grows == 0 {
				r.mustAdd(name, uint32(100+i))
				break
			}
		}
		want[name] = uint32(100 + i)
	}
	t.Logf("%d failures", failed)
	r.holds(want)
}

// TestFailingTransaction has no transaction that takes anything.
func TestFailingTransaction(t *testing.T) {
	r := newRig(t, rigShape{blockSize: 1024, csum: true, format: rigFormat()})
	r.init()
	want := map[string]uint32{}
	for i := range 20 {
		want[long(200, i)] = uint32(100 + i)
		r.mustAdd(long(200, i), uint32(100+i))
	}
	aborted := errors.New("aborted")
	r.tx.Err = aborted
	d := r.open()
	for i := range 20 {
		if err := d.Add(r.tx, func() (uint64, uint64, error) { return r.blocks, rigStart + r.blocks, nil }, long(201, i), 7, 1); err != aborted {
			t.Fatal(err)
		}
	}
	if _, err := d.Remove(r.tx, long(200, 3)); err != aborted {
		t.Error(err)
	}
	if _, err := d.Replace(r.tx, long(200, 3), 8, 1); err != aborted {
		t.Error(err)
	}
	r.holds(want)
}

func TestReplace(t *testing.T) {
	for _, indexed := range []bool{false, true} {
		r := newRig(t, rigShape{blockSize: 1024, csum: true, format: rigFormat()})
		r.init()
		want := map[string]uint32{}
		for i := range map[bool]int{false: 3, true: 30}[indexed] {
			want[long(200, i)] = uint32(100 + i)
			r.mustAdd(long(200, i), uint32(100+i))
		}
		if r.indexed != indexed {
			t.Fatal("not the directory that is meant")
		}
		if old, err := r.replace(long(200, 2), 999, disk.FTDir); err != nil || old != 102 {
			t.Errorf("%d, %v", old, err)
		}
		want[long(200, 2)] = 999
		if old, err := r.replace("..", 77, disk.FTDir); err != nil || old != rigParent {
			t.Errorf("%d, %v", old, err)
		}
		if _, err := r.replace("absent", 77, disk.FTDir); err != dirent.NotFound {
			t.Error(err)
		}
		if _, err := r.replace(".", 77, disk.FTDir); !errors.Is(err, syscall.EINVAL) {
			t.Error(err)
		}
		r.forget()
		r.holds(want)
		if n, err := r.open().Lookup(".."); err != nil || n != 77 {
			t.Errorf("the parent is %d, %v", n, err)
		}
		types := map[string]uint8{}
		if err := r.open().Read(0, func(e dirent.Entry) bool { types[string(e.Name)] = e.Type; return true }); err != nil {
			t.Fatal(err)
		}
		if types[long(200, 2)] != disk.FTDir || types[long(200, 1)] != disk.FTReg || types[".."] != disk.FTDir {
			t.Errorf("types %v", types)
		}
	}
}

func TestEmpty(t *testing.T) {
	r := newRig(t, rigShape{blockSize: 1024, csum: true, format: rigFormat()})
	r.init()
	expectEmpty := func(want bool) {
		t.Helper()
		if got, err := r.open().Empty(); err != nil || got != want {
			t.Errorf("empty: %v, %v", got, err)
		}
	}
	expectEmpty(true)
	for i := range 30 {
		r.mustAdd(long(200, i), 100)
		expectEmpty(false)
	}
	for i := range 30 {
		expectEmpty(false)
		if _, err := r.remove(long(200, i)); err != nil {
			t.Fatal(err)
		}
	}
	expectEmpty(true)
	r.holds(nil)
	if !r.indexed {
		t.Error("the index is gone")
	}
	d := r.open()
	d.Size = 0
	if _, err := d.Empty(); !errors.Is(err, syscall.EUCLEAN) {
		t.Errorf("without . and ..: %v", err)
	}
}

func TestNamesThatCannotBe(t *testing.T) {
	f := rigFormat()
	f.Fold, f.Strict = upper, true
	r := newRig(t, rigShape{blockSize: 1024, csum: true, casefold: true, format: f})
	r.init()
	for name, want := range map[string]error{
		"": syscall.EINVAL, ".": syscall.EINVAL, "..": syscall.EINVAL, "a/b": syscall.EINVAL, "a\x00": syscall.EINVAL,
		strings.Repeat("x", 256): syscall.ENAMETOOLONG, "!invalid": syscall.EINVAL,
	} {
		if err := r.add(name, 100); !errors.Is(err, want) {
			t.Errorf("%q: %v", name, err)
		}
	}
	for _, n := range []uint32{0, 1<<24 + 1, 1<<32 - 1} {
		if err := r.add("name", n); !errors.Is(err, syscall.EINVAL) {
			t.Errorf("inode %d: %v", n, err)
		}
		if _, err := r.replace("..", n, 2); !errors.Is(err, syscall.EINVAL) {
			t.Errorf("inode %d: %v", n, err)
		}
	}
	for _, name := range []string{".", ".."} {
		if _, err := r.remove(name); !errors.Is(err, syscall.EINVAL) {
			t.Errorf("remove %q: %v", name, err)
		}
	}
	if err := r.change(func(d *dirent.Dir, tx buffer.Tx, grow dirent.Grow) error {
		d.RawNames = true
		return d.Add(tx, grow, "name", 100, 1)
	}); !errors.Is(err, syscall.ENOKEY) {
		t.Errorf("encrypted: %v", err)
	}
	r.holds(nil)
}

// TestWithoutIndex has the feature off: nothing moves, no index comes.
func TestWithoutIndex(t *testing.T) {
	f := rigFormat()
	f.Index = false
	r := newRig(t, rigShape{blockSize: 1024, csum: true, format: f})
	r.init()
	want := map[string]uint32{}
	for i := range 100 {
		want[long(200, i)] = uint32(100 + i)
		r.mustAdd(long(200, i), uint32(100+i))
	}
	if r.indexed || r.open().HashOrder() {
		t.Error("has an index")
	}
	before := positions(t, r)
	for i := range 100 {
		if i%2 == 0 {
			delete(want, long(200, i))
			if _, err := r.remove(long(200, i)); err != nil {
				t.Fatal(err)
			}
		}
	}
	blocks := r.blocks
	for i := range 60 {
		want[long(150, i)] = 7
		r.mustAdd(long(150, i), 7)
	}
	if r.blocks > blocks+3 {
		t.Errorf("%d blocks become %d where there was room", blocks, r.blocks)
	}
	r.holds(want)
	for name, pos := range positions(t, r) {
		if old, there := before[name]; there && old != pos {
			t.Errorf("%q moves from %d to %d", name, old, pos)
		}
	}
}

// positions of the names, as where they begin.
func positions(t *testing.T, r *rig) map[string]int64 {
	t.Helper()
	at := map[string]int64{}
	pos := int64(0)
	if err := r.open().ReadByHash(0, func(e dirent.Entry) bool {
		at[string(e.Name)] = pos
		pos = e.Next
		return true
	}); err != nil {
		t.Fatal(err)
	}
	// The end of the entry before is not where an entry begins, if what was
	// between them is gone: look for the last position that still gives it.
	for name := range at {
		lo, hi := at[name], int64(r.size)
		for lo < hi {
			mid := (lo + hi + 1) / 2
			found := false
			if err := r.open().ReadByHash(mid, func(e dirent.Entry) bool { found = string(e.Name) == name; return !found }); err != nil {
				t.Fatal(err)
			}
			if found {
				lo = mid
			} else {
				hi = mid - 1
			}
		}
		at[name] = lo
	}
	return at
}

// TestRemoveJoins wants a removed record joined to the one before it and wiped,
// or emptied where there is none.
func TestRemoveJoins(t *testing.T) {
	f := rigFormat()
	f.Index = false
	r := newRig(t, rigShape{blockSize: 1024, csum: true, format: f})
	r.init()
	for i := range 12 {
		r.mustAdd(long(200, i), uint32(100+i))
	}
	tail := func(b []byte) []byte {
		disk.SealDirLeaf(seed, b)
		return b
	}
	entry := func(i, recLen int) disktest.Entry {
		return disktest.Entry{Ino: uint32(100 + i), Type: disk.FTReg, Name: long(200, i), RecLen: recLen}
	}
	for _, c := range []struct {
		remove int
		want   []disktest.Entry
	}{
		// Four names are in the first block behind the dots, also four in the second.
		{5, []disktest.Entry{entry(4, 416), entry(6, 208), entry(7, 388)}},
		{6, []disktest.Entry{entry(4, 624), entry(7, 388)}},
		{4, []disktest.Entry{{RecLen: 624}, entry(7, 388)}},
		{7, []disktest.Entry{{RecLen: 1012}}},
	} {
		if n, err := r.remove(long(200, c.remove)); err != nil || n != uint32(100+c.remove) {
			t.Fatalf("%d, %v", n, err)
		}
		if got, want := r.raw()[1024:2048], tail(disktest.DirBlock(1024, true, c.want...)); !bytes.Equal(got, want) {
			t.Errorf("without %d the block is %x, not %x", c.remove, got, want)
		}
	}
	// The room of all of them is that of one record again.
	r.mustAdd(long(200, 50), 150)
	if got, want := r.raw()[1024:2048], tail(disktest.DirBlock(1024, true, entry(50, 1012))); !bytes.Equal(got, want) {
		t.Errorf("the block is %x, not %x", got, want)
	}
}

// TestFeatureGone writes into an indexed directory of a filesystem that has lost
// the feature: the index ends, or nothing is written.
func TestFeatureGone(t *testing.T) {
	for _, csum := range []bool{false, true} {
		r := newRig(t, rigShape{blockSize: 1024, csum: csum, format: rigFormat()})
		r.init()
		want := map[string]uint32{}
		for i := range 700 {
			want[long(200, i)] = uint32(100 + i)
			r.mustAdd(long(200, i), uint32(100+i))
		}
		r.format.Index = false
		err := r.add("another", 99)
		if csum {
			if !errors.Is(err, syscall.EUCLEAN) || !r.indexed {
				t.Errorf("with checksums: %v, indexed %v", err, r.indexed)
			}
		} else {
			if err != nil || r.indexed {
				t.Errorf("without checksums: %v, indexed %v", err, r.indexed)
			}
			want["another"] = 99
			for i := range 30 { // over what was the index
				want[long(180, i)] = 5
				r.mustAdd(long(180, i), 5)
			}
		}
		r.holds(want)
	}
}

// TestUnusableIndexIsNotWritten wants no entry in a directory that has an index
// by which it could not be found.
func TestUnusableIndexIsNotWritten(t *testing.T) {
	for name, off := range map[string]int{"hash": 28, "levels": 30, "flags": 31} {
		r := newRig(t, rigShape{blockSize: 1024, format: rigFormat()})
		r.init()
		for i := range 30 {
			r.mustAdd(long(200, i), uint32(100+i))
		}
		if _, err := r.dev.WriteAt([]byte{99}, rigStart*1024+int64(off)); err != nil {
			t.Fatal(err)
		}
		r.forget()
		if err := r.add("another", 99); !errors.Is(err, syscall.EUCLEAN) || r.touched != 0 {
			t.Errorf("%s: %v, %d blocks touched", name, err, r.touched)
		}
		if _, err := r.remove(long(200, 3)); err != nil {
			t.Errorf("%s: remove: %v", name, err)
		}
	}
}

// TestFragmentedLeaf has room for a name only in pieces.
func TestFragmentedLeaf(t *testing.T) {
	r := newRig(t, rigShape{blockSize: 1024, csum: true, format: rigFormat()})
	r.init()
	want := map[string]uint32{}
	for i := range 60 {
		want[long(40, i)] = 100
		r.mustAdd(long(40, i), 100)
	}
	for i := range 60 {
		if i%2 == 0 {
			delete(want, long(40, i))
			if _, err := r.remove(long(40, i)); err != nil {
				t.Fatal(err)
			}
		}
	}
	blocks := r.blocks
	for i := range 4 {
		want[long(180, i)] = 100
		r.mustAdd(long(180, i), 100)
	}
	if r.blocks != blocks {
		t.Errorf("%d blocks become %d where there was room", blocks, r.blocks)
	}
	r.holds(want)
}

// TestCollidingNames puts names of one hash into many leaves.
func TestCollidingNames(t *testing.T) {
	for _, n := range []int{2, 9, 60} {
		f := rigFormat()
		f.HashVersion = disk.HashLegacy
		r := newRig(t, rigShape{blockSize: 1024, csum: true, format: f})
		r.init()
		want := map[string]uint32{}
		same := sameHash(n, "")
		for i, name := range same {
			want[name] = uint32(100 + i)
			r.mustAdd(name, want[name])
			if i%10 == 0 {
				for j := range 20 {
					other := long(100+j, i)
					want[other] = 9
					r.mustAdd(other, 9)
				}
			}
			r.holds(want)
		}
		for _, name := range slices.Sorted(maps.Keys(want)) {
			if got, err := r.remove(name); err != nil || got != want[name] {
				t.Fatalf("remove %q: %d, %v", name, got, err)
			}
			delete(want, name)
		}
		r.holds(nil)
	}
}

// equalBlocks are strings, two of each, that lead the legacy hash from the state
// which the ones before lead to, from its first state on, to the same state.
var equalBlocks = [...][2]string{
	{"X1V2fBmN4", "X1V2fBpQ1"}, {"3l3SOSNyd", "3l3SOSdcN"},
	{"WAa9Cf3eI", "WAa9CfIO3"}, {"ArHosQKZG", "ArHosQap1"},
	{"ouUwbsYfE", "ouUwbsyFe"}, {"ja1vhbPSt", "ja1vhbqtS"},
	{"DHrWhKZYF", "DHrWhKpC0"}, {"KsPH6ORy3", "KsPH6OhcI"},
	{"zN3hXV3WO", "zN3hXVVzr"}, {"8U88FV22r", "8U88FVrr2"},
	{"MfwUqJ9MF", "MfwUqJEYR"}, {"YbxkXjVRR", "YbxkXjrnn"},
	{"WpLuwwVlG", "WpLuwwlV1"}, {"rfHOuhULl", "rfHOuhlcU"},
}

// sameHash makes n names whose legacy hash is equal, which with few blocks are
// short. A suffix makes another hash.
func sameHash(n int, suffix string) (names []string) {
	blocks := bits.Len(uint(n - 1))
	for i := range n {
		name := ""
		for b, pair := range equalBlocks[:blocks] {
			name += pair[i>>b&1]
		}
		names = append(names, name+suffix)
	}
	return names
}

func TestSameHash(t *testing.T) {
	hashes := map[uint32]bool{}
	distinct := map[string]bool{}
	for _, name := range sameHash(8192, "x") {
		hash, _, err := disk.DirHash(disk.HashLegacy, rigSeed, []byte(name))
		if err != nil {
			t.Fatal(err)
		}
		hashes[hash], distinct[name] = true, true
	}
	if len(hashes) != 1 || len(distinct) != 8192 {
		t.Errorf("%d names have %d hashes", len(distinct), len(hashes))
	}
}
