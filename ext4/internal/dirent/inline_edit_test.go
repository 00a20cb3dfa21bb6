package dirent_test

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
	"syscall"
	"testing"

	"pgregory.net/rapid"

	"ext4box/ext4/internal/buffer"
	"ext4box/ext4/internal/dirent"
	"ext4box/ext4/internal/disk"
)

// inlineRig is an inline directory as an inode would hold it.
type inlineRig struct {
	format     dirent.Format
	casefold   bool
	head, tail []byte
}

func newInlineRig(f dirent.Format) *inlineRig {
	r := &inlineRig{format: f, head: make([]byte, disk.InodeBlockSize)}
	r.format.InodesMax = 1 << 24
	dirent.InitInline(r.head, rigParent)
	return r
}

func (r *inlineRig) open() *dirent.Inline {
	return &dirent.Inline{Format: &r.format, Ino: ino, Head: r.head, Tail: r.tail, Casefold: r.casefold}
}

// change stores what a change leaves, and wants what was there not written to.
func (r *inlineRig) change(t rapidTB, fn func(d *dirent.Inline) error) error {
	t.Helper()
	head, tail := bytes.Clone(r.head), bytes.Clone(r.tail)
	d := r.open()
	err := fn(d)
	if !bytes.Equal(head, r.head) || !bytes.Equal(tail, r.tail) {
		t.Fatalf("the inode is changed in place")
	}
	if err != nil && (!bytes.Equal(d.Head, head) || !bytes.Equal(d.Tail, tail)) {
		t.Fatalf("failed, but changed: %v", err)
	}
	if len(d.Head) != disk.InodeBlockSize || len(d.Tail)%4 != 0 {
		t.Fatalf("areas of %d and %d bytes", len(d.Head), len(d.Tail))
	}
	r.head, r.tail = d.Head, d.Tail
	return err
}

// holds checks the names, by lookups and both ways of listing.
func (r *inlineRig) holds(t rapidTB, want map[string]uint32) {
	t.Helper()
	d := r.open()
	for _, read := range []func(int64, func(dirent.Entry) bool) error{d.Read, d.ReadByHash} {
		seen := map[string]uint32{}
		last := int64(0)
		if err := read(0, func(e dirent.Entry) bool {
			if e.Next <= last {
				t.Fatalf("position %d of %q behind %d", e.Next, e.Name, last)
			}
			last = e.Next
			seen[string(e.Name)] = e.Ino
			return true
		}); err != nil {
			t.Fatalf("read: %v", err)
		}
		if seen["."] != ino || seen[".."] == 0 {
			t.Fatalf("dots are %d and %d", seen["."], seen[".."])
		}
		delete(seen, ".")
		delete(seen, "..")
		if !maps.Equal(seen, want) {
			t.Fatalf("lists %v, want %v", seen, want)
		}
	}
	for name, n := range want {
		if got, err := d.Lookup(name); err != nil || got != n {
			t.Fatalf("lookup of %q: %d, %v", name, got, err)
		}
	}
	if empty, err := d.Empty(); err != nil || empty != (len(want) == 0) {
		t.Fatalf("empty: %v, %v with %d names", empty, err, len(want))
	}
}

// TestInlineEditsEqualModel fills an inline directory and moves it into a block
// when it is full, while it is listed.
func TestInlineEditsEqualModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		shape := drawShape(rt)
		shape.most = 100
		in := newInlineRig(shape.format)
		in.casefold = shape.casefold
		room := rapid.IntRange(0, 160).Draw(rt, "room")
		want := map[string]uint32{}
		m := model{map[string]string{}, nil, shape.casefold}
		l := &reading{seen: map[string]int{}, since: map[string]bool{".": true, "..": true}}
		added := map[string]int{}
		var out *rig
		read := func(n int) {
			if l.end {
				return
			}
			if out != nil {
				l.step(rt, out.open().ReadByHash, n)
			} else {
				l.step(rt, in.open().ReadByHash, n)
			}
		}
		for i := range rapid.IntRange(1, 60).Draw(rt, "ops") {
			if i == 5 {
				for name := range want {
					l.since[name] = true
				}
			}
			if i > 5 {
				read(rapid.IntRange(0, 3).Draw(rt, "read"))
			}
			name := nameOf(rapid.SampledFrom([]int{0, 0, 2, 4}).Draw(rt, "kind"), rapid.IntRange(0, 40).Draw(rt, "i"), nil)
			n := uint32(rapid.IntRange(11, 1<<24).Draw(rt, "inode"))
			old, there := m.names[m.key(name)]
			switch {
			case there && rapid.Bool().Draw(rt, "remove"):
				var got uint32
				err := error(nil)
				if out != nil {
					got, err = out.remove(name)
				} else {
					err = in.change(rt, func(d *dirent.Inline) error { got, err = d.Remove(name); return err })
				}
				if err != nil || got != want[old] {
					rt.Fatalf("remove: %d, %v", got, err)
				}
				delete(want, old)
				delete(m.names, m.key(name))
				delete(l.since, old)
			case there:
				var got uint32
				err := error(nil)
				if out != nil {
					got, err = out.replace(name, n, disk.FTDir)
				} else {
					err = in.change(rt, func(d *dirent.Inline) error { got, err = d.Replace(name, n, disk.FTDir); return err })
				}
				if err != nil || got != want[old] {
					rt.Fatalf("replace: %d, %v", got, err)
				}
				want[old] = n
			default:
				if out == nil {
					err := in.change(rt, func(d *dirent.Inline) error { return d.Add(name, n, disk.FTReg, room) })
					if errors.Is(err, dirent.ErrNoRoom) {
						out = newRig(t, shape)
						out.tb = rt
						if err := out.change(func(d *dirent.Dir, tx buffer.Tx, grow dirent.Grow) error {
							return in.open().Convert(tx, d, grow)
						}); err != nil {
							rt.Fatalf("convert: %v", err)
						}
						out.holds(want)
					} else if err != nil {
						rt.Fatalf("add: %v", err)
					}
				}
				if out != nil {
					out.mustAdd(name, n)
				}
				want[name] = n
				m.names[m.key(name)] = name
				added[name]++
			}
			if out == nil {
				in.holds(rt, want)
			} else {
				out.holds(want)
			}
		}
		for !l.end {
			read(2)
		}
		l.finish(rt, added)
	})
}

