package test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ext4box/ext4"
	"ext4box/internal/testimage"
	"ext4box/internal/testimage/apitree"
)

// smallImage is an image for tests that care about mounting, not about content.
func smallImage(t *testing.T, dir, name string) *testimage.Image {
	t.Helper()
	return testimage.Build(t, dir, testimage.Config{
		Name: name, Size: 32 << 20, Args: []string{"-t", "ext4", "-b", "4096"}, Level: testimage.Small})
}

// eventually waits for something that another process does.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("in vain waited for: %s", what)
		}
	}
}

// servers are the processes that serve a given image.
func servers(t *testing.T, image string) (pids []int) {
	t.Helper()
	procs, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range procs {
		b, _ := os.ReadFile(p)
		args := strings.Split(string(b), "\x00")
		if filepath.Base(args[0]) == "ext4box" && slices.Contains(args, image) {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(p)))
			pids = append(pids, pid)
		}
	}
	return pids
}

// unlocked tells whether nobody has the image open under a lock.
func unlocked(t *testing.T, image string) bool {
	t.Helper()
	f, err := os.Open(image)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil
}

// TestMountErrors gives mount what it cannot mount.
func TestMountErrors(t *testing.T) {
	requireMounting(t)
	scratch := t.TempDir()
	img := smallImage(t, scratch, "good")
	file := func(name string, data []byte) string {
		p := filepath.Join(scratch, name)
		if err := os.WriteFile(p, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return p
	}
	whole, err := os.ReadFile(img.Path)
	if err != nil {
		t.Fatal(err)
	}
	unknown := bytes.Clone(whole)
	unknown[1024+0x60+3] |= 0x40 // a bit of s_feature_incompat that nobody uses
	busy := mountImage(t, img)
	tests := []struct {
		name, source, dir, options string
		status                     int
		says                       []string
	}{
		{"not ext4", file("noise", bytes.Repeat([]byte("noise "), 100_000)), "", "", 32, []string{"noise", "not an ext"}},
		{"empty", file("empty", nil), "", "", 32, []string{"empty"}},
		{"truncated", file("short", whole[:3<<20]), "", "", 32, []string{"truncated"}},
		{"cut in the superblock", file("cut", whole[:1500]), "", "", 32, []string{"cut"}},
		{"wrong offset", img.Path + "x", "", "offset=8192", 32, []string{"not an ext", "offset"}},
		{"offset beyond the end", img.Path + "x", "", "offset=99999999999", 32, []string{"offset"}},
		{"missing file", filepath.Join(scratch, "missing"), "", "", 32, []string{"missing", "no such file"}},
		{"a directory", scratch, "", "", 32, []string{"directory"}},
		{"missing mount point", img.Path + "x", filepath.Join(scratch, "nowhere"), "", 32, []string{"nowhere", "does not exist"}},
		{"a file as mount point", img.Path + "x", img.Path, "", 32, []string{"not a directory"}},
		{"mounted already", img.Path, busy, "", 32, []string{"already mounted"}},
		{"no partition table", img.Path + "x@p1", "", "", 32, []string{"good.imgx", "partition"}},
		{"unknown option", img.Path + "x", "", "bogus", 1, []string{"bogus"}},
		{"malformed option", img.Path + "x", "", "offset=lots", 1, []string{"offset"}},
		{"unknown feature", file("unknown", unknown), "", "", 32, []string{"feature"}},
	}
	file("good.imgx", whole)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := tt.dir
			if dir == "" {
				dir = t.TempDir()
			}
			before, _ := os.ReadFile("/proc/self/mountinfo")
			args := []string{"mount", "-o", strings.TrimSuffix("ro,"+tt.options, ","), tt.source, dir}
			r := run(t, args...)
			if r.status != tt.status {
				t.Errorf("status %d, want %d", r.status, tt.status)
			}
			sentence := strings.TrimSuffix(r.stderr, "\n")
			if sentence == "" || strings.Contains(sentence, "\n") || !strings.HasPrefix(sentence, "ext4box: ") {
				t.Errorf("stderr is not one sentence of ext4box: %q", r.stderr)
			}
			for _, word := range tt.says {
				if !strings.Contains(sentence, word) {
					t.Errorf("%q does not name %q", sentence, word)
				}
			}
			if r.stdout != "" {
				t.Errorf("stdout has %q", r.stdout)
			}
			if after, _ := os.ReadFile("/proc/self/mountinfo"); tt.dir == "" && !bytes.Equal(after, before) && mounted(dir) {
				t.Error("something is mounted")
			}
			path, _, _ := strings.Cut(tt.source, "@")
			if path != img.Path {
				if pids := servers(t, path); len(pids) > 0 {
					t.Errorf("processes %v still run", pids)
				}
			}
		})
	}
	if _, err := os.ReadDir(busy); err != nil {
		t.Errorf("the mount that was there before does not answer: %v", err)
	}
}

