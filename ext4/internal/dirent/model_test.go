package dirent_test

import (
	"errors"
	"fmt"
	"syscall"
	"testing"

	"pgregory.net/rapid"

	"ext4box/ext4/internal/dirent"
	"ext4box/ext4/internal/disk"
	"ext4box/ext4/internal/disktest"
)

var nameGen = rapid.Custom(func(t *rapid.T) string {
	b := rapid.SliceOfN(rapid.ByteRange(1, 255), 1, 60).Draw(t, "name")
	for i, c := range b {
		if c == '/' {
			b[i] = '_'
		}
	}
	return string(b)
})

func drawNames(t *rapid.T, most int) map[string]uint32 {
	m := rapid.MapOfN(nameGen, rapid.Uint32Range(11, inodesMax), 0, most).Draw(t, "names")
	delete(m, ".")
	delete(m, "..")
	return m
}

// exactly lists and looks up everything, in a directory of random names.
func exactly(t *rapid.T, d reader, want map[string]uint32) {
	t.Helper()
	seen := map[string]uint32{}
	positions := map[string]int64{}
	if err := d.Read(0, func(e dirent.Entry) bool {
		seen[string(e.Name)] = e.Ino
		positions[string(e.Name)] = e.Next
		return true
	}); err != nil {
		t.Fatal(err)
	}
	if len(seen) != len(want) {
		t.Fatalf("lists %d names of %d", len(seen), len(want))
	}
	for name, ino := range want {
		if seen[name] != ino {
			t.Fatalf("lists %q with %d, want %d", name, seen[name], ino)
		}
		if got, err := d.Lookup(name); err != nil || got != ino {
			t.Fatalf("lookup of %q: %d, %v; want %d", name, got, err, ino)
		}
		rest := 0
		for other := range want {
			if positions[other] > positions[name] {
				rest++
			}
		}
		if err := d.Read(positions[name], func(e dirent.Entry) bool {
			if rest--; positions[string(e.Name)] <= positions[name] {
				t.Fatalf("behind %q comes %q again", name, e.Name)
			}
			return true
		}); err != nil || rest != 0 {
			t.Fatalf("behind %q %d are missing: %v", name, rest, err)
		}
	}
	absent := nameGen.Draw(t, "absent")
	if _, there := want[absent]; there {
		return
	}
	if got, err := d.Lookup(absent); err != dirent.NotFound {
		t.Fatalf("lookup of absent %q: %d, %v", absent, got, err)
	}
}

func TestLinearEqualsModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		d := &directory{blockSize: 1024, csum: rapid.Bool().Draw(rt, "csum")}
		want := withDots(drawNames(rt, 40))
		entries := dots()
		used := 24
		flush := func() {
			if n := len(entries); n > 0 {
				entries[n-1].RecLen = 0 // to the end
			}
			d.leaf(entries...)
			entries, used = nil, 0
		}
		for name, n := range want {
			if name == "." || name == ".." {
				continue
			}
			need := disktest.Need(name)
			if used+need+disktest.Need("gone") > 1024-disk.DirTailSize {
				flush()
			}
			if rapid.IntRange(0, 3).Draw(rt, "gap") == 0 {
				entries = append(entries, disktest.Entry{Name: "gone"})
				used += disktest.Need("gone")
			}
			// Records may be longer than their names need.
			e := disktest.Entry{Ino: n, Type: disk.FTReg, Name: name, RecLen: need}
			if slack := 4 * rapid.IntRange(0, 5).Draw(rt, "slack"); used+need+slack < 1024-disk.DirTailSize {
				e.RecLen += slack
			}
			entries = append(entries, e)
			used += e.RecLen
		}
		flush()
		exactly(rt, d.open(t, nil), want)
	})
}

func TestIndexEqualsModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		want := drawNames(rt, 120)
		if len(want) == 0 {
			want["one"] = 77
		}
		levels := rapid.IntRange(0, 2).Draw(rt, "levels")
		perLeaf := rapid.IntRange(1, 11).Draw(rt, "per leaf")
		fan := rapid.IntRange(1, 40).Draw(rt, "fan")
		version := disk.HashVersion(rapid.IntRange(0, 2).Draw(rt, "hash"))
		d := indexed(t, 1024, rapid.Bool().Draw(rt, "csum"), version, levels, perLeaf, fan, want)
		exactly(rt, openIndexed(t, d, nil), withDots(want))
	})
}

func TestInlineEqualsModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		names := drawNames(rt, 30)
		var tail []disktest.Entry
		for name, n := range names {
			tail = append(tail, disktest.Entry{Ino: n, Name: name})
		}
		exactly(rt, inline(nil, tail, 4096), withDots(names))
	})
}

// FuzzDir reads a directory whose blocks hold anything.
func FuzzDir(f *testing.F) {
	join := func(d *directory) (all []byte) {
		for _, b := range d.blocks {
			all = append(all, b...)
		}
		return all
	}
	linear := &directory{blockSize: 1024, csum: true}
	linear.leaf(append(dots(), disktest.Entry{Ino: 20, Name: "name"})...)
	f.Add(join(linear), "name", true, false, int64(0))
	f.Add(join(indexed(f, 1024, true, disk.HashHalfMD4, 1, 2, 2, numbered(12))), "name 000003", true, true, int64(1024))
	f.Add(join(indexed(f, 1024, false, disk.HashTEA, 2, 1, 2, numbered(8))), "name 000003", false, true, int64(77))
	f.Fuzz(func(t *testing.T, blocks []byte, name string, csum, index bool, pos int64) {
		d := &directory{blockSize: 1024, csum: csum}
		for len(blocks) > 0 && len(d.blocks) < 20 {
			n := min(len(blocks), 1024)
			b := append(append([]byte{}, blocks[:n]...), make([]byte, 1024-n)...)
			if csum && b[1023] != 0 {
				disktest.SealDirLeaf(seed, b) // so that some get past the checksum
			}
			d.blocks = append(d.blocks, b)
			blocks = blocks[n:]
		}
		if len(d.blocks) == 0 {
			return
		}
		dir := d.open(t, func(dir *dirent.Dir) { dir.Indexed, dir.LargeDir = index, len(name)%2 == 0 })
		try(t, dir, name, pos)
	})
}

// FuzzInline reads a directory in an inode that holds anything.
func FuzzInline(f *testing.F) {
	d := inline([]disktest.Entry{{Ino: 20, Name: "a"}}, []disktest.Entry{{Ino: 22, Name: "c"}}, 100)
	f.Add(d.Head, d.Tail, "c", int64(0))
	f.Fuzz(func(t *testing.T, head, tail []byte, name string, pos int64) {
		d := &dirent.Inline{Format: &dirent.Format{Filetype: true, InodesMax: inodesMax}, Ino: ino,
			Head: head[:min(len(head), disk.InodeBlockSize)], Tail: tail[:min(len(tail), 1024)]}
		try(t, d, name, pos)
	})
}

// try reads and looks up; there may be any result, but not any error.
func try(t *testing.T, d reader, name string, pos int64) {
	t.Helper()
	last := int64(-1)
	readErr := d.Read(pos, func(e dirent.Entry) bool {
		if len(e.Name) == 0 || len(e.Name) > disk.NameMax || e.Ino == 0 || e.Ino > inodesMax || e.Next <= last || e.Next <= pos {
			t.Errorf("entry %+v behind %d", e, last)
		}
		last = e.Next
		return true
	})
	found, lookErr := d.Lookup(name)
	if lookErr == nil && (found == 0 || found > inodesMax) {
		t.Errorf("lookup of %q: %d", name, found)
	}
	for _, err := range []error{readErr, lookErr} {
		if err != nil && err != dirent.NotFound && !errors.Is(err, syscall.EUCLEAN) {
			t.Error(fmt.Errorf("error %w", err))
		}
	}
}
