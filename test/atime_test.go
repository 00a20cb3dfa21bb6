package test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ext4box/internal/testimage"
)

// TestAtime reads files, directories and links on mounts with each of the options
// about access times, and compares what becomes of these with the kernel's ext4.
// Each step is the first reading of its file on a fresh mount, since what the
// page cache answers is never seen by a FUSE server.
func TestAtime(t *testing.T) {
	requireMounting(t)
	now := time.Now()
	old := func(d time.Duration) unix.Timespec { return unix.NsecToTimespec(now.Add(-d).UnixNano()) }
	const hour = time.Hour
	// Access and modification times, and what kind of file.
	cases := []struct {
		name         string
		atime, mtime time.Duration // ago
	}{
		{"recent", hour, 2 * hour}, {"behind", 2 * hour, hour}, {"equal", hour, hour},
		{"nanosecond", hour, hour + 1}, {"day", 25 * hour, 48 * hour}, {"almost", 23*hour + 50*time.Minute, 48 * hour},
	}
	kinds := map[string]struct{ make, read func(path string) error }{
		"file": {func(p string) error { return os.WriteFile(p, []byte("text"), 0o600) }, func(p string) error { _, err := os.ReadFile(p); return err }},
		"dir":  {func(p string) error { return os.MkdirAll(filepath.Join(p, "sub"), 0o700) }, func(p string) error { _, err := os.ReadDir(p); return err }},
		"link": {func(p string) error { return os.Symlink("target", p) }, func(p string) error { _, err := os.Readlink(p); return err }},
		"noatime": {func(p string) error { return os.WriteFile(p, []byte("text"), 0o600) }, func(p string) error {
			f, err := os.OpenFile(p, os.O_RDONLY|unix.O_NOATIME, 0)
			if err != nil {
				return err
			}
			defer f.Close()
			_, err = f.Read(make([]byte, 10))
			return err
		}},
		"flag": {func(p string) error {
			if err := os.WriteFile(p, []byte("text"), 0o600); err != nil {
				return err
			}
			f, err := os.Open(p)
			if err != nil {
				return err
			}
			defer f.Close()
			return unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, 0x80080) // noatime, extents
		}, func(p string) error { _, err := os.ReadFile(p); return err }},
	}
	for option, flags := range map[string]uintptr{
		"relatime": unix.MS_RELATIME, "noatime": unix.MS_NOATIME, "strictatime": unix.MS_STRICTATIME,
		"nodiratime": unix.MS_NODIRATIME, "lazytime": unix.MS_LAZYTIME | unix.MS_RELATIME,
	} {
		t.Run(option, func(t *testing.T) {
			dir := t.TempDir()
			var reports [2]string
			for i, who := range []string{"kernel", "ext4box"} {
				img := &testimage.Image{Path: filepath.Join(dir, who)}
				if err := testimage.Mke2fs(img.Path, 32<<20, "-t", "ext4"); err != nil {
					t.Fatal(err)
				}
				k := testimage.MountRW(t, img, "")
				paths := make(map[string]func(string) error)
				var names []string
				for _, kind := range []string{"file", "dir", "link", "noatime", "flag"} {
					for _, c := range cases {
						name := kind + " " + c.name
						path := filepath.Join(k.Dir, name)
						if err := kinds[kind].make(path); err != nil {
							t.Fatal(err)
						}
						times := []unix.Timespec{old(c.atime), old(c.mtime)}
						if err := unix.UtimesNanoAt(unix.AT_FDCWD, path, times, unix.AT_SYMLINK_NOFOLLOW); err != nil {
							t.Fatal(err)
						}
						names, paths[name] = append(names, name), kinds[kind].read
					}
				}
				if err := k.Unmount(); err != nil {
					t.Fatal(err)
				}
				ageCtimes(t, img.Path, names)
				var m string
				if who == "kernel" {
					k = testimage.MountRW(t, img, "")
					m = k.Dir
					if err := unix.Mount("", m, "", unix.MS_REMOUNT|flags, ""); err != nil {
						t.Fatal(err)
					}
				} else {
					m = mountRW(t, img.Path, option)
				}
				stat := func(path string) unix.Stat_t {
					var st unix.Stat_t
					if err := unix.Lstat(path, &st); err != nil {
						t.Fatal(err)
					}
					return st
				}
				for _, name := range names {
					path := filepath.Join(m, name)
					before := stat(path)
					if err := paths[name](path); err != nil {
						t.Fatal(err)
					}
					after := stat(path)
					verdict := "kept"
					if after.Atim != before.Atim {
						verdict = "changed"
						if d := time.Since(time.Unix(after.Atim.Unix())); d < -time.Second || d > time.Minute {
							verdict = fmt.Sprint("changed by ", d)
						}
					}
					if after.Ctim != before.Ctim || after.Mtim != before.Mtim {
						verdict += ", and others"
					}
					reports[i] += name + ": " + verdict + "\n"
				}
				atimes := make(map[string]unix.Timespec)
				for _, name := range names {
					atimes[name] = stat(filepath.Join(m, name)).Atim
				}
				if who == "kernel" {
					if err := k.Unmount(); err != nil {
						t.Fatal(err)
					}
					continue
				}
				umount(t, m)
				eventually(t, "the end of the server", func() bool { return unlocked(t, img.Path) })
				// What was shown is on disk, says the kernel.
				k = testimage.MountRW(t, img, "")
				for _, name := range names {
					if st := stat(filepath.Join(k.Dir, name)); st.Atim != atimes[name] {
						t.Errorf("%s: access time is %v on disk, %v was shown", name, st.Atim, atimes[name])
					}
				}
				if err := k.Unmount(); err != nil {
					t.Fatal(err)
				}
				if err := testimage.Run("e2fsck", "-fn", img.Path); err != nil {
					t.Error(err)
				}
			}
			got, want := strings.Split(reports[1], "\n"), strings.Split(reports[0], "\n")
			for i := range want {
				if got[i] != want[i] {
					t.Errorf("ext4box: %s; kernel: %s", got[i], want[i])
				}
			}
			if changed := strings.Contains(reports[0], "changed"); changed == (option == "noatime") {
				t.Errorf("the kernel:\n%s", reports[0])
			}
		})
	}
}

