package main

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"ext4box/internal/e2test"
	"ext4box/internal/testimage"
)

// verb runs the program, which must succeed without a word on standard error.
func verb(t *testing.T, args ...string) string {
	t.Helper()
	var stdout, stderr bytes.Buffer
	if status := run(append([]string{"ext4box"}, args...), &stdout, &stderr); status != 0 || stderr.Len() > 0 {
		t.Fatalf("%q: status %d\n%s", args, status, stderr.String())
	}
	return stdout.String()
}

// comparable makes of a manifest what a copy has in common with its source.
func comparable(m testimage.Manifest) testimage.Manifest {
	out := testimage.Manifest{}
	for path, r := range m {
		if path == "lost+found" {
			continue
		}
		if r.Mode&unix.S_IFMT == unix.S_IFDIR {
			r.Size = 0
		}
		if path == "" {
			r.Nlink = 0 // lost+found counts
		}
		out[path] = r
	}
	return out
}

// TestCopyInto copies a tree that has everything into images of all shapes, from
// a kernel's mount and from the image itself. The kernel reads it back.
func TestCopyInto(t *testing.T) {
	testimage.RequireRoot(t)
	dir := t.TempDir()
	source := testimage.Build(t, dir, testimage.Config{Name: "source", Size: 48 << 20, Level: testimage.Small, Args: []string{"-t", "ext4", "-b", "1024"}})
	mounted := testimage.MountRO(t, source, "")
	want, err := testimage.Walk(mounted.Dir)
	if err != nil {
		t.Fatal(err)
	}
	want = comparable(want)
	if len(want) < 100 {
		t.Fatalf("the source has only %d files", len(want))
	}
	for i, args := range [][]string{
		{"-t", "ext4", "-b", "1024"}, {"-t", "ext4"}, {"-t", "ext4", "-b", "4096", "-O", "^has_journal"}, {"-t", "ext4", "-b", "1024", "-O", "^metadata_csum,uninit_bg,meta_bg,^resize_inode"},
		{"-t", "ext3", "-I", "256"}, {"-t", "ext2", "-I", "256", "-b", "2048"},
	} {
		for _, from := range []string{"host", "image"} {
			t.Run(fmt.Sprint(args, from), func(t *testing.T) {
				img := &testimage.Image{Path: filepath.Join(dir, fmt.Sprint(i, from))}
				if err := testimage.Mke2fs(img.Path, 48<<20, args...); err != nil {
					t.Fatal(err)
				}
				what := source.Path + ":/"
				if from == "host" {
					what = mounted.Dir + "/."
				}
				want := maps.Clone(want)
				if args[1] == "ext4" {
					verb(t, "cp", what, img.Path+":/")
				} else {
					// One file is larger than files without extents can be.
					delete(want, "sparse/maximum")
					var stderr bytes.Buffer
					status := run([]string{"ext4box", "cp", what, img.Path + ":/"}, io.Discard, &stderr)
					if text := stderr.String(); status != 1 || !strings.HasSuffix(text, "file too large\n") || strings.Count(text, "\n") != 1 {
						t.Fatalf("status %d\n%s", status, text)
					}
				}
				if out, err := exec.Command("e2fsck", "-fn", img.Path).CombinedOutput(); err != nil {
					t.Fatalf("e2fsck: %v\n%s", err, out)
				}
				copied := testimage.MountRO(t, img, "")
				got, err := testimage.Walk(copied.Dir)
				if err != nil {
					t.Fatal(err)
				}
				if from == "host" {
					// What the kernel has read of it counts as data.
					for path, r := range want {
						if strings.HasPrefix(path, "unwritten/") {
							r.Map = got[path].Map
							want[path] = r
						}
					}
				}
				// Of the source chattr(1)'s flags are not copied.
				ignore := testimage.Ignore{"Ino", "DirentIno", "Generation", "Blocks", "Ctime", "Btime", "Flags", "Project"}
				if args[len(args)-1] != "1024" {
					ignore = append(ignore, "Map") // another size of blocks
				}
				if diff := want.Diff(comparable(got), ignore); diff != "" {
					t.Error(diff)
				}
			})
		}
	}
}

// unprivileged runs the program as nobody.
func unprivileged(t *testing.T, program, dir string, args ...string) ([]byte, error) {
	t.Helper()
	cmd := exec.Command(program, args...)
	cmd.Dir = dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	return cmd.CombinedOutput()
}

// TestBuildWithoutRoot makes a root file system as nobody, devices and set-user-ID
// programs included; the kernel is shown the result.
func TestBuildWithoutRoot(t *testing.T) {
	testimage.RequireRoot(t)
	dir := t.TempDir()
	for _, d := range []string{dir, filepath.Dir(dir)} {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	// Under this name the test binary is the program.
	program := filepath.Join(dir, "ext4box")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	in, err := os.Open(self)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := os.OpenFile(program, os.O_WRONLY|os.O_CREATE, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(out, in); err != nil {
		t.Fatal(err)
	}
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
	work := filepath.Join(dir, "work")
	for _, d := range []string{work, work + "/rootfs", work + "/rootfs/bin"} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(work+"/rootfs/bin/su", []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(work+"/script", []byte(`
mkdir -p /dev /etc/init.d
mknod -m 666 /dev/null c 1 3
chmod u+s /bin/su
ln -s ../bin/su /etc/su
`), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := testimage.Mke2fs(work+"/a.img", 16<<20, "-t", "ext4"); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("chown", "-R", "65534:65534", work).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, args := range [][]string{
		{"cp", "--owner", "0:0", "rootfs/.", "a.img:/"},
		{"edit", "--output", "b.img", "a.img", "script"},
		{"chown", "b.img", "12:13", "/etc/init.d"},
	} {
		if out, err := unprivileged(t, program, work, args...); err != nil || len(out) > 0 {
			t.Fatalf("%q: %v: %s", args, err, out)
		}
	}
	e2test.Output(t, "e2fsck", "-fn", work+"/b.img")
	m := testimage.MountRO(t, &testimage.Image{Path: work + "/b.img"}, "")
	got, err := testimage.Walk(m.Dir)
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, path := range []string{"", "bin/su", "dev/null", "etc/init.d", "etc/su"} {
		r, ok := got[path]
		if !ok {
			t.Errorf("%s is missing", path)
		}
		lines = append(lines, fmt.Sprintf("%s %o %d:%d %d,%d %s", path, r.Mode, r.UID, r.GID, r.Major, r.Minor, r.Link))
	}
	want := " 40755 0:0 0,0 \nbin/su 104755 0:0 0,0 \ndev/null 20666 0:0 1,3 \netc/init.d 40755 12:13 0,0 \netc/su 120777 0:0 0,0 ../bin/su"
	if text := strings.Join(lines, "\n"); text != want {
		t.Errorf("got\n%s\nwant\n%s", text, want)
	}
}
