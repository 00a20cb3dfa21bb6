package test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"ext4box/blockdev"
	"ext4box/ext4"
	"ext4box/internal/testimage"
)

// The mapping of these tests: the first thousand users and groups of the image are others
// here, and others have no meaning.
const (
	userShift, groupShift, idCount = 100000, 200000, 1000
	lostID                         = 5000 // in the image, and not mapped
)

var idmapOption = fmt.Sprintf("idmap=u:0:%d:%d g:0:%d:%d", userShift, idCount, groupShift, idCount)

// userNamespace makes a user namespace with the mapping of these tests, and returns it.
func userNamespace(t *testing.T) *os.File {
	cmd := exec.Command("sleep", "600")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: userShift, Size: idCount}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: groupShift, Size: idCount}},
		Pdeathsig:   syscall.SIGKILL,
	}
	if err := cmd.Start(); err != nil {
		t.Skipf("needs user namespaces: %v", err)
	}
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/user", cmd.Process.Pid))
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ns.Close() })
	return ns
}

// mountMapped mounts what is at a directory again, with ids mapped by the kernel.
func mountMapped(t *testing.T, from string, ns *os.File) (dir string, done func(), err error) {
	tree, err := unix.OpenTree(unix.AT_FDCWD, from, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		t.Skipf("needs open_tree(2): %v", err)
	}
	defer unix.Close(tree)
	err = unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(ns.Fd())})
	if err != nil {
		return "", nil, err
	}
	dir = t.TempDir()
	openUp(filepath.Join(dir, "x"))
	if err := unix.MoveMount(tree, "", unix.AT_FDCWD, dir, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		t.Fatal(err)
	}
	gone := false
	done = func() {
		if !gone {
			gone = true
			if err := unix.Unmount(dir, 0); err != nil {
				t.Error(err)
				_ = unix.Unmount(dir, unix.MNT_DETACH)
			}
		}
	}
	t.Cleanup(done)
	return dir, done, nil
}

// entry is one of an ACL.
type entry struct {
	tag, perm uint16
	id        uint32
}

const nobodys = 1<<32 - 1 // the id of entries without one

func aclValue(entries ...entry) []byte {
	b := binary.LittleEndian.AppendUint32(nil, 2)
	for _, e := range entries {
		b = binary.LittleEndian.AppendUint16(b, e.tag)
		b = binary.LittleEndian.AppendUint16(b, e.perm)
		b = binary.LittleEndian.AppendUint32(b, e.id)
	}
	return b
}

// namedACL lets a user and a group read and write.
func namedACL(uid, gid uint32) []byte {
	return aclValue(entry{1, 6, nobodys}, entry{2, 6, uid}, entry{4, 4, nobodys}, entry{8, 6, gid}, entry{0x10, 6, nobodys}, entry{0x20, 0, nobodys})
}

// fileCaps is a value of security.capability, for the root user of user namespaces unless that is 0.
func fileCaps(root uint32) []byte {
	revision := uint32(0x02000001)
	if root != 0 {
		revision = 0x03000001
	}
	b := binary.LittleEndian.AppendUint32(nil, revision)
	b = append(binary.LittleEndian.AppendUint32(b, 0x2001), make([]byte, 12)...)
	if root != 0 {
		b = binary.LittleEndian.AppendUint32(b, root)
	}
	return b
}

// capsOf is who is root for capabilities; revisions 2 and 3 with 0 are the same.
func capsOf(value []byte) string {
	switch len(value) {
	case 20:
		return "root 0"
	case 24:
		return fmt.Sprint("root ", binary.LittleEndian.Uint32(value[20:]))
	}
	return fmt.Sprintf("%x", value)
}

