package ext4_test

import (
	"errors"
	"fmt"
	"syscall"
	"testing"
	"time"

	"ext4box/blockdev/blocktest"
	"ext4box/ext4"
	"ext4box/internal/e2test"
)

// TestAccessed looks at when access times get from memory to the disk.
func TestAccessed(t *testing.T) {
	tree := e2test.Tree(t, map[string]string{"file": "text", "other": "text"})
	path := e2test.Image(t, 16<<20, "-t", "ext4", "-d", tree)
	open := func(t *testing.T, o ext4.Options) (*blocktest.Mem, *ext4.FS, ext4.Ino, ext4.Ino) {
		dev, err := blocktest.LoadMem(path)
		if err != nil {
			t.Fatal(err)
		}
		fs, err := ext4.Open(dev, o)
		if err != nil {
			t.Fatal(err)
		}
		file, _ := fs.Resolve("file")
		other, _ := fs.Resolve("other")
		past := time.Unix(1e9, 0)
		for _, ino := range []ext4.Ino{file, other} {
			if err := fs.SetAttr(ino, ext4.Attr{Atime: &past}); err != nil {
				t.Fatal(err)
			}
		}
		if err := fs.Sync(); err != nil {
			t.Fatal(err)
		}
		return dev, fs, file, other
	}
	// onDisk tells whether a crash would leave the access time.
	onDisk := func(t *testing.T, dev *blocktest.Mem, ino ext4.Ino) bool {
		fs, err := ext4.Open(dev.Clone(), ext4.Options{ReadOnly: true})
		if err != nil {
			t.Fatal(err)
		}
		defer fs.Close()
		st, err := fs.Stat(ino)
		if err != nil {
			t.Fatal(err)
		}
		return st.Atime.Unix() != 1e9
	}
	t.Run("reading alone", func(t *testing.T) {
		_, fs, file, _ := open(t, ext4.Options{Atime: ext4.AtimeStrict})
		if _, err := fs.ReadAt(file, make([]byte, 4), 0); err != nil {
			t.Fatal(err)
		}
		if st, _ := fs.Stat(file); st.Atime.Unix() != 1e9 {
			t.Error("a Go program that reads changes the access time")
		}
		fs.Close()
	})
	t.Run("interval", func(t *testing.T) {
		dev, fs, file, _ := open(t, ext4.Options{CommitInterval: 100 * time.Millisecond})
		fs.Accessed(file)
		if st, _ := fs.Stat(file); st.Atime.Unix() == 1e9 {
			t.Error("the new time is not shown")
		}
		for end := time.Now().Add(20 * time.Second); !onDisk(t, dev, file); time.Sleep(20 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatal("it is never written")
			}
		}
		if err := fs.Close(); err != nil {
			t.Fatal(err)
		}
	})
	for name, write := range map[string]func(fs *ext4.FS, file, other ext4.Ino) (error, bool){
		"fsync":         func(fs *ext4.FS, file, _ ext4.Ino) (error, bool) { return fs.Fsync(file), true },
		"sync":          func(fs *ext4.FS, _, _ ext4.Ino) (error, bool) { return fs.Sync(), true },
		"close":         func(fs *ext4.FS, _, _ ext4.Ino) (error, bool) { return nil, false },
		"another fsync": func(fs *ext4.FS, _, other ext4.Ino) (error, bool) { return fs.Fsync(other), false },
		"another change": func(fs *ext4.FS, file, other ext4.Ino) (error, bool) {
			mode := uint32(0o600)
			return errors.Join(fs.SetAttr(file, ext4.Attr{Mode: &mode}), fs.Fsync(other), fs.Fsync(file)), true
		},
	} {
		t.Run("lazy until "+name, func(t *testing.T) {
			dev, fs, file, other := open(t, ext4.Options{LazyTime: true, CommitInterval: 10 * time.Millisecond})
			fs.Accessed(file)
			time.Sleep(200 * time.Millisecond)
			if onDisk(t, dev, file) {
				t.Error("written too early")
			}
			err, want := write(fs, file, other)
			if err != nil {
				t.Fatal(err)
			}
			if got := onDisk(t, dev, file); got != want {
				t.Errorf("written: %v", got)
			}
			if err := fs.Close(); err != nil {
				t.Fatal(err)
			}
			if !onDisk(t, dev, file) {
				t.Error("not written at the end")
			}
		})
	}
	t.Run("flood", func(t *testing.T) {
		mem, fs, _, _ := open(t, ext4.Options{})
		fs.Close()
		dev := blocktest.NewCounting(mem, 4096)
		fs, err := ext4.Open(dev, ext4.Options{Atime: ext4.AtimeStrict, CommitInterval: time.Hour})
		if err != nil {
			t.Fatal(err)
		}
		var inos []ext4.Ino
		for i := range 3000 {
			ino, err := fs.Create(ext4.RootIno, fmt.Sprint(i), ext4.NewNode{Mode: syscall.S_IFREG | 0o600})
			if err != nil {
				t.Fatal(err)
			}
			inos = append(inos, ino)
		}
		if err := fs.Sync(); err != nil {
			t.Fatal(err)
		}
		before := dev.Counts().Writes
		for range 10 {
			for _, ino := range inos {
				fs.Accessed(ino)
			}
		}
		if n := dev.Counts().Writes - before; n > 300 {
			t.Errorf("%d writes for 30000 reads", n)
		}
		unlinked := inos[5]
		if err := fs.Unlink(ext4.RootIno, "5"); err != nil {
			t.Fatal(err)
		}
		fs.Accessed(unlinked)
		if err := fs.Close(); err != nil {
			t.Fatal(err)
		}
		if fs, err = ext4.Open(mem, ext4.Options{}); err != nil {
			t.Fatal(err)
		}
		for i, ino := range inos {
			if st, err := fs.Stat(ino); i != 5 && (err != nil || !st.Atime.After(st.Mtime)) {
				t.Fatalf("inode %d: %v, %+v", ino, err, st)
			}
		}
		fs.Close()
	})
}
