package ext4_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"ext4box/blockdev/blocktest"
	"ext4box/ext4"
	"ext4box/internal/e2test"
)

// errorFields are the fields of the superblock about errors and the state, as
// dumpe2fs has them.
func errorFields(t *testing.T, dev *blocktest.Mem) map[string]string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "image")
	if err := blocktest.Dump(dev, dev.Size(), path); err != nil {
		t.Fatal(err)
	}
	defer os.Remove(path)
	fields := make(map[string]string)
	for line := range strings.Lines(e2test.Output(t, "dumpe2fs", "-h", path)) {
		key, value, _ := strings.Cut(line, ":")
		if strings.Contains(key, "rr") || strings.Contains(key, "state") {
			fields[key] = strings.TrimSpace(value)
		}
	}
	return fields
}

// damagedImage has a directory "bad" whose block, and a file "worse" whose inode,
// are damaged, and a sound file "good".
func damagedImage(t *testing.T, policy string, args ...string) (dev *blocktest.Mem, block, inode uint64) {
	t.Helper()
	tree := e2test.Tree(t, map[string]string{"bad/name": "", "worse": "text", "good": "text"})
	path := e2test.Image(t, 16<<20, append([]string{"-t", "ext4", "-b", "4096", "-e", policy, "-d", tree}, args...)...)
	fmt.Sscan(e2test.Debugfs(t, path, "bmap bad 0"), &block)
	var at string
	out := e2test.Debugfs(t, path, "imap worse")
	if _, err := fmt.Sscanf(out[strings.Index(out, "Inode"):], "Inode %d is part of block group 0\n\tlocated at block %s", &inode, &at); err != nil {
		t.Fatalf("%v in %q", err, out)
	}
	var table, offset int64
	fmt.Sscanf(out[strings.Index(out, "located"):], "located at block %d, offset 0x%x", &table, &offset)
	dev, err := blocktest.LoadMem(path)
	if err != nil {
		t.Fatal(err)
	}
	flip := func(off int64) {
		var b [1]byte
		dev.ReadAt(b[:], off)
		b[0] ^= 0x55
		dev.WriteAt(b[:], off)
	}
	flip(int64(block)<<12 + 4) // the length of "."
	flip(table<<12 + offset + 4)
	return dev, block, inode
}

// createFile makes a file in the root directory.
func createFile(fs *ext4.FS, name string) error {
	_, err := fs.Create(ext4.RootIno, name, ext4.NewNode{Mode: syscall.S_IFREG | 0o600})
	return err
}

