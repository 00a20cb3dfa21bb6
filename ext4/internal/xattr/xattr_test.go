package xattr_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"slices"
	"strings"
	"syscall"
	"testing"

	"pgregory.net/rapid"

	"ext4box/ext4/internal/disk"
	"ext4box/ext4/internal/disktest"
	"ext4box/ext4/internal/xattr"
)

var le = binary.LittleEndian

// contents lists an area as attributes for disktest.
func contents(a xattr.Area) (list []disktest.Attr) {
	a.Each(func(at xattr.Attr) bool {
		v := string(at.Value)
		if at.Ino != 0 {
			v = strings.Repeat("?", int(at.Size))
		}
		list = append(list, disktest.Attr{Index: at.Index, Name: string(at.Name), Value: v, Ino: at.Ino})
		return true
	})
	return list
}

// inInode puts attributes into an inode of 512 bytes with 32 extra ones.
func inInode(attrs ...disktest.Attr) []byte {
	raw := make([]byte, 512)
	disktest.InodeAttrs(raw, 32, attrs...)
	return raw
}

var some = []disktest.Attr{
	{Index: disk.XattrUser, Name: "a", Value: "value of a"},
	{Index: disk.XattrSecurity, Name: "selinux", Value: "label"},
	{Index: disk.XattrUser, Name: "empty"},
	{Index: disk.XattrTrusted, Name: "far", Value: "four", Ino: 77},
}

func TestAreas(t *testing.T) {
	inode, err := xattr.Inode("inode 12", inInode(some...), 32)
	if err != nil {
		t.Fatal(err)
	}
	for _, size := range []int{1024, 4096, 65536} {
		b := disktest.XattrBlock(size, some...)
		block, err := xattr.Block("block 9", b)
		if err != nil {
			t.Fatal(err)
		}
		for name, a := range map[string]xattr.Area{"inode": inode, "block": block, "trusted": xattr.Trusted(b)} {
			want := slices.Clone(some)
			want[3].Value = "????"
			if got := contents(a); !slices.Equal(got, want) {
				t.Errorf("%s of %d: %+v, want %+v", name, size, got, want)
			}
			if at, ok := a.Find(disk.XattrSecurity, "selinux"); !ok || string(at.Value) != "label" || at.Size != 5 || at.Ino != 0 {
				t.Errorf("%s: selinux is %+v, %v", name, at, ok)
			}
			if at, ok := a.Find(disk.XattrTrusted, "far"); !ok || at.Value != nil || at.Size != 4 || at.Ino != 77 {
				t.Errorf("%s: far is %+v, %v", name, at, ok)
			}
			for _, absent := range []struct {
				index uint8
				name  string
			}{{disk.XattrUser, "selinux"}, {disk.XattrUser, ""}, {disk.XattrUser, "b"}, {99, "a"}} {
				if at, ok := a.Find(absent.index, absent.name); ok {
					t.Errorf("%s: %+v found for %+v", name, at, absent)
				}
			}
			calls := 0
			a.Each(func(xattr.Attr) bool { calls++; return calls < 2 })
			if calls != 2 {
				t.Errorf("%s: %d calls after the second said stop", name, calls)
			}
		}
	}
}

// TestNoArea has inodes without attributes.
func TestNoArea(t *testing.T) {
	for name, c := range map[string]struct {
		raw   []byte
		extra uint16
	}{
		"old inode":          {make([]byte, 128), 0},
		"no magic":           {make([]byte, 256), 32},
		"extra fields fill":  {inInode(some...), 384},
		"room for no header": {inInode(some...), 382},
		"extra of 65535":     {inInode(some...), 65535},
	} {
		a, err := xattr.Inode("inode 12", c.raw, c.extra)
		if err != nil || len(contents(a)) != 0 {
			t.Errorf("%s: %+v, %v", name, contents(a), err)
		}
	}
	a, err := xattr.Inode("inode 12", inInode(), 32)
	if err != nil || len(contents(a)) != 0 {
		t.Errorf("an empty list: %+v, %v", contents(a), err)
	}
	var zero xattr.Area
	if _, ok := zero.Find(1, "a"); ok || len(contents(zero)) != 0 {
		t.Error("the zero area is not empty")
	}
}