// TestUmount ends mounts in every way and wants the image closed.
func TestUmount(t *testing.T) {
	requireMounting(t)
	img := smallImage(t, t.TempDir(), "image")
	t.Run("umount", func(t *testing.T) {
		for range 5 {
			dir := mountImage(t, img)
			if unlocked(t, img.Path) {
				t.Error("the image is not locked while it is mounted")
			}
			umount(t, dir)
			if !unlocked(t, img.Path) {
				t.Fatal("umount returned before the image was closed")
			}
			if mounted(dir) {
				t.Fatal("still mounted")
			}
		}
	})
	t.Run("umount(2)", func(t *testing.T) {
		dir := mountImage(t, img)
		pids := servers(t, img.Path)
		if len(pids) == 0 {
			t.Fatal("no server runs")
		}
		if err := unix.Unmount(dir, 0); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the server to end", func() bool { return len(servers(t, img.Path)) == 0 })
		if !unlocked(t, img.Path) {
			t.Error("the image is still open")
		}
	})
	t.Run("SIGTERM", func(t *testing.T) {
		dir := mountImage(t, img)
		for _, pid := range servers(t, img.Path) {
			if err := unix.Kill(pid, unix.SIGTERM); err != nil {
				t.Fatal(err)
			}
		}
		eventually(t, "the server to unmount and end", func() bool {
			return !mounted(dir) && len(servers(t, img.Path)) == 0
		})
	})
	t.Run("SIGKILL", func(t *testing.T) {
		dir := mountImage(t, img)
		for _, pid := range servers(t, img.Path) {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
		eventually(t, "the image to be free", func() bool { return unlocked(t, img.Path) })
		if _, err := os.ReadFile(filepath.Join(dir, "files", "hello")); !errors.Is(err, unix.ENOTCONN) && !errors.Is(err, unix.ECONNABORTED) && !errors.Is(err, unix.ECANCELED) {
			t.Errorf("the mount without a server says %v", err)
		}
		umount(t, dir)
	})
	t.Run("abort", func(t *testing.T) {
		dir := mountImage(t, img)
		var st unix.Stat_t
		if err := unix.Stat(dir, &st); err != nil {
			t.Fatal(err)
		}
		control := fmt.Sprintf("/sys/fs/fuse/connections/%d/abort", unix.Minor(st.Dev))
		if _, err := os.Stat(control); err != nil {
			if err := unix.Mount("fusectl", "/sys/fs/fuse/connections", "fusectl", 0, ""); err != nil {
				t.Skipf("needs fusectl: %v", err)
			}
			t.Cleanup(func() { _ = unix.Unmount("/sys/fs/fuse/connections", unix.MNT_DETACH) })
		}
		if err := os.WriteFile(control, []byte("1"), 0o200); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the server to end", func() bool { return len(servers(t, img.Path)) == 0 })
		_ = unix.Unmount(dir, unix.MNT_DETACH)
		if !unlocked(t, img.Path) {
			t.Error("the image is still open")
		}
	})
	t.Run("busy", func(t *testing.T) {
		dir := mountImage(t, img)
		f, err := os.Open(filepath.Join(dir, "files", "large"))
		if err != nil {
			t.Fatal(err)
		}
		r := run(t, "umount", dir)
		if r.status == 0 || !strings.Contains(r.stderr, "busy") && !strings.Contains(r.stderr, "in use") {
			t.Errorf("unmounting a busy mount: status %d, %q", r.status, r.stderr)
		}
		if _, err := io.Copy(io.Discard, f); err != nil {
			t.Errorf("reading after that: %v", err)
		}
		f.Close()
		umount(t, dir)
	})
	t.Run("not mounted", func(t *testing.T) {
		if r := run(t, "umount", t.TempDir()); r.status == 0 || r.stderr == "" {
			t.Errorf("status %d, %q", r.status, r.stderr)
		}
	})
}

// TestUmountWhileReading unmounts lazily under readers, who must end with the
// right bytes or an error.
func TestUmountWhileReading(t *testing.T) {
	requireMounting(t)
	img := smallImage(t, t.TempDir(), "image")
	want, err := openImage(t, img, ext4.Options{}).FS().ReadFile("files/large")
	if err != nil {
		t.Fatal(err)
	}
	dir := mountImage(t, img)
	started, stop := make(chan struct{}, 4), make(chan struct{})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for {
				b, err := os.ReadFile(filepath.Join(dir, "files", "large"))
				if err == nil && !bytes.Equal(b, want) {
					t.Errorf("%d wrong bytes", len(b))
				}
				select {
				case started <- struct{}{}:
				case <-stop:
					return
				default:
				}
			}
		})
	}
	for range 4 {
		<-started
	}
	err = unix.Unmount(dir, unix.MNT_DETACH)
	close(stop)
	wg.Wait()
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the server to end", func() bool { return len(servers(t, img.Path)) == 0 })
}