// TestErrorPolicies finds damage while reading and looks at what follows, and at
// what is on disk afterwards.
func TestErrorPolicies(t *testing.T) {
	for _, c := range []struct {
		onDisk  string
		option  ext4.OnError
		args    []string
		stopped bool
		panics  bool
	}{
		{onDisk: "continue"},
		{onDisk: "continue", args: []string{"-O", "^has_journal"}},
		{onDisk: "remount-ro", stopped: true},
		{onDisk: "remount-ro", stopped: true, args: []string{"-O", "^has_journal"}},
		{onDisk: "panic", stopped: true, panics: true},
		{onDisk: "remount-ro", option: ext4.OnErrorContinue},
		{onDisk: "continue", option: ext4.OnErrorReadOnly, stopped: true},
		{onDisk: "continue", option: ext4.OnErrorPanic, stopped: true, panics: true},
	} {
		t.Run(fmt.Sprint(c.onDisk, c.option, c.args), func(t *testing.T) {
			t.Parallel()
			dev, block, inode := damagedImage(t, c.onDisk, c.args...)
			cause := make(chan error, 2)
			start := time.Now()
			fs, err := ext4.Open(dev, ext4.Options{Errors: c.option, Panic: func(err error) { cause <- err }})
			if err != nil {
				t.Fatal(err)
			}
			bad, err := fs.Resolve("bad")
			if err != nil {
				t.Fatal(err)
			}
			good, err := fs.Resolve("good")
			if err != nil {
				t.Fatal(err)
			}
			if err := createFile(fs, "before"); err != nil {
				t.Fatal(err)
			}
			if err := fs.Sync(); err != nil {
				t.Fatal(err)
			}
			if _, err := fs.Lookup(bad, "name"); !errors.Is(err, syscall.EUCLEAN) {
				t.Fatalf("a damaged directory: %v", err)
			}
			for range 3 {
				if _, err := fs.Stat(ext4.Ino(inode)); !errors.Is(err, syscall.EUCLEAN) {
					t.Fatalf("a damaged inode: %v", err)
				}
			}
			mode := uint32(0o640)
			_, write := fs.WriteAt(good, []byte("over"), 0)
			for what, err := range map[string]error{
				"create": createFile(fs, "after"), "write": write, "chmod": fs.SetAttr(good, ext4.Attr{Mode: &mode}),
				"truncate": fs.Truncate(good, 3),
			} {
				if c.stopped != errors.Is(err, syscall.EROFS) || !c.stopped && err != nil {
					t.Errorf("%s after an error: %v", what, err)
				}
			}
			if _, err := fs.Stat(good); err != nil {
				t.Errorf("reading after an error: %v", err)
			}
			if c.panics {
				if err := <-cause; !errors.Is(err, syscall.EUCLEAN) {
					t.Errorf("panic because of %v", err)
				}
			}
			// It is on disk also if nobody closes the filesystem.
			wait := time.Now().Add(10 * time.Second)
			for errorFields(t, dev)["FS Error count"] == "" && time.Now().Before(wait) {
				time.Sleep(10 * time.Millisecond)
				if !c.stopped {
					fs.Sync()
				}
				if c.args == nil && !c.stopped {
					break // it is in the journal; see below
				}
			}
			if c.args == nil && !c.stopped {
				again, err := ext4.Open(dev.Clone(), ext4.Options{ReadOnly: true})
				if err != nil {
					t.Fatal(err)
				}
				for again.Info().ErrorCount == 0 && time.Now().Before(wait) {
					again.Close()
					time.Sleep(10 * time.Millisecond)
					if again, err = ext4.Open(dev.Clone(), ext4.Options{ReadOnly: true}); err != nil {
						t.Fatal(err)
					}
				}
				if again.Info().ErrorCount == 0 {
					t.Error("the error is not in the journal")
				}
				again.Close()
			} else if n := errorFields(t, dev)["FS Error count"]; n == "" {
				t.Error("the error is not in the superblock")
			}
			if i := fs.Info(); i.ErrorCount != 4 || i.FirstError.Block != block || i.FirstError.Inode != uint32(bad) ||
				i.LastError.Inode != uint32(inode) || i.FirstError.Error != "EFSCORRUPTED" || i.LastError.Time.Before(start.Add(-time.Second)) {
				t.Errorf("info has %d errors, first %+v, last %+v", i.ErrorCount, i.FirstError, i.LastError)
			}
			if err := fs.Close(); c.stopped != (err != nil) {
				t.Errorf("close: %v", err)
			}
			if len(cause) > 0 {
				t.Error("a second panic, or one that was not asked for")
			}
			got := errorFields(t, dev)
			want := map[string]string{
				"FS Error count": "4", "First error function": "directory_leaf", "Last error function": "inode",
				"First error inode #": fmt.Sprint(bad), "First error block #": fmt.Sprint(block), "First error err": "EFSCORRUPTED",
				"Last error inode #": fmt.Sprint(inode), "Last error err": "EFSCORRUPTED",
			}
			if c.stopped { // the rest was found when it could not be written any longer
				want["FS Error count"], want["Last error function"], want["Last error inode #"] = "1", "directory_leaf", fmt.Sprint(bad)
			}
			for key, value := range want {
				if got[key] != value && !(c.stopped && strings.HasPrefix(key, "Last") || c.stopped && key == "FS Error count") {
					t.Errorf("%s is %q instead of %q; all: %v", key, got[key], value, got)
				}
			}
			if state := got["Filesystem state"]; !strings.Contains(state, "with errors") {
				t.Errorf("state %q", state)
			}
			// The next one to open it goes on counting, after the recovery of the
			// journal, which has an older superblock.
			again, err := ext4.Open(dev, ext4.Options{Errors: ext4.OnErrorContinue})
			if err != nil {
				t.Fatal(err)
			}
			before := again.Info()
			if before.ErrorCount == 0 || before.FirstError.Block != block || !strings.Contains(before.State, "with errors") {
				t.Errorf("opened again: %d errors, first %+v, state %s", before.ErrorCount, before.FirstError, before.State)
			}
			if _, err := again.Stat(ext4.Ino(inode)); !errors.Is(err, syscall.EUCLEAN) {
				t.Error(err)
			}
			if err := again.Close(); err != nil {
				t.Fatal(err)
			}
			if n := errorFields(t, dev)["FS Error count"]; n != fmt.Sprint(before.ErrorCount+1) {
				t.Errorf("%s errors after another one than %d", n, before.ErrorCount)
			}
		})
	}
}

