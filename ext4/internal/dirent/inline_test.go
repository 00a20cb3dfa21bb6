package dirent_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"

	"ext4box/ext4/internal/dirent"
	"ext4box/ext4/internal/disk"
	"ext4box/ext4/internal/disktest"
)

// inline is a directory in an inode: the block area and an attribute.
func inline(head, tail []disktest.Entry, tailSize int) *dirent.Inline {
	d := &dirent.Inline{Format: &dirent.Format{Filetype: true, InodesMax: inodesMax}, Ino: ino}
	d.Head = binary.LittleEndian.AppendUint32(nil, 2)
	d.Head = append(d.Head, disktest.DirBlock(disk.InodeBlockSize-4, false, head...)...)
	if tailSize > 0 {
		d.Tail = disktest.DirBlock(tailSize, false, tail...)
	}
	return d
}

func TestInline(t *testing.T) {
	d := inline([]disktest.Entry{{Ino: 20, Type: disk.FTReg, Name: "a"}, {Ino: 0, Name: "deleted"}, {Ino: 21, Name: "b"}},
		[]disktest.Entry{{Ino: 22, Name: "c"}, {Ino: 23, Name: "d"}}, 100)
	expect(t, d, map[string]uint32{".": ino, "..": 2, "a": 20, "b": 21, "c": 22, "d": 23})
	if got := names(list(t, d, 0)); !slices.Equal(got, []string{".", "..", "a", "b", "c", "d"}) {
		t.Errorf("order is %q", got)
	}
	items := list(t, d, 0)
	if items[0].ft != disk.FTDir || items[1].ft != disk.FTDir || items[2].ft != disk.FTReg {
		t.Errorf("file types of %+v", items)
	}
	expect(t, inline(nil, nil, 0), map[string]uint32{".": ino, "..": 2})
}

// TestInlineOddPositions starts at every byte.
func TestInlineOddPositions(t *testing.T) {
	d := inline([]disktest.Entry{{Ino: 20, Name: "a"}, {Ino: 21, Name: "b"}}, []disktest.Entry{{Ino: 22, Name: "c"}}, 40)
	at := map[string]int64{".": 0, "..": 1, "a": 4, "b": 16, "c": 60}
	for pos := range int64(120) {
		var want []string
		for _, name := range []string{".", "..", "a", "b", "c"} {
			if at[name] >= pos {
				want = append(want, name)
			}
		}
		if got := names(list(t, d, pos)); !slices.Equal(got, want) {
			t.Fatalf("from %d: %q, want %q", pos, got, want)
		}
	}
	calls := 0
	for pos := range int64(3) {
		if err := d.Read(pos, func(dirent.Entry) bool { calls++; return false }); err != nil || calls != int(pos)+1 {
			t.Errorf("from %d: %d calls, %v", pos, calls, err)
		}
	}
}

func TestInlineCasefold(t *testing.T) {
	d := inline([]disktest.Entry{{Ino: 20, Name: "File"}}, nil, 0)
	d.Format.Fold = upper
	if _, err := d.Lookup("fILE"); err != dirent.NotFound {
		t.Errorf("without casefold: %v", err)
	}
	d.Casefold = true
	if got, err := d.Lookup("fILE"); err != nil || got != 20 {
		t.Errorf("with casefold: %d, %v", got, err)
	}
}

func TestDamagedInline(t *testing.T) {
	for name, do := range map[string]func(d *dirent.Inline){
		"no room for the parent":   func(d *dirent.Inline) { d.Head = d.Head[:3] },
		"nothing":                  func(d *dirent.Inline) { d.Head = nil },
		"parent 0":                 func(d *dirent.Inline) { clear(d.Head[:4]) },
		"parent does not exist":    func(d *dirent.Inline) { d.Head[3] = 1 },
		"inode does not exist":     func(d *dirent.Inline) { d.Head[4+3] = 1 },
		"record leaves":            func(d *dirent.Inline) { d.Head[4+4] = 60 },
		"record of nothing":        func(d *dirent.Inline) { d.Head[4+4] = 0 },
		"cut in an entry":          func(d *dirent.Inline) { d.Head = d.Head[:10] },
		"slash":                    func(d *dirent.Inline) { d.Head[4+8] = '/' },
		"record leaves in tail":    func(d *dirent.Inline) { d.Tail[4] = 104 },
		"empty name in tail":       func(d *dirent.Inline) { d.Tail[6] = 0 },
		"tail shorter than header": func(d *dirent.Inline) { d.Tail = d.Tail[:5] },
	} {
		d := inline([]disktest.Entry{{Ino: 20, Name: "a"}}, []disktest.Entry{{Ino: 22, Name: "c"}}, 100)
		do(d)
		var corrupt *disk.CorruptError
		err := d.Read(0, func(dirent.Entry) bool { return true })
		if !errors.As(err, &corrupt) || !strings.Contains(err.Error(), "inode 12") {
			t.Errorf("%s: read: %v", name, err)
		}
		if _, err := d.Lookup("zzz"); !errors.Is(err, syscall.EUCLEAN) {
			t.Errorf("%s: lookup: %v", name, err)
		}
	}
	only := inline(nil, nil, 0)
	only.Head = only.Head[:4]
	expect(t, only, map[string]uint32{".": ino, "..": 2})
}

// TestInlineManyNames fills the attribute of the largest inode.
func TestInlineManyNames(t *testing.T) {
	want := map[string]uint32{".": ino, "..": 2}
	var tail []disktest.Entry
	for i := range 200 {
		name := fmt.Sprint("n", i)
		tail = append(tail, disktest.Entry{Ino: uint32(100 + i), Name: name})
		want[name] = uint32(100 + i)
	}
	expect(t, inline(nil, tail, 3600), want)
}
