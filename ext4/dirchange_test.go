package ext4_test

import (
	"errors"
	"fmt"
	"testing"

	"ext4box/ext4"
	"ext4box/internal/e2test"
)

// TestStill changes a directory between the time when something is looked up in it and the
// time when it is locked.
func TestStill(t *testing.T) {
	for _, args := range [][]string{{"-t", "ext4"}, {"-t", "ext4", "-O", "inline_data"}} {
		dev := load(t, e2test.Image(t, 16*mib, args...))
		dev.SetReadOnly(false)
		fs := openWritable(t, dev)
		must := func(err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
		}
		create := func(name string) {
			t.Helper()
			_, err := fs.Create(ext4.RootIno, name, ext4.NewNode{Mode: 0o100644})
			must(err)
		}
		create("name")
		create("other")
		for _, test := range []struct {
			what, name string
			change     func()
			moved      bool
		}{
			{"nothing", "name", func() {}, false},
			{"nothing", "absent", func() {}, false},
			{"another name comes", "name", func() { create("third") }, false},
			{"another name goes", "name", func() { must(fs.Unlink(ext4.RootIno, "third")) }, false},
			{"the name goes", "name", func() { must(fs.Unlink(ext4.RootIno, "name")) }, true},
			{"the name comes", "name", func() { create("name") }, true},
			{"it leads elsewhere", "name", func() { must(fs.Rename(ext4.RootIno, "other", ext4.RootIno, "name", 0)) }, true},
		} {
			if err := fs.Still(ext4.RootIno, test.name, test.change); errors.Is(err, ext4.ErrMoved) != test.moved || !test.moved && err != nil {
				t.Errorf("%v, %s: %s: %v", args, test.what, test.name, err)
			}
		}
		if err := fs.Still(ext4.RootIno, "name", func() {
			for i := range 100 {
				create(fmt.Sprint("more", i))
			}
		}); err != nil {
			t.Errorf("%v: with many more names: %v", args, err)
		}
		must(fs.Close())
		dumpClean(t, dev)
	}
}