func TestDamagedAreas(t *testing.T) {
	const first = disk.XattrHeaderSize
	for name, do := range map[string]func(b []byte){
		"magic":                  func(b []byte) { b[0]++ },
		"no blocks":              func(b []byte) { le.PutUint32(b[8:], 0) },
		"two blocks":             func(b []byte) { le.PutUint32(b[8:], 2) },
		"zero in name":           func(b []byte) { b[first] = 2; b[first+17] = 0; b[first+16] = 'x' },
		"value behind the end":   func(b []byte) { le.PutUint16(b[first+2:], 1020) },
		"value at the end":       func(b []byte) { le.PutUint16(b[first+2:], 1024) },
		"value far behind":       func(b []byte) { le.PutUint16(b[first+2:], 65535) },
		"value in the list":      func(b []byte) { le.PutUint16(b[first+2:], first) },
		"value on the list end":  func(b []byte) { le.PutUint16(b[first+2:], first+20+24) },
		"size beyond the format": func(b []byte) { le.PutUint32(b[first+8:], xattr.MaxValue+1) },
		"size 2^32-1":            func(b []byte) { le.PutUint32(b[first+8:], 1<<32-1) },
		"size with offset wraps": func(b []byte) { le.PutUint32(b[first+8:], 1<<32-900); le.PutUint16(b[first+2:], 1000) },
		"far size too large":     func(b []byte) { le.PutUint32(b[first+4:], 99); le.PutUint32(b[first+8:], xattr.MaxValue+1) },
		"list has no end": func(b []byte) {
			for off := first; off+20 <= len(b); off += 20 {
				b[off], b[off+1] = 1, 1
				clear(b[off+2 : off+16])
				b[off+16] = 'n'
			}
		},
	} {
		b := disktest.XattrBlock(1024, some[:2]...)
		do(b)
		var corrupt *disk.CorruptError
		if a, err := xattr.Block("block 9", b); !errors.As(err, &corrupt) || corrupt.What != "block 9" {
			t.Errorf("%s: %+v, %v", name, contents(a), err)
		}
	}
	// Values in an inode count from the first entry.
	raw := inInode(some[0])
	le.PutUint16(raw[128+32+4+2:], 512-(128+32+4)-9)
	if _, err := xattr.Inode("inode 12", raw, 32); !errors.Is(err, syscall.EUCLEAN) {
		t.Errorf("a value leaves the inode: %v", err)
	}
	raw = make([]byte, 256)
	disktest.InodeAttrs(raw, 32, some[0])
	raw[164] = 200
	if _, err := xattr.Inode("inode 12", raw, 32); !errors.Is(err, syscall.EUCLEAN) || !strings.Contains(err.Error(), "leaves") {
		t.Errorf("a name leaves the inode: %v", err)
	}
}

func TestNames(t *testing.T) {
	for full, want := range map[string]struct {
		index uint8
		name  string
	}{
		"user.a": {1, "a"}, "trusted.overlay.opaque": {4, "overlay.opaque"}, "security.capability": {6, "capability"},
		"system.posix_acl_access": {2, ""}, "system.posix_acl_default": {3, ""}, "gnu.translator": {10, "translator"}, "user.\xff": {1, "\xff"},
	} {
		index, name, ok := xattr.ParseName(full)
		if !ok || index != want.index || name != want.name {
			t.Errorf("%s is %d %q, %v", full, index, name, ok)
		}
		if back, ok := xattr.FullName(index, []byte(name)); !ok || back != full {
			t.Errorf("%d %q is %q, %v", index, name, back, ok)
		}
	}
	for _, full := range []string{"", "user", "user.", "trusted.", "system.data", "system.richacl", "system.posix_acl_accessx", "os2.x", "a.user.b", "USER.a"} {
		if index, name, ok := xattr.ParseName(full); ok {
			t.Errorf("%q is taken for %d %q", full, index, name)
		}
	}
	for _, index := range []uint8{0, 5, 7, 9, 11, 255} {
		if full, ok := xattr.FullName(index, []byte("data")); ok {
			t.Errorf("index %d shows up as %q", index, full)
		}
	}
}