// TestManyMounts mounts many images at once, and one image many times.
func TestManyMounts(t *testing.T) {
	requireMounting(t)
	scratch := t.TempDir()
	img := smallImage(t, scratch, "image")
	var wg sync.WaitGroup
	for i := range 8 {
		own := *img
		if i%2 == 0 {
			own = *copyImage(t, img, strconv.Itoa(i))
		}
		wg.Go(func() {
			dir := mountImage(t, &own)
			for range 3 {
				b, err := os.ReadFile(filepath.Join(dir, "files", "hello"))
				if err != nil || string(b) != "hello, world\n" {
					t.Errorf("mount %d: %q, %v", i, b, err)
				}
			}
			umount(t, dir)
		})
	}
	wg.Wait()
	if !unlocked(t, img.Path) {
		t.Error("the image is still open")
	}
}

// TestNFSHandles opens files by handle, also when the kernel has forgotten
// them, as an NFS server does.
func TestNFSHandles(t *testing.T) {
	requireMounting(t)
	img := smallImage(t, t.TempDir(), "image")
	dir := mountImage(t, img)
	root, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	fd := int(root.Fd())
	paths := []string{"files/hello", "dirs/index", "nesting/deep/deep/deep", "."}
	handles := map[string]unix.FileHandle{}
	inodes := map[string]uint64{}
	for _, p := range paths {
		h, _, err := unix.NameToHandleAt(fd, p, 0)
		if err != nil {
			t.Fatalf("%s: %v", p, err)
		}
		var st unix.Stat_t
		if err := unix.Fstatat(fd, p, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			t.Fatal(err)
		}
		handles[p], inodes[p] = h, st.Ino
	}
	open := func(h unix.FileHandle) (uint64, error) {
		f, err := unix.OpenByHandleAt(fd, h, unix.O_RDONLY|unix.O_CLOEXEC)
		if err != nil {
			return 0, err
		}
		defer unix.Close(f)
		var st unix.Stat_t
		err = unix.Fstat(f, &st)
		return st.Ino, err
	}
	for round := range 3 {
		for _, p := range paths {
			if round > 0 {
				if err := os.WriteFile("/proc/sys/vm/drop_caches", []byte("2"), 0); err != nil {
					t.Skipf("cannot make the kernel forget: %v", err)
				}
			}
			if ino, err := open(handles[p]); err != nil || ino != inodes[p] {
				t.Errorf("round %d: opening %s by handle gives inode %d, %v; want %d", round, p, ino, err, inodes[p])
			}
		}
	}
	// A directory that is opened by handle has its way to the root.
	f, err := unix.OpenByHandleAt(fd, handles["nesting/deep/deep/deep"], unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(f)
	name, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(f))
	if want := filepath.Join(dir, "nesting/deep/deep/deep"); err != nil || name != want {
		t.Errorf("its name is %q, %v; want %q", name, err, want)
	}
	// Another generation is another file; so are inodes that hold none.
	h := handles["files/hello"]
	for what, change := range map[string]func(b []byte){
		"an old generation":     func(b []byte) { b[8] ^= 1 },
		"an unused inode":       func(b []byte) { b[4], b[5] = 0xf0, 0x1f },
		"a reserved inode":      func(b []byte) { copy(b, "\x00\x00\x00\x00\x08\x00\x00\x00\x00\x00\x00\x00") },
		"the bad block inode":   func(b []byte) { copy(b, "\x00\x00\x00\x00\x02\x00\x00\x00\x07\x00\x00\x00") },
		"an inode out of range": func(b []byte) { b[7] = 0x7f },
	} {
		raw := bytes.Clone(h.Bytes())
		change(raw)
		if _, err := open(unix.NewFileHandle(h.Type(), raw)); !errors.Is(err, unix.ESTALE) {
			t.Errorf("%s: %v, want ESTALE", what, err)
		}
	}
}

