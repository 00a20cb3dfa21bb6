package test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ext4box/internal/testimage"
)

// protectedFile makes a file with 5,000 bytes, an old time and flags, which nobody has open.
func protectedFile(t *testing.T, path string, flags uint32) []byte {
	t.Helper()
	data := make([]byte, 5000)
	for i := range data {
		data[i] = byte(rand.Uint32())
	}
	old := time.Unix(1e9, 0)
	if err := errors.Join(os.WriteFile(path, data, 0o666), os.Chtimes(path, old, old), setFlags(path, flags)); err != nil {
		t.Fatal(err)
	}
	return data
}

// unchanged wants a file to have what it had, by what the mount shows before long.
func unchanged(t *testing.T, what, path string, want []byte) {
	t.Helper()
	var why string
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		got, err := os.ReadFile(path)
		st, serr := os.Stat(path)
		switch {
		case err != nil || serr != nil:
			why = fmt.Sprint(err, serr)
		case !bytes.Equal(got, want):
			why = fmt.Sprintf("%d bytes, other content", len(got))
		case st.Size() != int64(len(want)) || st.ModTime().Unix() != 1e9:
			why = fmt.Sprintf("%d bytes, changed at %v", st.Size(), st.ModTime())
		default:
			return
		}
		if time.Now().After(end) {
			t.Errorf("%s: %s", what, why)
			return
		}
	}
}