// acl puts numbers of 16 bits together.
func acl(words ...uint16) (b []byte) {
	for _, w := range words {
		b = le.AppendUint16(b, w)
	}
	return b
}

func TestACL(t *testing.T) {
	const none = 0xFFFF
	for name, c := range map[string]struct{ stored, want []byte }{
		"empty":   {acl(1, 0), acl(2, 0)},
		"minimal": {acl(1, 0, 1, 6, 4, 4, 0x20, 0), acl(2, 0, 1, 6, none, none, 4, 4, none, none, 0x20, 0, none, none)},
		"full": {acl(1, 0, 1, 7, 2, 5, 0x5678, 0x1234, 4, 4, 8, 1, 9, 0, 0x10, 6, 0x20, 0),
			acl(2, 0, 1, 7, none, none, 2, 5, 0x5678, 0x1234, 4, 4, none, none, 8, 1, 9, 0, 0x10, 6, none, none, 0x20, 0, none, none)},
		"no header":       {acl(1), nil},
		"nothing":         {nil, nil},
		"wire version":    {acl(2, 0), nil},
		"unknown tag":     {acl(1, 0, 0x40, 7), nil},
		"tag 0":           {acl(1, 0, 0, 7), nil},
		"cut entry":       {acl(1, 0, 1), nil},
		"cut user":        {acl(1, 0, 2, 7, 1), nil},
		"user without id": {acl(1, 0, 2, 7), nil},
		"odd byte":        {append(acl(1, 0, 1, 7), 1), nil},
	} {
		got, ok := xattr.ACLToWire(c.stored)
		if ok != (c.want != nil) || !slices.Equal(got, c.want) {
			t.Errorf("%s: %x, %v; want %x", name, got, ok, c.want)
		}
	}
}

// drawAttrs draws attributes that fit into room bytes.
func drawAttrs(t *rapid.T, room int) (attrs []disktest.Attr) {
	room -= 4 // the end of the list
	for range rapid.IntRange(0, 12).Draw(t, "attributes") {
		a := disktest.Attr{
			Index: rapid.Uint8Range(1, 12).Draw(t, "index"),
			Name:  string(rapid.SliceOfN(rapid.ByteRange(1, 255), 0, 40).Draw(t, "name")),
			Value: string(rapid.SliceOfN(rapid.Byte(), 0, 100).Draw(t, "value")),
		}
		room -= (disk.XattrEntrySize+len(a.Name)+3)&^3 + (len(a.Value)+3)&^3
		if room < 0 {
			break
		}
		attrs = append(attrs, a)
	}
	return attrs
}

func TestAreasEqualModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		attrs := drawAttrs(rt, 1024-disk.XattrHeaderSize)
		block, err := xattr.Block("block", disktest.XattrBlock(1024, attrs...))
		if err != nil {
			rt.Fatal(err)
		}
		raw := make([]byte, 1024)
		disktest.InodeAttrs(raw, 32, attrs[:len(attrs)/3]...)
		inode, err := xattr.Inode("inode", raw, 32)
		if err != nil {
			rt.Fatal(err)
		}
		if got := contents(block); !slices.Equal(got, attrs) {
			rt.Fatalf("%+v, want %+v", got, attrs)
		}
		if got := contents(inode); !slices.Equal(got, attrs[:len(attrs)/3]) {
			rt.Fatalf("%+v, want %+v", got, attrs[:len(attrs)/3])
		}
		for i, a := range attrs {
			first := slices.IndexFunc(attrs, func(b disktest.Attr) bool { return a.Index == b.Index && a.Name == b.Name })
			if at, ok := block.Find(a.Index, a.Name); !ok || string(at.Value) != attrs[first].Value {
				rt.Fatalf("attribute %d: %+v, %v", i, at, ok)
			}
		}
	})
}