// TestPartitions mounts filesystems inside partition tables and at offsets.
func TestPartitions(t *testing.T) {
	requireMounting(t)
	if _, err := exec.LookPath("sfdisk"); err != nil {
		t.Skip("sfdisk is not installed: install fdisk")
	}
	scratch := t.TempDir()
	img := smallImage(t, scratch, "image")
	fs := openImage(t, img, ext4.Options{})
	want, err := apitree.Walk(fs)
	if err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(img.Path)
	if err != nil {
		t.Fatal(err)
	}
	const first, second, size = 1 << 20, 8 << 20, 32 << 20
	tables := map[string]string{
		"gpt": fmt.Sprintf("label: gpt\nstart=%d,size=8192\nstart=%d,size=%d\n", first/512, second/512, size/512),
		"dos": fmt.Sprintf("label: dos\nstart=%d,size=8192\nstart=%d,size=%d\n", first/512, second/512, size/512),
		"logical": fmt.Sprintf("label: dos\nstart=%d,size=2048\nstart=%d,size=90000,type=5\nstart=%d,size=2048\nstart=%d,size=%d\n",
			first/512, 2*first/512, 3*first/512, second/512, size/512),
	}
	for name, script := range tables {
		t.Run(name, func(t *testing.T) {
			disk := filepath.Join(scratch, name+".disk")
			if err := os.WriteFile(disk, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Truncate(disk, 64<<20); err != nil {
				t.Fatal(err)
			}
			cmd := exec.Command("sfdisk", "--quiet", disk)
			if name == "logical" {
				// sfdisk numbers what lies in the extended partition from 5.
				lines := strings.SplitN(script, "\n", 4)
				script = strings.Join(lines[:3], "\n") + "\n" + strings.ReplaceAll(lines[3], "start=", "type=83,start=")
			}
			cmd.Stdin = strings.NewReader(script)
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("sfdisk: %v\n%s", err, out)
			}
			f, err := os.OpenFile(disk, os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if _, err := f.WriteAt(content, second); err != nil {
				t.Fatal(err)
			}
			number := map[string]string{"gpt": "2", "dos": "2", "logical": "6"}[name]
			for _, source := range []string{disk + "@p" + number, disk + "@" + number} {
				dir := mount(t, source)
				if d := want.Diff(walkMount(t, dir), nil); d != "" {
					t.Errorf("%s differs:\n%s", source, d)
				}
				umount(t, dir)
			}
			for _, options := range []string{fmt.Sprintf("offset=%d", second), fmt.Sprintf("offset=%d,sizelimit=%d", second, size)} {
				dir := mount(t, disk, options)
				if d := want.Diff(walkMount(t, dir), nil); d != "" {
					t.Errorf("%s differs:\n%s", options, d)
				}
				umount(t, dir)
			}
			for _, bad := range []struct{ source, options string }{
				{disk + "@p1", "ro"}, {disk + "@p9", "ro"}, {disk, "ro"},
				{disk, fmt.Sprintf("ro,offset=%d,sizelimit=%d", second, 1<<20)},
			} {
				if r := run(t, "mount", "-o", bad.options, bad.source, t.TempDir()); r.status != 32 || r.stderr == "" {
					t.Errorf("mounting %s -o %s: status %d, %q", bad.source, bad.options, r.status, r.stderr)
				}
			}
		})
	}
}

// TestBlockDevice mounts a block device, and refuses one that the kernel has
// mounted for writing.
func TestBlockDevice(t *testing.T) {
	requireMounting(t)
	img := smallImage(t, t.TempDir(), "image")
	before := imageSums(t, img)
	want, err := apitree.Walk(openImage(t, img, ext4.Options{}))
	if err != nil {
		t.Fatal(err)
	}
	for _, readOnly := range []bool{false, true} {
		dir := mount(t, testimage.Attach(t, img.Path, readOnly))
		if d := want.Diff(walkMount(t, dir), nil); d != "" {
			t.Errorf("read-only device %v: the mount differs:\n%s", readOnly, d)
		}
		umount(t, dir)
	}
	if imageSums(t, img) != before {
		t.Error("the image has changed")
	}
	own := copyImage(t, img, ".rw")
	m := testimage.MountRW(t, own, "")
	r := run(t, "mount", "-o", "ro", m.Device, t.TempDir())
	if r.status != 32 || !strings.Contains(r.stderr, m.Device) {
		t.Errorf("a device that the kernel has mounted: status %d, %q", r.status, r.stderr)
	}
}

// TestReadOnly tries to change what is mounted.
func TestReadOnly(t *testing.T) {
	requireMounting(t)
	img := smallImage(t, t.TempDir(), "image")
	before := imageSums(t, img)
	dir := mountImage(t, img)
	hello := filepath.Join(dir, "files", "hello")
	for _, state := range []string{"mounted ro", "remounted rw"} {
		for what, err := range map[string]error{
			"create":   os.WriteFile(filepath.Join(dir, "new"), nil, 0o600),
			"write":    os.WriteFile(hello, nil, 0o600),
			"mkdir":    os.Mkdir(filepath.Join(dir, "new"), 0o700),
			"mknod":    unix.Mknod(filepath.Join(dir, "new"), unix.S_IFIFO, 0),
			"symlink":  os.Symlink("a", filepath.Join(dir, "new")),
			"link":     os.Link(hello, hello+"2"),
			"unlink":   os.Remove(hello),
			"rename":   os.Rename(hello, hello+"2"),
			"chmod":    os.Chmod(hello, 0o600),
			"chown":    os.Chown(hello, 1, 1),
			"utimes":   os.Chtimes(hello, time.Now(), time.Now()),
			"setxattr": unix.Setxattr(hello, "user.a", []byte("a"), 0),
			"truncate": os.Truncate(hello, 0),
		} {
			if !errors.Is(err, unix.EROFS) {
				t.Errorf("%s, %s: %v, want EROFS", state, what, err)
			}
		}
		// The kernel lets a FUSE mount change its mind; the server must not.
		_ = unix.Mount("", dir, "", unix.MS_REMOUNT, "")
	}
	umount(t, dir)
	if imageSums(t, img) != before {
		t.Error("the image has changed")
	}
}