// ownedFiles fills an image, mounted by the kernel as it is.
func ownedFiles(t *testing.T, dir string) {
	do := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	do(os.Chmod(dir, 0o777))
	for _, d := range []struct {
		name     string
		uid, gid int
		mode     uint32
	}{{"mine", 5, 5, 0o755}, {"open", 0, 0, 0o777}, {"sticky", 0, 0, 0o1777}, {"setgid", 0, 6, 0o2777}, {"lost", lostID, lostID, 0o777}} {
		path := filepath.Join(dir, d.name)
		do(os.Mkdir(path, 0o700))
		for _, f := range []struct {
			name     string
			uid, gid int
			mode     uint32
		}{
			{"five", 5, 5, 0o640}, {"root", 0, 0, 0o644}, {"suid", 5, 6, 0o6755}, {"lost", lostID, lostID, 0o666},
			{"lostgroup", 5, lostID, 0o664}, {"acl", 0, 0, 0o600}, {"caps", 0, 0, 0o755}, {"caps5", 0, 0, 0o755}, {"capslost", 0, 0, 0o755},
			{"last", idCount - 1, idCount - 1, 0o600}, {"first out", idCount, idCount, 0o600},
		} {
			name := filepath.Join(path, f.name)
			do(os.WriteFile(name, []byte("content"), 0o600))
			do(os.Chown(name, f.uid, f.gid))
			do(unix.Chmod(name, f.mode))
		}
		do(unix.Setxattr(filepath.Join(path, "acl"), "system.posix_acl_access", namedACL(5, 6), 0))
		do(unix.Setxattr(filepath.Join(path, "caps"), "security.capability", fileCaps(0), 0))
		do(unix.Setxattr(filepath.Join(path, "caps5"), "security.capability", fileCaps(5), 0))
		do(unix.Setxattr(filepath.Join(path, "capslost"), "security.capability", fileCaps(lostID), 0))
		if d.name == "open" {
			// One for each who allocates it: with set-group-id that only members of the group keep.
			for _, u := range owningUsers {
				name := filepath.Join(path, fmt.Sprint("sgid-", u[0], "-", u[1]))
				do(os.WriteFile(name, nil, 0o600))
				do(os.Chown(name, 5, 6))
				do(unix.Chmod(name, 0o2666))
			}
		}
		do(os.Chown(path, d.uid, d.gid))
		do(unix.Chmod(path, d.mode))
	}
	do(unix.Setxattr(filepath.Join(dir, "open"), "system.posix_acl_default", namedACL(7, 8), 0))
}

// owningUsers are the users, and groups, of this machine who try what they may.
var owningUsers = [][2]int{
	{0, 0}, {userShift, groupShift}, {userShift + 5, groupShift + 5}, {userShift + 7, groupShift + 6},
	{userShift + 5, 7}, {5, 5}, {lostID, lostID}, {65534, 65534},
}