// TestErrorsAreNotWrittenReadOnly: damage seen on a filesystem that is open for
// reading leaves no trace.
func TestErrorsAreNotWrittenReadOnly(t *testing.T) {
	dev, _, inode := damagedImage(t, "remount-ro")
	dev.SetReadOnly(true)
	fs, err := ext4.Open(dev, ext4.Options{ReadOnly: true, Errors: ext4.OnErrorPanic, Panic: func(error) { t.Error("panic") }})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fs.Stat(ext4.Ino(inode)); !errors.Is(err, syscall.EUCLEAN) {
		t.Error(err)
	}
	if err := fs.Close(); err != nil {
		t.Error(err)
	}
}

// TestErrorFlood: many errors are few writes.
func TestErrorFlood(t *testing.T) {
	mem, _, inode := damagedImage(t, "continue")
	dev := blocktest.NewCounting(mem, 4096)
	fs, err := ext4.Open(dev, ext4.Options{CommitInterval: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	before := dev.Counts().Writes
	for range 10000 {
		fs.Stat(ext4.Ino(inode))
	}
	time.Sleep(200 * time.Millisecond)
	if n := dev.Counts().Writes - before; n == 0 || n > 20 {
		t.Errorf("%d writes for 10000 errors", n)
	}
	if err := fs.Close(); err != nil {
		t.Fatal(err)
	}
	if n := errorFields(t, mem)["FS Error count"]; n != "10000" {
		t.Errorf("%s errors", n)
	}
}

// TestErrorOfDevice: metadata that cannot be read is recorded with EIO, file data
// is not; a journal that cannot be written stops everything, whatever errors=
// says, with the error in its own superblock, by which the kernel and e2fsck know.
func TestErrorOfDevice(t *testing.T) {
	tree := e2test.Tree(t, map[string]string{"dir/name": "", "file": strings.Repeat("text", 3000)})
	path := e2test.Image(t, 16<<20, "-t", "ext4", "-b", "4096", "-e", "continue", "-d", tree)
	var dirBlock, fileBlock int64
	fmt.Sscan(e2test.Debugfs(t, path, "bmap dir 0"), &dirBlock)
	fmt.Sscan(e2test.Debugfs(t, path, "bmap file 0"), &fileBlock)
	mem, err := blocktest.LoadMem(path)
	if err != nil {
		t.Fatal(err)
	}
	dev := blocktest.NewFailing(mem)
	fs, err := ext4.Open(dev, ext4.Options{CommitInterval: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	dev.FailRange(dirBlock<<12, 4096, syscall.EIO)
	dev.FailRange(fileBlock<<12, 4096, syscall.EIO)
	dir, _ := fs.Resolve("dir")
	file, _ := fs.Resolve("file")
	if _, err := fs.ReadAt(file, make([]byte, 4096), 0); !errors.Is(err, syscall.EIO) {
		t.Errorf("read: %v", err)
	}
	if n := fs.Info().ErrorCount; n != 0 {
		t.Errorf("%d errors after a failed read of data", n)
	}
	if _, err := fs.Lookup(dir, "name"); !errors.Is(err, syscall.EIO) {
		t.Errorf("lookup: %v", err)
	}
	if i := fs.Info(); i.ErrorCount != 1 || i.FirstError.Error != "EIO" || i.FirstError.Block != uint64(dirBlock) {
		t.Errorf("%d errors, first %+v", i.ErrorCount, i.FirstError)
	}
	if err := createFile(fs, "still writable"); err != nil {
		t.Errorf("create: %v", err)
	}
	dev.Clear()
	if err := fs.Sync(); err != nil {
		t.Fatal(err)
	}
	// Let the journal fail, and nothing after it.
	if err := createFile(fs, "lost"); err != nil {
		t.Fatal(err)
	}
	dev.Add(blocktest.Rule{Ops: blocktest.Flush, Times: 1})
	if err := fs.Sync(); !errors.Is(err, syscall.EIO) {
		t.Errorf("sync: %v", err)
	}
	if err := createFile(fs, "refused"); !errors.Is(err, syscall.EROFS) {
		t.Errorf("create after an abort: %v", err)
	}
	if err := fs.Close(); err == nil {
		t.Error("close said nothing")
	}
	got := errorFields(t, mem)
	if got["Last error function"] != "journal" || got["Last error err"] != "EIO" || got["FS Error count"] != "2" {
		t.Errorf("recorded: %v", got)
	}
	if !strings.Contains(got["Filesystem state"], "with errors") || got["Journal errno"] == "" {
		t.Errorf("state %q, journal errno %q", got["Filesystem state"], got["Journal errno"])
	}
	fs, err = ext4.Open(mem, ext4.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := fs.Close(); err != nil {
		t.Fatal(err)
	}
	got = errorFields(t, mem)
	if !strings.Contains(got["Filesystem state"], "with errors") || got["Journal errno"] != "" {
		t.Errorf("after the next mount: state %q, journal errno %q", got["Filesystem state"], got["Journal errno"])
	}
}