// TestInlineGrowth fills the block area first and then takes all the room that
// the attribute can have.
func TestInlineGrowth(t *testing.T) {
	in := newInlineRig(rigFormat())
	add := func(name string, room int) error {
		return in.change(t, func(d *dirent.Inline) error { return d.Add(name, 100, disk.FTReg, room) })
	}
	want := map[string]uint32{}
	for i := range 4 { // of 12 bytes each in 56
		want[fmt.Sprint("n", i)] = 100
		if err := add(fmt.Sprint("n", i), 95); err != nil || in.tail != nil {
			t.Fatalf("%v, attribute of %d bytes", err, len(in.tail))
		}
	}
	for _, room := range []int{0, 8, 11} {
		if err := add("next", room); err != dirent.ErrNoRoom || in.tail != nil {
			t.Errorf("room for %d: %v", room, err)
		}
	}
	want["next"] = 100
	if err := add("next", 95); err != nil || len(in.tail) != 92 {
		t.Errorf("%v, attribute of %d bytes", err, len(in.tail))
	}
	if err := add("this one is longer than what is left of the attribute, by far: not even the whole of it would do", 95); err != dirent.ErrNoRoom {
		t.Error(err)
	}
	in.holds(t, want)
	if old, err := uint32(0), in.change(t, func(d *dirent.Inline) error { _, err := d.Replace("..", 77, disk.FTDir); return err }); err != nil {
		t.Error(old, err)
	}
	if n, err := in.open().Lookup(".."); err != nil || n != 77 {
		t.Errorf("the parent is %d, %v", n, err)
	}
	for _, name := range []string{".", ".."} {
		if err := in.change(t, func(d *dirent.Inline) error { _, err := d.Remove(name); return err }); !errors.Is(err, syscall.EINVAL) {
			t.Error(err)
		}
	}
	for _, name := range []string{"absent", "n"} {
		if err := in.change(t, func(d *dirent.Inline) error { _, err := d.Remove(name); return err }); err != dirent.NotFound {
			t.Error(err)
		}
	}
}

// TestInlinePositionsOfBlock keeps the positions when the directory moves into a
// block and there is no index to order it.
func TestInlinePositionsOfBlock(t *testing.T) {
	f := rigFormat()
	f.Index = false
	in := newInlineRig(f)
	for i := range 6 {
		if err := in.change(t, func(d *dirent.Inline) error { return d.Add(fmt.Sprint("n", i), 100, disk.FTReg, 100) }); err != nil {
			t.Fatal(err)
		}
	}
	out := newRig(t, rigShape{blockSize: 1024, csum: true, format: f})
	if err := out.change(func(d *dirent.Dir, tx buffer.Tx, grow dirent.Grow) error { return in.open().Convert(tx, d, grow) }); err != nil {
		t.Fatal(err)
	}
	for pos := range int64(200) {
		list := func(read func(int64, func(dirent.Entry) bool) error) (got []string) {
			if err := read(pos, func(e dirent.Entry) bool { got = append(got, string(e.Name)); return true }); err != nil {
				t.Fatal(err)
			}
			return got
		}
		if inside, outside := list(in.open().ReadByHash), list(out.open().ReadByHash); !slices.Equal(inside, outside) {
			t.Errorf("from %d: %q in the inode, %q in the block", pos, inside, outside)
		}
	}
}