// TestProtectedUnasked: where the kernel opens files by itself, nothing gets into an immutable file, over
// what a file that only grows has, nor stays to be seen as if it had; whoever writes is told, if late.
func TestProtectedUnasked(t *testing.T) {
	testimage.RequireRoot(t)
	img := smallImage(t, t.TempDir(), "protected")
	dir := mountRW(t, img.Path)
	over := func(flag int, off int64) func(string) error {
		return func(path string) error {
			f, err := os.OpenFile(path, os.O_WRONLY|flag, 0)
			if err != nil {
				return err
			}
			_, err = f.WriteAt(bytes.Repeat([]byte("x"), 100), off)
			if flag&os.O_APPEND != 0 {
				_, err = f.Write(bytes.Repeat([]byte("x"), 100))
			}
			return errors.Join(err, f.Sync(), f.Close())
		}
	}
	files := map[string][]byte{}
	for name, way := range map[string]struct {
		flags uint32
		write func(path string) error
		want  error
	}{
		"immutable, over":     {flagImmutable, over(0, 10), unix.EPERM},
		"immutable, behind":   {flagImmutable, over(0, 9000), unix.EPERM},
		"immutable, append":   {flagImmutable, over(os.O_APPEND, 0), unix.EPERM},
		"immutable, truncate": {flagImmutable, over(os.O_TRUNC, 0), unix.EPERM},
		"immutable, close": {flagImmutable, func(path string) error {
			f, err := os.OpenFile(path, os.O_WRONLY, 0)
			if err != nil {
				return err
			}
			_, err = f.Write([]byte("x"))
			return errors.Join(err, f.Close())
		}, unix.EIO}, // the kernel knows no other error for close(2)
		"immutable, mapped": {flagImmutable, func(path string) error {
			f, err := os.OpenFile(path, os.O_RDWR, 0)
			if err != nil {
				return err
			}
			defer f.Close()
			m, err := unix.Mmap(int(f.Fd()), 0, 5000, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
			if err != nil {
				return err
			}
			m[100]++
			return errors.Join(unix.Msync(m, unix.MS_SYNC), unix.Munmap(m))
		}, unix.EPERM},
		"immutable, direct": {flagImmutable, func(path string) error {
			f, err := os.OpenFile(path, os.O_WRONLY|unix.O_DIRECT, 0)
			if err != nil {
				return err
			}
			defer f.Close()
			m, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
			if err != nil {
				return err
			}
			_, err = f.WriteAt(m, 0)
			return err
		}, unix.EPERM},
		"immutable, copied to": {flagImmutable, func(path string) error {
			from, err := os.Open(filepath.Join(filepath.Dir(path), "from"))
			if err != nil {
				return err
			}
			defer from.Close()
			to, err := os.OpenFile(path, os.O_WRONLY, 0)
			if err != nil {
				return err
			}
			defer to.Close()
			_, err = unix.CopyFileRange(int(from.Fd()), nil, int(to.Fd()), nil, 1000, 0)
			return errors.Join(err, to.Sync())
		}, unix.EPERM},
		"append-only, over":     {flagAppend, over(0, 10), unix.EPERM},
		"append-only, truncate": {flagAppend, over(os.O_TRUNC, 0), unix.EPERM},
	} {
		path := filepath.Join(dir, name)
		if _, ok := files[filepath.Join(dir, "from")]; !ok {
			files[filepath.Join(dir, "from")] = protectedFile(t, filepath.Join(dir, "from"), 0)
		}
		data := protectedFile(t, path, way.flags)
		if err := way.write(path); !errors.Is(err, way.want) {
			t.Errorf("%s: %v, want %v", name, err, way.want)
		}
		unchanged(t, name, path, data)
		files[path] = data
	}
	// As others see it.
	umount(t, dir)
	m := testimage.MountRO(t, img, "")
	for path, data := range files {
		unchanged(t, "mounted by the kernel: "+filepath.Base(path), filepath.Join(m.Dir, filepath.Base(path)), data)
	}
}

// TestAppendUnasked: what is added to a file that only grows is there, in whatever order it is written
// back, and can soon not be changed any more.
func TestAppendUnasked(t *testing.T) {
	testimage.RequireRoot(t)
	img := smallImage(t, t.TempDir(), "append")
	dir := mountRW(t, img.Path)
	path := filepath.Join(dir, "grows")
	want := protectedFile(t, path, flagAppend)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	for round := range 40 {
		more := make([]byte, 1+rand.IntN(300_000))
		for i := range more {
			more[i] = byte(rand.Uint32())
		}
		if _, err := f.Write(more); err != nil {
			t.Fatal(err)
		}
		want = append(want, more...)
		switch round % 4 {
		case 1:
			err = f.Sync()
		case 2:
			unix.Sync()
		case 3:
			err = unix.SyncFileRange(int(f.Fd()), int64(len(want)/2), int64(len(want)/2), unix.SYNC_FILE_RANGE_WRITE) // the end first
		}
		if err != nil {
			t.Fatal(err)
		}
		if round == 20 {
			time.Sleep(2 * time.Second) // what there is can no longer change
		}
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d bytes, want %d, equal: %v; %v", len(got), len(want), bytes.Equal(got, want), err)
	}
	time.Sleep(2 * time.Second)
	if f, err = os.OpenFile(path, os.O_RDWR, 0); err != nil {
		t.Fatal(err)
	}
	for _, off := range []int{100, 6000, len(want) / 2, len(want) - 10} {
		if _, err := f.WriteAt([]byte{want[off] + 1}, int64(off)); err != nil {
			t.Fatal(err)
		}
		if err := f.Sync(); !errors.Is(err, unix.EPERM) {
			t.Errorf("a byte of what was added changed, at %d: %v", off, err)
		}
	}
	f.Close()
	eventually(t, "the file as it was", func() bool {
		got, err := os.ReadFile(path)
		return err == nil && bytes.Equal(got, want)
	})
	umount(t, dir)
	m := testimage.MountRO(t, img, "")
	if got, err := os.ReadFile(filepath.Join(m.Dir, "grows")); err != nil || !bytes.Equal(got, want) {
		t.Errorf("mounted by the kernel: %d bytes, want %d, equal: %v; %v", len(got), len(want), bytes.Equal(got, want), err)
	}
}

// TestProtectedLate: what a file was given before it became immutable, or such that it can only grow, is
// part of it.
func TestProtectedLate(t *testing.T) {
	testimage.RequireRoot(t)
	img := smallImage(t, t.TempDir(), "late")
	dir := mountRW(t, img.Path)
	for name, flag := range map[string]uint32{"immutable": flagImmutable, "append": flagAppend} {
		path := filepath.Join(dir, name)
		want := protectedFile(t, path, 0)
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		for range 300 {
			want = append(want, want[:5000]...)
		}
		want[100]++
		if _, err := f.WriteAt(want, 0); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(setFlags(path, flag), f.Sync(), f.Close()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %d bytes, want %d, equal: %v; %v", name, len(got), len(want), bytes.Equal(got, want), err)
		}
	}
}

// requests counts what a mount with the option debug is asked, by its log.
type requests struct {
	t        *testing.T
	dir, log string
	markers  int
}

// during returns the requests that come while f runs, by kind, and how many they are.
func (r *requests) during(f func()) (total int, list string) {
	mark := func() string {
		r.markers++
		name := fmt.Sprintf("marker-%d-", r.markers)
		os.Lstat(filepath.Join(r.dir, name))
		return name
	}
	begin := mark()
	f()
	end := mark()
	var text string
	eventually(r.t, "the log", func() bool {
		b, _ := os.ReadFile(r.log)
		text = string(b)
		return strings.Contains(text, "name="+end)
	})
	_, text, _ = strings.Cut(text, "name="+begin)
	_, text, _ = strings.Cut(text, "\n")
	text, _, _ = strings.Cut(text, "name="+end)
	text = text[:strings.LastIndexByte(text, '\n')+1]
	counts := map[string]int{}
	for line := range strings.Lines(text) {
		if _, rest, ok := strings.Cut(line, "msg=request op="); ok {
			op, _, _ := strings.Cut(rest, " ")
			counts[op]++
			total++
		}
	}
	return total, fmt.Sprint(counts)
}

// TestRequests counts what the server is asked for what programs do all the time.
func TestRequests(t *testing.T) {
	img := smallImage(t, t.TempDir(), "requests")
	requireMounting(t)
	dir, log := t.TempDir(), filepath.Join(t.TempDir(), "log")
	if res := runMount(t, "-o", "rw,debug", "--log", log, img.Path, dir); res.status != 0 {
		t.Fatal(res.stderr)
	}
	defer umount(t, dir)
	path := func(i int) string { return filepath.Join(dir, "d", fmt.Sprint("file", i)) }
	const files = 50
	if err := os.Mkdir(filepath.Join(dir, "d"), 0o777); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 3000)
	create := func() {
		for i := range files {
			fd, err := unix.Open(path(i), unix.O_CREAT|unix.O_WRONLY|unix.O_EXCL, 0o644)
			if err != nil {
				t.Fatal(err)
			}
			_, err = unix.Write(fd, buf)
			if err = errors.Join(err, unix.Close(fd)); err != nil {
				t.Fatal(err)
			}
		}
	}
	read := func() {
		for i := range files {
			fd, err := unix.Open(path(i), unix.O_RDONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			n, err := unix.Read(fd, buf)
			if err = errors.Join(err, unix.Close(fd)); n != len(buf) || err != nil {
				t.Fatal(n, err)
			}
		}
	}
	stat := func() {
		var st unix.Stat_t
		for i := range files {
			if err := unix.Lstat(path(i), &st); err != nil {
				t.Fatal(err)
			}
		}
	}
	list := func() {
		if entries, err := os.ReadDir(filepath.Join(dir, "d")); err != nil || len(entries) != files {
			t.Fatal(len(entries), err)
		}
	}
	r := &requests{t: t, dir: dir, log: log}
	create()
	read() // from here on the kernel does not ask
	for i := range files {
		if err := os.Remove(path(i)); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		name string
		do   func()
		most int // for each file; the directory itself may be asked for twice
	}{
		// Whether it is there (the kernel keeps that it is not), CREATE, security.capability, WRITE, the directory.
		// SETATTR of the times comes later.
		{"create, write and close", create, 6},
		{"read", read, 0}, // it was written
		{"read again", read, 0},
		{"stat after close", stat, 1}, // close(2) has the kernel ask for st_blocks
		{"stat again", stat, 0},
		{"list", list, 0},
		{"list again", list, 0},
	} {
		if c.name == "list" {
			list() // the kernel lists twice before it keeps what it finds
			list()
		}
		if n, what := r.during(c.do); n > c.most*files+2 {
			t.Errorf("%s: %d files cost %d requests, want %d for each: %s", c.name, files, n, c.most, what)
		} else {
			t.Logf("%s: %d requests for %d files: %s", c.name, n, files, what)
		}
	}
}