// look tells owners, mode, ACLs and capabilities of everything below a directory. What nobody
// is shown is told as such.
func look(t *testing.T, dir string) (lines []string) {
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, _ := filepath.Rel(dir, path)
		if name == "lost+found" {
			return filepath.SkipDir
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		line := fmt.Sprintf("%s: %#o %d:%d", name, st.Mode, st.Uid, st.Gid)
		buf := make([]byte, 1000)
		for _, a := range []string{"system.posix_acl_access", "system.posix_acl_default"} {
			if n, err := unix.Lgetxattr(path, a, buf); err == nil {
				line += fmt.Sprintf(" %x", buf[:n])
			}
		}
		switch n, err := unix.Lgetxattr(path, "security.capability", buf); {
		case err == nil:
			line += ", capabilities of " + capsOf(buf[:n])
		case errors.Is(err, unix.EOVERFLOW), errors.Is(err, unix.ENODATA):
			// None here, or the kernel's "none that you could see".
		default:
			line += fmt.Sprint(", capabilities: ", err)
		}
		lines = append(lines, line)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(lines)
	return lines
}

// ownedOperations does to files what depends on owners and sets them, as several users of
// this machine, and tells what came of each.
func ownedOperations(t *testing.T, dir string) (lines []string) {
	tell := func(u [2]int, what string, err error) {
		lines = append(lines, fmt.Sprintf("%d:%d %s: %v", u[0], u[1], what, err))
	}
	as := func(u [2]int, what string, f func() error) {
		tell(u, what, func() (err error) { asGroup(u[0], u[1], func() string { err = f(); return "" }); return err }())
	}
	for _, u := range owningUsers {
		as(u, "allocate a file with set-group-id", func() error {
			fd, err := unix.Open(filepath.Join(dir, "open", fmt.Sprint("sgid-", u[0], "-", u[1])), unix.O_WRONLY, 0)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			return unix.Fallocate(fd, 0, 0, 100) // for which the server is told of nobody's groups
		})
		for _, d := range []string{"mine", "open", "sticky", "setgid", "lost"} {
			// What cannot be owned is refused before permission is asked for, or after it.
			known := u[0] >= userShift && u[0] < userShift+idCount && u[1] >= groupShift
			if known || d == "open" || d == "setgid" {
				path := filepath.Join(dir, d, fmt.Sprintf("new-%d-%d-", u[0], u[1]))
				as(u, "make a file in "+d, func() error {
					fd, err := unix.Open(path+"file", unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY, 0o664)
					if err == nil {
						_, err = unix.Write(fd, []byte("new"))
						err = errors.Join(err, unix.Close(fd))
					}
					return err
				})
				as(u, "make a directory in "+d, func() error { return unix.Mkdir(path+"dir", 0o775) })
				as(u, "make a link in "+d, func() error { return unix.Symlink("x", path+"link") })
				as(u, "make a pipe in "+d, func() error { return unix.Mkfifo(path+"pipe", 0o600) })
				as(u, "make a file without a name in "+d, func() error {
					fd, err := unix.Open(filepath.Dir(path), unix.O_TMPFILE|unix.O_RDWR, 0o640)
					if err != nil {
						return err
					}
					defer unix.Close(fd)
					return unix.Linkat(unix.AT_FDCWD, fmt.Sprint("/proc/self/fd/", fd), unix.AT_FDCWD, path+"tmp", unix.AT_SYMLINK_FOLLOW)
				})
				if known {
					as(u, "whiteout in "+d, func() error {
						return unix.Renameat2(unix.AT_FDCWD, path+"tmp", unix.AT_FDCWD, path+"moved", unix.RENAME_WHITEOUT)
					})
				}
			}
			for _, f := range []string{"five", "root", "suid", "lost", "lostgroup", "acl", "caps", "last", "first out"} {
				path := filepath.Join(dir, d, f)
				on := f + " in " + d
				as(u, "read "+on, func() error {
					_, err := os.ReadFile(path)
					return errors.Unwrap(err)
				})
				as(u, "set times of "+on, func() error { return unix.Utimes(path, []unix.Timeval{{Sec: 1}, {Sec: 2}}) })
				for _, mode := range []uint32{0o2664, 0o4755, 0o660} {
					as(u, fmt.Sprintf("chmod %#o %s", mode, on), func() error { return unix.Chmod(path, mode) })
				}
				for _, id := range []int{-1, 5, userShift + 9, userShift + 5, userShift + idCount, lostID, 65534} {
					as(u, fmt.Sprintf("give %s to user %d", on, id), func() error { return unix.Lchown(path, id, -1) })
				}
				for _, id := range []int{6, groupShift + 9, groupShift + 5, groupShift + 6, lostID, 65534} {
					as(u, fmt.Sprintf("give %s to group %d", on, id), func() error { return unix.Lchown(path, -1, id) })
				}
				as(u, "set an attribute of "+on, func() error { return unix.Setxattr(path, "user.x", []byte("y"), 0) })
				for _, id := range []uint32{5, userShift + 8, userShift + idCount} {
					as(u, fmt.Sprint("set an ACL for user ", id, " of ", on), func() error {
						return unix.Setxattr(path, "system.posix_acl_access", namedACL(id, groupShift+8), 0)
					})
				}
				as(u, "set an ACL for group 8 of "+on, func() error {
					return unix.Setxattr(path, "system.posix_acl_access", namedACL(userShift+8, 8), 0)
				})
				if u[0] == 0 {
					// That a mapped root gave them to users of its own is not what this is about.
					for _, id := range []uint32{0, userShift, userShift + 8, 5} {
						as(u, fmt.Sprint("set capabilities, of root ", id, ", of ", on), func() error {
							return unix.Setxattr(path, "security.capability", fileCaps(id), 0)
						})
					}
				}
				as(u, "write "+on, func() error {
					fd, err := unix.Open(path, unix.O_WRONLY, 0)
					if err != nil {
						return err
					}
					defer unix.Close(fd)
					_, err = unix.Write(fd, []byte("x"))
					return err
				})
				if known { // others get no new names from the kernel either, for which ext4box sees no reason
					as(u, "link "+on, func() error { return unix.Link(path, path+"-link") })
					as(u, "rename "+on, func() error { return unix.Rename(path, path+"-2") })
					as(u, "rename back "+on, func() error { return unix.Rename(path+"-2", path) })
					as(u, "unlink "+on, func() error { return unix.Unlink(path + "-link") })
				}
				lines = append(lines, look(t, path)...)
			}
		}
		for _, d := range []string{"mine", "lost", "sticky"} {
			as(u, "unlink in "+d, func() error { return unix.Unlink(filepath.Join(dir, d, "caps5")) })
			if u[0] >= userShift && u[1] >= groupShift {
				as(u, "rename "+d, func() error { return unix.Rename(filepath.Join(dir, d), filepath.Join(dir, d+"2")) })
				as(u, "rename back "+d, func() error { return unix.Rename(filepath.Join(dir, d+"2"), filepath.Join(dir, d)) })
			}
		}
	}
	return append(lines, look(t, dir)...)
}

// refusedEarlier tells whether the kernel, which knows the map before anything else, refuses for
// its sake what is refused by ext4box's kernel for want of permission.
func refusedEarlier(got, want string) bool {
	what, refused := strings.CutSuffix(want, ": "+unix.EOVERFLOW.Error())
	if !refused {
		what, refused = strings.CutSuffix(want, ": "+unix.EINVAL.Error())
	}
	return refused && (got == what+": "+unix.EPERM.Error() || got == what+": "+unix.EACCES.Error())
}

// compareLines tells what two reports differ in, up to a limit.
func compareLines(t *testing.T, what string, got, want []string) {
	t.Helper()
	told := 0
	for i := range max(len(got), len(want)) {
		g, w := "-", "-"
		if i < len(got) {
			g = got[i]
		}
		if i < len(want) {
			w = want[i]
		}
		if g != w && !refusedEarlier(g, w) {
			t.Errorf("%s, line %d:\next4box: %s\nkernel:  %s", what, i, g, w)
			if told++; told == 30 {
				t.Fatal("and so on")
			}
		}
	}
	if told == 0 && len(got) < 30 {
		t.Errorf("%s: only %d lines", what, len(got))
	}
}

// TestMappedOwners compares with the kernel's ext4, mounted with mapped ids, what ext4box
// makes of idmap=, and what its own mounts are when the kernel maps them: what is shown,
// what is refused, and what is stored.
func TestMappedOwners(t *testing.T) {
	requireMounting(t)
	if os.Geteuid() != 0 {
		t.Skip("needs root, to be others")
	}
	ns := userNamespace(t)
	base := t.TempDir()
	blank := &testimage.Image{Path: filepath.Join(base, "blank.img")}
	if err := testimage.Mke2fs(blank.Path, 32<<20, plainExt4...); err != nil {
		t.Fatal(err)
	}
	m := testimage.MountRW(t, blank, "")
	ownedFiles(t, m.Dir)
	if err := m.Unmount(); err != nil {
		t.Fatal(err)
	}
	umask := unix.Umask(0o022)
	defer unix.Umask(umask)

	// stored is what an image holds in the end, as the kernel shows it.
	stored := func(t *testing.T, img *testimage.Image) []string {
		if err := testimage.Run("e2fsck", "-fn", img.Path); err != nil {
			t.Error(err)
		}
		m := testimage.MountRW(t, img, "")
		defer func() {
			if err := m.Unmount(); err != nil {
				t.Error(err)
			}
		}()
		return look(t, m.Dir)
	}
	img := copyImage(t, blank, "kernel")
	m = testimage.MountRW(t, img, "")
	openUp(filepath.Join(m.Dir, "x"))
	dir, done, err := mountMapped(t, m.Dir, ns)
	if err != nil {
		t.Skipf("the kernel does not map ids of its ext4: %v", err)
	}
	wantFirst, want := look(t, dir), ownedOperations(t, dir)
	done()
	if err := m.Unmount(); err != nil {
		t.Fatal(err)
	}
	wantStored := stored(t, img)

	t.Run("idmap", func(t *testing.T) {
		img := copyImage(t, blank, "idmap")
		dir := mountRW(t, img.Path, "allow_other,suid", idmapOption)
		openUp(filepath.Join(dir, "x"))
		compareLines(t, "at first", look(t, dir), wantFirst)
		compareLines(t, "operations", ownedOperations(t, dir), want)
		umount(t, dir)
		compareLines(t, "stored", stored(t, img), wantStored)
	})
	t.Run("allow_idmap", func(t *testing.T) {
		img := copyImage(t, blank, "allow_idmap")
		direct := mountRW(t, img.Path, "allow_other,suid,allow_idmap")
		openUp(filepath.Join(direct, "x"))
		dir, done, err := mountMapped(t, direct, ns)
		if err != nil {
			umount(t, direct)
			t.Skipf("the kernel maps no ids of FUSE: %v", err)
		}
		compareLines(t, "at first", look(t, dir), wantFirst)
		// The server does not know who is root, nor who is a member of which group.
		anonymous := func(line string) bool { return strings.HasPrefix(line, "open/sgid-") }
		compareLines(t, "operations", slices.DeleteFunc(ownedOperations(t, dir), anonymous), slices.DeleteFunc(want, anonymous))
		done()
		umount(t, direct)
		compareLines(t, "stored", slices.DeleteFunc(stored(t, img), anonymous), slices.DeleteFunc(wantStored, anonymous))
	})
	t.Run("not allowed", func(t *testing.T) {
		direct := mountRW(t, copyImage(t, blank, "plain").Path, "allow_other")
		if _, done, err := mountMapped(t, direct, ns); err == nil {
			done()
			t.Error("the kernel maps ids without allow_idmap, though the server compares them with others")
		}
		umount(t, direct)
	})
}

// TestHiddenACL: entries of an ACL for users who are not shown are neither shown nor lost.
func TestHiddenACL(t *testing.T) {
	requireMounting(t)
	img := &testimage.Image{Path: filepath.Join(t.TempDir(), "img")}
	if err := testimage.Mke2fs(img.Path, 32<<20, plainExt4...); err != nil {
		t.Fatal(err)
	}
	const access, deflt = "system.posix_acl_access", "system.posix_acl_default"
	kernelView(t, img, func(dir string) {
		sub := filepath.Join(dir, "sub")
		if err := errors.Join(os.Mkdir(sub, 0o700), unix.Setxattr(sub, access, namedACL(lostID, 6), 0), unix.Setxattr(sub, deflt, namedACL(5, lostID), 0)); err != nil {
			t.Fatal(err)
		}
	})
	dir := mountRW(t, img.Path, idmapOption)
	sub := filepath.Join(dir, "sub")
	get := func(path, name string) []byte {
		buf := make([]byte, 1000)
		n, err := unix.Getxattr(path, name, buf)
		if err != nil {
			t.Errorf("%s of %s: %v", name, path, err)
			return nil
		}
		return buf[:n]
	}
	shown := aclValue(entry{1, 6, nobodys}, entry{4, 4, nobodys}, entry{8, 6, groupShift + 6}, entry{0x10, 6, nobodys}, entry{0x20, 0, nobodys})
	if got := get(sub, access); !bytes.Equal(got, shown) {
		t.Errorf("shown: %x\nwant:  %x", got, shown)
	}
	if err := unix.Setxattr(sub, access, shown, 0); !errors.Is(err, unix.EOVERFLOW) {
		t.Errorf("what was shown is set: %v", err)
	}
	if err := unix.Setxattr(sub, deflt, namedACL(userShift+5, groupShift+6), 0); !errors.Is(err, unix.EOVERFLOW) {
		t.Errorf("a default ACL: %v", err)
	}
	if err := unix.Removexattr(sub, access); err != nil {
		t.Errorf("an ACL is removed: %v", err)
	}
	if err := unix.Setxattr(sub, access, namedACL(userShift+5, groupShift+6), 0); err != nil {
		t.Errorf("an ACL is set anew: %v", err)
	}
	umount(t, dir)
	kernelView(t, img, func(dir string) {
		sub := filepath.Join(dir, "sub")
		if got := get(sub, access); !bytes.Equal(got, namedACL(5, 6)) {
			t.Errorf("stored: %x", got)
		}
		if got := get(sub, deflt); !bytes.Equal(got, namedACL(5, lostID)) {
			t.Errorf("stored, as default: %x", got)
		}
	})
}

// TestMappedQuota: limits are those of the image's users, for whom they are here, and root of the
// image is not root here.
func TestMappedQuota(t *testing.T) {
	requireMounting(t)
	if os.Geteuid() != 0 {
		t.Skip("needs root, to be others")
	}
	const limit = 5
	blank := &testimage.Image{Path: filepath.Join(t.TempDir(), "blank.img")}
	if err := testimage.Mke2fs(blank.Path, 32<<20, append(slices.Clone(plainExt4), "-O", "quota")...); err != nil {
		t.Fatal(err)
	}
	dev, err := blockdev.Open(blank.Path, blockdev.Options{})
	if err != nil {
		t.Fatal(err)
	}
	fs, err := ext4.Open(dev, ext4.Options{})
	if err != nil {
		t.Fatal(err)
	}
	mode := uint32(0o777)
	used, err := fs.Quota(ext4.UserQuota, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(fs.SetAttr(ext4.RootIno, ext4.Attr{Mode: &mode}),
		fs.SetQuotaLimits(ext4.UserQuota, 5, ext4.Quota{InodeHard: limit}),
		fs.SetQuotaLimits(ext4.UserQuota, 0, ext4.Quota{InodeHard: used.Inodes + limit}), fs.Close()); err != nil {
		t.Fatal(err)
	}
	check := func(t *testing.T, dir string) {
		for _, uid := range []uint32{userShift, userShift + 5} {
			gid := uid - userShift + groupShift
			out, err := shellWith(uid, gid, fmt.Sprintf("cd %s; for i in 1 2 3 4 5; do : >%d-$i || exit 7; done; : >%[2]d-one-more", dir, uid))
			if err == nil || err.Error() == "exit status 7" || !strings.Contains(out, "quota") {
				t.Errorf("user %d: %v, %s", uid, err, out)
			}
		}
	}
	t.Run("idmap", func(t *testing.T) {
		dir := mountRW(t, copyImage(t, blank, "idmap").Path, "allow_other,usrquota", idmapOption)
		openUp(dir)
		check(t, dir)
		umount(t, dir)
	})
	t.Run("allow_idmap", func(t *testing.T) {
		ns := userNamespace(t)
		direct := mountRW(t, copyImage(t, blank, "allow_idmap").Path, "allow_other,usrquota,allow_idmap")
		openUp(direct)
		dir, done, err := mountMapped(t, direct, ns)
		if err != nil {
			t.Skipf("the kernel maps no ids of FUSE: %v", err)
		}
		check(t, dir)
		done()
		umount(t, direct)
	})
}
