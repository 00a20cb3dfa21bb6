package testimage

import (
	"maps"
	"reflect"
	"strings"
	"testing"
)

// TestDiffSeesEveryField alters each field of one record and removes and adds
// paths: Diff must see each, and see nothing otherwise.
func TestDiffSeesEveryField(t *testing.T) {
	now := Time{true, 1, 2}
	full := Record{
		Mode: 0o100644, UID: 1, GID: 2, Nlink: 3, Ino: 4, Size: 5, Blocks: 6, Major: 7, Minor: 8,
		Atime: now, Mtime: now, Ctime: now, Btime: now, DirentType: 9, DirentIno: 10, Generation: 11,
		Flags: 12, Project: 13, Xattrs: map[string]string{"user.a": "00"}, Link: "x", Sum: "y", Map: "0-5",
	}
	want := Manifest{"": full, "a/b": full}
	if d := want.Diff(maps.Clone(want), nil); d != "" {
		t.Fatalf("a manifest differs from itself:\n%s", d)
	}
	typ := reflect.TypeFor[Record]()
	for i := range typ.NumField() {
		changed := full
		f := reflect.ValueOf(&changed).Elem().Field(i)
		switch f.Kind() {
		case reflect.Uint8, reflect.Uint32, reflect.Uint64:
			f.SetUint(f.Uint() + 1)
		case reflect.Int64:
			f.SetInt(f.Int() + 1)
		case reflect.String:
			f.SetString(f.String() + "!")
		case reflect.Map:
			f.Set(reflect.ValueOf(map[string]string{"user.a": "01"}))
		case reflect.Struct:
			f.Set(reflect.ValueOf(Time{true, 1, 3}))
		default:
			t.Fatalf("%s: a kind of field this test does not know", typ.Field(i).Name)
		}
		got := Manifest{"": full, "a/b": changed}
		d := want.Diff(got, nil)
		if !strings.Contains(d, `"/a/b"`) || strings.Count(d, "\n") != 0 {
			t.Errorf("changing %s gives %q", typ.Field(i).Name, d)
		}
		if d := want.Diff(got, Ignore{typ.Field(i).Name}); d != "" {
			t.Errorf("ignoring %s gives %q", typ.Field(i).Name, d)
		}
	}
	for name, got := range map[string]map[string]string{
		"missing":  {},
		"too many": {"user.a": "00", "user.b": ""},
	} {
		changed := full
		changed.Xattrs = got
		if want.Diff(Manifest{"": full, "a/b": changed}, nil) == "" {
			t.Errorf("%s attributes are not seen", name)
		}
	}
	if d := want.Diff(Manifest{"": full}, nil); d != `"/a/b": missing` {
		t.Errorf("a missing path gives %q", d)
	}
	if d := want.Diff(Manifest{"": full, "a/b": full, "c": full}, nil); d != `"/c": should not be there` {
		t.Errorf("an additional path gives %q", d)
	}
	unknown := full
	unknown.DirentType = 0
	if d := (Manifest{"": unknown}).Diff(Manifest{"": full}, nil); d != "" {
		t.Errorf("knowing more than the oracle gives %q", d)
	}
	if d := (Manifest{"": full}).Diff(Manifest{"": unknown}, nil); d == "" {
		t.Error("an unknown entry type is not seen")
	}
}

func TestContentSum(t *testing.T) {
	file := func(b []byte) *strings.Reader { return strings.NewReader(string(b)) }
	data := make([]byte, 20<<20)
	copy(data[12<<20:], "some data")
	size := int64(len(data))
	some := []Range{{12 << 20, 12<<20 + 4096}}
	want, err := ContentSum(file(data), size, some)
	if err != nil {
		t.Fatal(err)
	}
	// The same bytes with another idea of where the holes are.
	if got, err := ContentSum(file(data), size, []Range{{0, size}}); got != want || err != nil {
		t.Errorf("other ranges: %s, %v; want %s", got, err, want)
	}
	if got, _ := ContentSum(file(data), size-1, some); got == want {
		t.Error("the size does not matter")
	}
	for _, at := range []int{12<<20 + 3, 4000, 12<<20 + 4096 + 7} {
		data[at] ^= 1
		if got, _ := ContentSum(file(data), size, some); got == want {
			t.Errorf("the byte at %d does not matter", at)
		}
		data[at] ^= 1
	}
	if _, err := ContentSum(file(data[:size-5]), size, []Range{{0, size}}); err == nil {
		t.Error("a short file is not seen")
	}
}

func TestEncodeMap(t *testing.T) {
	got := EncodeMap([]Range{{8, 12}, {0, 4}, {4, 6}, {20, 30}, {40, 50}}, 25)
	if want := "0-6 8-12 20-25"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestOraclesAgree compares the kernel with itself through a second mount, and
// with debugfs.
func TestOraclesAgree(t *testing.T) {
	RequireRoot(t)
	for _, name := range []string{"ext4", "ext2-rev0", "inlinedata", "eainode", "noextents-1k", "tiny", "project"} {
		c, ok := Find(name)
		if !ok {
			t.Fatalf("no configuration %s", name)
		}
		c.BigDir = 2000
		t.Run(name, func(t *testing.T) {
			img := Build(t, t.TempDir(), c)
			before, err := ImageSum(img.Path)
			if err != nil {
				t.Fatal(err)
			}
			first := walkKernel(t, img)
			if d := first.Diff(walkKernel(t, img), nil); d != "" {
				t.Errorf("two mounts differ:\n%s", d)
			}
			if after, _ := ImageSum(img.Path); after != before {
				t.Error("read-only mounts changed the image")
			}
			judge, err := WalkDebugfs(img.Path, t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			if d := judge.Diff(first, append(IgnoreDebugfs, "Flags")); d != "" {
				t.Errorf("debugfs and the kernel differ:\n%s", d)
			}
			if len(first) < 60 {
				t.Errorf("only %d paths", len(first))
			}
		})
	}
}

func walkKernel(t *testing.T, img *Image) Manifest {
	t.Helper()
	m := MountRO(t, img, "")
	tree, err := Walk(m.Dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Unmount(); err != nil {
		t.Fatal(err)
	}
	return tree
}