// ageCtimes makes the change times of files old enough to have no say.
func ageCtimes(t *testing.T, image string, names []string) {
	t.Helper()
	var script strings.Builder
	for _, name := range names {
		fmt.Fprintf(&script, "set_inode_field \"/%s\" ctime @0x10000000\n", name)
	}
	path := filepath.Join(t.TempDir(), "script")
	if err := os.WriteFile(path, []byte(script.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := testimage.Run("debugfs", "-w", "-f", path, image); err != nil {
		t.Fatal(err)
	}
}

// TestDataOption: journaled data is refused with a reason where data would be
// written, and nowhere else.
func TestDataOption(t *testing.T) {
	requireMounting(t)
	img := filepath.Join(t.TempDir(), "image")
	if err := testimage.Mke2fs(img, 32<<20, "-t", "ext4"); err != nil {
		t.Fatal(err)
	}
	for options, ok := range map[string]bool{"data=journal": false, "data=journal,ro": true, "data=journal,data=ordered": true, "data=writeback": true} {
		dir := t.TempDir()
		r := runMount(t, "-o", options, img, dir)
		if ok != (r.status == 0) || !ok && (r.status != 1 || !strings.Contains(r.stderr, "use data=ordered")) {
			t.Errorf("%s: status %d: %s", options, r.status, r.stderr)
		}
		if r.status == 0 {
			umount(t, dir)
			eventually(t, "the end of the server", func() bool { return unlocked(t, img) })
		}
	}
}