// FuzzArea takes a block and an inode that hold anything.
func FuzzArea(f *testing.F) {
	f.Add(disktest.XattrBlock(1024, some...), uint16(32))
	f.Add(inInode(some...), uint16(32))
	f.Fuzz(func(t *testing.T, b []byte, extra uint16) {
		b = append(append([]byte{}, b[:min(len(b), 4096)]...), make([]byte, max(0, 1024-len(b)))...)
		inode, inodeErr := xattr.Inode("inode", b, extra)
		block, blockErr := xattr.Block("block", b)
		for _, err := range []error{inodeErr, blockErr} {
			if err != nil && !errors.Is(err, syscall.EUCLEAN) {
				t.Errorf("error %v", err)
			}
		}
		for _, a := range []xattr.Area{inode, block} {
			a.Each(func(at xattr.Attr) bool {
				if at.Size > xattr.MaxValue || at.Ino == 0 && len(at.Value) != int(at.Size) || strings.Contains(string(at.Name), "\x00") {
					t.Errorf("attribute %+v", at)
				}
				if full, ok := xattr.FullName(at.Index, at.Name); ok {
					if index, name, ok := xattr.ParseName(full); ok && (index != at.Index || name != string(at.Name) && index != disk.XattrACLAccess && index != disk.XattrACLDefault) {
						t.Errorf("%q is %d %q, not %d %q", full, index, name, at.Index, at.Name)
					}
				}
				return true
			})
		}
	})
}

func FuzzACL(f *testing.F) {
	f.Add(acl(1, 0, 1, 7, 2, 5, 0x5678, 0x1234, 4, 4, 0x20, 0))
	f.Fuzz(func(t *testing.T, b []byte) {
		wire, ok := xattr.ACLToWire(b)
		if ok && (len(wire)%8 != 4 || len(wire) < 4 || len(wire) > 4+2*len(b)) {
			t.Errorf("%x becomes %x", b, wire)
		}
	})
}

// TestOverlappingValues: values that share their bytes would be many times as
// much when they are copied.
func TestOverlappingValues(t *testing.T) {
	b := make([]byte, 1024)
	xattr.EncodeBlock(b, []xattr.Attr{
		{Index: disk.XattrUser, Name: []byte("a"), Value: bytes.Repeat([]byte("a"), 400), Size: 400},
		{Index: disk.XattrUser, Name: []byte("b"), Value: bytes.Repeat([]byte("b"), 400), Size: 400},
	})
	if _, err := xattr.Block("block", b); err != nil {
		t.Fatal(err)
	}
	for i := range 2 {
		entry := b[disk.XattrHeaderSize+20*i:]
		le.PutUint16(entry[2:], 1024-700)
		le.PutUint32(entry[8:], 700)
	}
	if _, err := xattr.Block("block", b); !errors.Is(err, syscall.EUCLEAN) {
		t.Errorf("values that overlap: %v", err)
	}
}

// TestAreaThatChanges: a block that has been checked can be a part of something
// else, whose owner changes it.
func TestAreaThatChanges(t *testing.T) {
	sound := make([]byte, 1024)
	xattr.EncodeBlock(sound, []xattr.Attr{
		{Index: disk.XattrUser, Name: []byte("a"), Value: bytes.Repeat([]byte("a"), 40), Size: 40},
		{Index: disk.XattrUser, Name: []byte("b"), Value: bytes.Repeat([]byte("b"), 40), Size: 40},
	})
	for off := disk.XattrHeaderSize; off < disk.XattrHeaderSize+48; off++ {
		for _, v := range []byte{0, 1, 0x7f, 0x80, 0xff} {
			b := bytes.Clone(sound)
			area, err := xattr.Block("block", b)
			if err != nil {
				t.Fatal(err)
			}
			b[off] = v
			area.Each(func(xattr.Attr) bool { return true })
		}
	}
}
