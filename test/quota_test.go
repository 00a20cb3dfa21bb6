package test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ext4box/blockdev"
	"ext4box/ext4"
	"ext4box/internal/testimage"
)

// shellAs runs a shell command as somebody.
func shellAs(uid uint32, script string) (string, error) { return shellWith(uid, uid, script) }

func shellWith(uid, gid uint32, script string) (string, error) {
	cmd := exec.Command("sh", "-c", script)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: gid}}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// TestQuotaMount: on a mount with the options for it, who is at his limit is told
// so by the system call that asks for more; root never is.
func TestQuotaMount(t *testing.T) {
	requireMounting(t)
	testimage.RequireTools(t)
	if os.Geteuid() != 0 {
		t.Skip("needs root, to be others")
	}
	const limit, block, project = 256 << 10, 4096, 9
	dir := t.TempDir()
	img := filepath.Join(dir, "img")
	if err := testimage.Mke2fs(img, 64<<20, "-t", "ext4", "-b", fmt.Sprint(block), "-O", "quota,project",
		"-E", "quotatype=usrquota:grpquota:prjquota"); err != nil {
		t.Fatal(err)
	}
	dev, err := blockdev.Open(img, blockdev.Options{})
	if err != nil {
		t.Fatal(err)
	}
	fs, err := ext4.Open(dev, ext4.Options{})
	if err != nil {
		t.Fatal(err)
	}
	shared, err := fs.Create(ext4.RootIno, "shared", ext4.NewNode{Mode: unix.S_IFDIR | 0o777})
	if err != nil {
		t.Fatal(err)
	}
	st, err := fs.Stat(shared)
	if err != nil {
		t.Fatal(err)
	}
	flags, id := st.Flags|0x20000000, uint32(project)
	err = errors.Join(
		fs.SetQuotaLimits(ext4.UserQuota, stranger, ext4.Quota{SpaceHard: limit, InodeHard: 10}),
		fs.SetQuotaLimits(ext4.ProjectQuota, project, ext4.Quota{SpaceHard: 2 * limit}),
		fs.SetAttr(shared, ext4.Attr{Flags: &flags, ProjectID: &id}), fs.Close())
	if err != nil {
		t.Fatal(err)
	}
	mnt := t.TempDir()
	openUp(filepath.Join(mnt, "x"))
	if r := runMount(t, "-o", "rw,allow_other,usrquota,grpquota,prjquota", img, mnt); r.status != 0 {
		t.Fatalf("mount: %s", r.stderr)
	}
	t.Cleanup(func() {
		if mounted(mnt) {
			umount(t, mnt)
		}
	})
	if err := os.Chmod(mnt, 0o777); err != nil {
		t.Fatal(err)
	}
	const told = "Disk quota exceeded"
	at := func(script string) string { return "cd " + mnt + " && " + script }

	// What fits of a write is written, and the rest refused.
	out, err := shellAs(stranger, at("head -c 1000000 /dev/zero >big"))
	if err == nil || !strings.Contains(out, told) {
		t.Errorf("a file beyond the limit: %v, %q", err, out)
	}
	if st, err := os.Stat(filepath.Join(mnt, "big")); err != nil || st.Size() < limit-2*block || st.Size() > limit {
		t.Errorf("of the file is there %v, %v", st.Size(), err)
	}
	for _, script := range []string{
		"/bin/echo x >small", "mkdir d", "fallocate -l 100000 small", "dd if=/dev/zero of=small bs=8192 count=1 oflag=direct status=none",
		"head -c 70 /dev/zero | tr '\\0' x >t; ln -s $(cat big | head -c 100 | tr '\\0' x) s",
	} {
		if out, err := shellAs(stranger, at(script)); err == nil || !strings.Contains(out, told) {
			t.Errorf("%s: %v, %q", script, err, out)
		}
	}
	// With room again all of it works, up to the limit of inodes.
	if out, err := shellAs(stranger, at("rm -f big t && mkdir d && echo x >small && ln -s $(printf %0100d 0) s")); err != nil {
		t.Errorf("below the limit: %v, %q", err, out)
	}
	if out, err := shellAs(stranger, at("for i in 1 2 3 4 5 6 7; do : >n$i || exit; done; : >one-more")); err == nil || !strings.Contains(out, told) {
		t.Errorf("an eleventh inode: %v, %q", err, out)
	}
	if out, err := shellAs(0, at("head -c 500000 /dev/zero >>small && touch by-root && chown 1000 by-root")); err != nil {
		t.Errorf("root: %v, %q", err, out)
	}
	// The project's limit is what statfs shows, and holds for everybody else.
	var vfs unix.Statfs_t
	if err := unix.Statfs(filepath.Join(mnt, "shared"), &vfs); err != nil || vfs.Blocks != 2*limit/block {
		t.Errorf("statfs in the project: %d blocks, %v", vfs.Blocks, err)
	}
	if out, err := shellAs(4711, at("head -c 1000000 /dev/zero >shared/f")); err == nil || !strings.Contains(out, told) {
		t.Errorf("a file beyond the limit of the project: %v, %q", err, out)
	}
	if out, err := shellAs(4711, at("rm shared/f && echo x >mine && mv mine shared/mine && ln shared/mine other")); err != nil {
		t.Errorf("moving into the project by copying: %v, %q", err, out)
	}
	if err := unix.Link(filepath.Join(mnt, "by-root"), filepath.Join(mnt, "shared", "by-root")); !errors.Is(err, unix.EXDEV) {
		t.Errorf("a link into another project: %v", err)
	}
	// Times are those of the writes, though nothing is written back.
	file := filepath.Join(mnt, "mine-too")
	if err := os.WriteFile(file, []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	past := time.Unix(1e9, 0)
	if err := os.Chtimes(file, past, past); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.WriteString("y")
	if err = errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
	if st, err := os.Stat(file); err != nil || time.Since(st.ModTime()) > time.Minute || st.Size() != 2 {
		t.Errorf("after a write: %v, %v, size %d", err, st.ModTime(), st.Size())
	}
	umount(t, mnt)
	eventually(t, "the image to be closed", func() bool { return unlocked(t, img) })
	if err := testimage.Run("e2fsck", "-fn", img); err != nil {
		t.Error(err)
	}
	// Others than ext4box see the same.
	m := testimage.MountRO(t, &testimage.Image{Path: img}, "")
	defer m.Unmount()
	if b, err := os.ReadFile(filepath.Join(m.Dir, "mine-too")); err != nil || string(b) != "xy" {
		t.Errorf("the kernel reads %q, %v", b, err)
	}
}
