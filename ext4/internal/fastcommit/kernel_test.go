package fastcommit

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"ext4box/blockdev"
	"ext4box/ext4/internal/journal"
)

// The tests in this file copy images from under a live mount with fast commits
// and compare the folded state with what the kernel makes of the copy.

func run(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func mountLoop(t *testing.T, image string) (dir string, unmount func()) {
	t.Helper()
	dir = t.TempDir()
	if out, err := exec.Command("mount", "-t", "ext4", "-o", "loop", image, dir).CombinedOutput(); err != nil {
		t.Skipf("this kernel does not mount the image: %s", out)
	}
	mounted := true
	unmount = func() {
		if mounted {
			mounted = false
			run(t, "umount", dir)
		}
	}
	t.Cleanup(unmount)
	return dir, unmount
}

// memDevice is an image in memory.
type memDevice struct{ *bytes.Reader }

func (memDevice) WriteAt([]byte, int64) (int, error) { return 0, syscall.EROFS }
func (memDevice) Alignment() int                     { return 512 }
func (memDevice) ReadOnly() bool                     { return true }
func (memDevice) Flush() error                       { return nil }
func (memDevice) Discard(int64, int64) error         { return syscall.EROFS }
func (memDevice) Close() error                       { return nil }

var _ blockdev.Device = memDevice{}

// debugfsBase asks debugfs about an image in which the log has been replayed.
type debugfsBase struct {
	t     *testing.T
	image string
	dirs  map[uint32]map[string]uint32
}

// raw has debugfs dump an inode: lines of an octal offset and eight words, of
// which equal ones are left out.
func (b debugfsBase) raw(ino uint32) []byte {
	out, err := exec.Command("debugfs", "-R", fmt.Sprintf("inode_dump <%d>", ino), b.image).Output()
	check(b.t, err)
	var raw []byte
	for line := range strings.Lines(string(out)) {
		fields := strings.Fields(line)
		if len(fields) < 9 {
			continue
		}
		off, err := strconv.ParseUint(fields[0], 8, 16)
		check(b.t, err)
		for uint64(len(raw)) < off {
			raw = append(raw, raw[len(raw)-16:]...)
		}
		words, err := hex.DecodeString(strings.Join(fields[1:9], ""))
		check(b.t, err)
		raw = append(raw, words...)
	}
	for len(raw) >= 16 && len(raw) < testInodeSize {
		raw = append(raw, raw[len(raw)-16:]...)
	}
	if len(raw) != testInodeSize {
		b.t.Fatalf("debugfs shows %d bytes of inode %d:\n%s", len(raw), ino, out)
	}
	return raw
}

func (b debugfsBase) Links(ino uint32) uint16 { return le.Uint16(b.raw(ino)[inodeLinks:]) }

func (b debugfsBase) list(dir uint32) map[string]uint32 {
	if b.dirs[dir] == nil {
		b.dirs[dir] = map[string]uint32{}
		for line := range strings.Lines(run(b.t, "debugfs", "-R", fmt.Sprintf("ls -p <%d>", dir), b.image)) {
			if f := strings.Split(strings.TrimSpace(line), "/"); len(f) > 6 && f[5] != "." && f[5] != ".." {
				ino, err := strconv.ParseUint(f[1], 10, 32)
				check(b.t, err)
				if ino != 0 {
					b.dirs[dir][f[5]] = uint32(ino)
				}
			}
		}
	}
	return b.dirs[dir]
}

func (b debugfsBase) Lookup(dir uint32, name []byte) (uint32, error) {
	return b.list(dir)[string(name)], nil
}

func (b debugfsBase) Key(_ uint32, name []byte) []byte { return name }

// recovered is a crash image with log and fast commits recovered in memory.
type recovered struct {
	t    *testing.T
	dev  blockdev.Device
	base debugfsBase
	s    *State
}

func recoverImage(t *testing.T, image string) *recovered {
	t.Helper()
	content, err := os.ReadFile(image)
	check(t, err)
	log := filepath.Join(t.TempDir(), "log")
	run(t, "debugfs", "-R", "dump <8> "+log, image)
	logContent, err := os.ReadFile(log)
	check(t, err)
	j, err := journal.Load(bytes.NewReader(logContent), journal.Options{
		BlockSize:    testBlockSize,
		LogBlocks:    uint64(len(logContent) / testBlockSize),
		DeviceBlocks: uint64(len(content) / testBlockSize),
	})
	check(t, err)
	replay, err := j.Recover()
	check(t, err)
	r := &recovered{t: t, dev: journal.NewOverlay(memDevice{bytes.NewReader(content)}, replay)}

	logReplayed := make([]byte, len(content))
	_, err = r.dev.ReadAt(logReplayed, 0)
	check(t, err)
	r.base = debugfsBase{t, filepath.Join(t.TempDir(), "base"), map[uint32]map[string]uint32{}}
	check(t, os.WriteFile(r.base.image, logReplayed, 0o600))

	r.s, err = Load(j.FastCommitArea(), Options{
		BlockSize: testBlockSize, InodeSize: testInodeSize,
		Blocks: uint64(len(content) / testBlockSize), TID: replay.EndTID,
	}, r.base)
	check(t, err)
	return r
}

// entries is what a directory has after the replay.
func (r *recovered) entries(dir uint32) map[string]uint32 {
	out := map[string]uint32{}
	d := r.s.Dir(dir)
	if d == nil {
		return r.base.list(dir)
	}
	if !d.Made {
		for name, ino := range r.base.list(dir) {
			if _, changed := d.Lookup([]byte(name)); !changed {
				out[name] = ino
			}
		}
	}
	for _, e := range d.Entries() {
		if e.Ino != 0 {
			out[string(e.Name)] = e.Ino
		}
	}
	return out
}

func (r *recovered) inode(ino uint32) []byte {
	raw := r.base.raw(ino)
	if i := r.s.Inode(ino); i != nil {
		i.Patch(raw)
	}
	return raw
}

// compare walks over the kernel's mount and over the recovered state.
func (r *recovered) compare(dir uint32, path string) {
	r.t.Helper()
	list, err := os.ReadDir(path)
	check(r.t, err)
	ours := r.entries(dir)
	if len(list) != len(ours) {
		r.t.Errorf("%s: %d entries, but the kernel has %d", path, len(ours), len(list))
	}
	for _, e := range list {
		name := filepath.Join(path, e.Name())
		var st syscall.Stat_t
		check(r.t, syscall.Lstat(name, &st))
		ino, found := ours[e.Name()]
		if !found || uint64(ino) != st.Ino {
			r.t.Errorf("%s: inode %d (%v), but the kernel has %d", name, ino, found, st.Ino)
			continue
		}
		raw := r.inode(ino)
		size := int64(le.Uint32(raw[0x04:]))
		mtime := int64(le.Uint32(raw[0x10:]))
		if uint32(le.Uint16(raw)) != st.Mode || uint64(le.Uint16(raw[inodeLinks:])) != st.Nlink || size != st.Size {
			r.t.Errorf("%s: mode %o, %d links, %d bytes; the kernel has %o, %d, %d", name,
				le.Uint16(raw), le.Uint16(raw[inodeLinks:]), size, st.Mode, st.Nlink, st.Size)
		}
		if e.IsDir() {
			r.compare(ino, name)
			continue
		}
		if mtime != st.Mtim.Sec {
			r.t.Errorf("%s: modified at %d, the kernel has %d", name, mtime, st.Mtim.Sec)
		}
		r.compareContent(ino, name, size)
	}
}

// compareContent compares what the fast commits say about the mapping of a
// file, and what is left of the mapping on disk if that is a simple one.
func (r *recovered) compareContent(ino uint32, name string, size int64) {
	r.t.Helper()
	want, err := os.ReadFile(name)
	check(r.t, err)
	i := r.s.Inode(ino)
	if i == nil {
		return
	}
	mapped := 0
	got := make([]byte, len(want)+testBlockSize)
	root := r.inode(ino)[inodeBlock:inodeGeneration]
	for e := range le.Uint16(root[2:]) {
		if le.Uint16(root[6:]) != 0 {
			r.t.Fatalf("%s: the test does not read deep trees", name)
		}
		x := root[12+12*e:]
		for at := range le.Uint32(x) + uint32(le.Uint16(x[4:])) {
			if at < le.Uint32(x) {
				continue
			}
			if _, found, _ := i.Find(at); !found {
				r.read(got, at, uint64(le.Uint32(x[8:])+at-le.Uint32(x)))
				mapped++
			}
		}
	}
	for _, x := range i.Ranges() {
		if x.State == Removed {
			continue
		}
		mapped += int(x.Len)
		for at := range x.Len {
			if x.State == Written {
				r.read(got, x.Start+at, x.Block+uint64(at))
			}
		}
	}
	if !bytes.Equal(got[:size], want) {
		r.t.Errorf("%s: the content differs from the kernel's", name)
	}
	// The data blocks and, beyond four extents, those of the tree.
	var st syscall.Stat_t
	check(r.t, syscall.Stat(name, &st))
	if tree := int(st.Blocks)/2 - mapped; tree < 0 || tree > 1 {
		r.t.Errorf("%s: %d blocks mapped, the kernel has %d", name, mapped, st.Blocks/2)
	}
}

func (r *recovered) read(file []byte, at uint32, block uint64) {
	r.t.Helper()
	if off := int(at) * testBlockSize; off+testBlockSize <= len(file) {
		_, err := r.dev.ReadAt(file[off:off+testBlockSize], int64(block)*testBlockSize)
		if err != nil && err != io.EOF {
			r.t.Fatal(err)
		}
	}
}

func TestKernelFastCommits(t *testing.T) {
	for _, tool := range []string{"mke2fs", "debugfs", "mount"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skip(tool + " is not installed")
		}
	}
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	write := func(t *testing.T, name string, n int) {
		t.Helper()
		check(t, os.WriteFile(name, bytes.Repeat([]byte(filepath.Base(name)+" "), n)[:n], 0o644))
	}
	fsync := func(t *testing.T, name string) {
		t.Helper()
		f, err := os.Open(name)
		check(t, err)
		check(t, f.Sync())
		check(t, f.Close())
	}
	for _, c := range []struct {
		name    string
		prepare func(t *testing.T, at func(string) string)
		act     func(t *testing.T, at func(string) string)
	}{
		{"mkdir", nil, func(t *testing.T, at func(string) string) {
			check(t, os.Mkdir(at("made"), 0o750))
			write(t, at("made/file"), 5000)
			fsync(t, at("made/file"))
		}},
		{"unlink", func(t *testing.T, at func(string) string) {
			write(t, at("one"), 3000)
			write(t, at("two"), 3000)
			check(t, os.Link(at("two"), at("dir/two2")))
		}, func(t *testing.T, at func(string) string) {
			check(t, os.Remove(at("one")))
			check(t, os.Remove(at("two")))
			fsync(t, at("base"))
		}},
		{"rmdir", func(t *testing.T, at func(string) string) {
			check(t, os.Mkdir(at("gone"), 0o755))
		}, func(t *testing.T, at func(string) string) {
			check(t, os.Remove(at("gone")))
			fsync(t, at("base"))
		}},
		{"truncate", nil, func(t *testing.T, at func(string) string) {
			check(t, os.Truncate(at("base"), 1500))
			fsync(t, at("base"))
			check(t, os.Truncate(at("base"), 9000))
			fsync(t, at("base"))
		}},
		{"rename", func(t *testing.T, at func(string) string) {
			write(t, at("victim"), 100)
			write(t, at("mover"), 200)
		}, func(t *testing.T, at func(string) string) {
			check(t, os.Rename(at("base"), at("dir/moved")))
			check(t, os.Rename(at("mover"), at("victim")))
			fsync(t, at("victim"))
		}},
		{"sparse", nil, func(t *testing.T, at func(string) string) {
			f, err := os.OpenFile(at("base"), os.O_RDWR, 0)
			check(t, err)
			for i := range 60 {
				_, err := f.WriteAt([]byte(strconv.Itoa(i)), int64(i*37%60)*3000)
				check(t, err)
				if i%7 == 0 {
					check(t, f.Sync())
				}
			}
			check(t, f.Sync())
			check(t, f.Close())
		}},
		{"an inode number used again", func(t *testing.T, at func(string) string) {
			write(t, at("old"), 9000)
		}, func(t *testing.T, at func(string) string) {
			check(t, os.Remove(at("old")))
			write(t, at("new"), 2500)
			fsync(t, at("new"))
		}},
		{"a growing directory", nil, func(t *testing.T, at func(string) string) {
			for i := range 12 {
				name := at(fmt.Sprintf("dir/a-name-that-takes-its-room-%d", i))
				write(t, name, 10*i)
				fsync(t, name)
			}
		}},
		{"preallocation", nil, func(t *testing.T, at func(string) string) {
			f, err := os.OpenFile(at("base"), os.O_RDWR, 0)
			check(t, err)
			check(t, syscall.Fallocate(int(f.Fd()), 0, 0, 100<<10))
			_, err = f.WriteAt([]byte("in the middle"), 50<<10)
			check(t, err)
			check(t, f.Sync())
			check(t, f.Close())
		}},
		{"many names of one file", nil, func(t *testing.T, at func(string) string) {
			for i := range 20 {
				check(t, os.Link(at("base"), at(fmt.Sprintf("dir/link%d", i))))
				if i > 2 {
					check(t, os.Remove(at(fmt.Sprintf("dir/link%d", i-2))))
				}
				fsync(t, at("base"))
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			image := filepath.Join(dir, "image")
			f, err := os.Create(image)
			check(t, err)
			check(t, f.Truncate(32<<20))
			check(t, f.Close())
			run(t, "mke2fs", "-q", "-F", "-t", "ext4", "-b", "1024", "-I", "256", "-O", "fast_commit", image)
			mnt, unmount := mountLoop(t, image)
			at := func(name string) string { return filepath.Join(mnt, name) }
			write(t, at("base"), 4000)
			check(t, os.Mkdir(at("dir"), 0o755))
			if c.prepare != nil {
				c.prepare(t, at)
			}
			run(t, "sync", "-f", mnt)
			check(t, os.Chmod(at("base"), 0o600)) // so that an fsync of it has something to do
			c.act(t, at)
			crashed := filepath.Join(dir, "crash")
			run(t, "cp", "--sparse=always", image, crashed)
			unmount()

			r := recoverImage(t, crashed)
			if r.s.Empty() {
				t.Fatal("the kernel made no fast commit")
			}
			mnt, unmount = mountLoop(t, crashed)
			r.compare(2, mnt)
			unmount()
		})
	}
}
