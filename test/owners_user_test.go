package test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ext4box/internal/testimage"
)

// visitor is an ordinary user who has an image: daemon, for fusermount3 wants users to have a name.
const visitor = 1

// requireUsers skips tests that need an ordinary user who can mount.
func requireUsers(t *testing.T) {
	requireMounting(t)
	if os.Geteuid() != 0 {
		t.Skip("needs root, to be others")
	}
	if _, err := exec.LookPath("fusermount3"); err != nil {
		t.Skip("needs fusermount3 (package fuse3)")
	}
	testimage.ShareFuse(t)
}

// runAs is run by somebody else, with a wrapper such as unshare before the program.
func runAs(t *testing.T, uid uint32, wrap []string, args ...string) result {
	t.Helper()
	bin, err := program()
	if err != nil {
		t.Fatal(err)
	}
	openUp(bin)
	line := slices.Concat(wrap, []string{bin}, args)
	cmd := exec.Command(line[0], line[1:]...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr, cmd.Dir = &stdout, &stderr, "/"
	cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
	cmd.WaitDelay = time.Second
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	err = cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) && !errors.Is(err, exec.ErrWaitDelay) {
		t.Fatalf("%q: %v", line, err)
	}
	return result{cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()}
}

// visited is an image, and a mount point, that belong to a user.
func visited(t *testing.T, prepare func(dir string)) (img *testimage.Image, mnt string) {
	t.Helper()
	dir := t.TempDir()
	openUp(filepath.Join(dir, "x"))
	img = &testimage.Image{Path: filepath.Join(dir, "disk.img")}
	if err := testimage.Mke2fs(img.Path, 32<<20, plainExt4...); err != nil {
		t.Fatal(err)
	}
	kernelView(t, img, prepare)
	mnt = filepath.Join(dir, "mnt")
	if err := errors.Join(os.Chown(dir, visitor, visitor), os.Mkdir(mnt, 0o755), os.Chown(mnt, visitor, visitor), os.Chown(img.Path, visitor, visitor)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if mounted(mnt) {
			_ = unix.Unmount(mnt, unix.MNT_DETACH)
		}
	})
	return img, mnt
}

// kernelView has the kernel mount an image that was checked.
func kernelView(t *testing.T, img *testimage.Image, what func(dir string)) {
	t.Helper()
	if err := testimage.Run("e2fsck", "-fn", img.Path); err != nil {
		t.Error(err)
	}
	m := testimage.MountRW(t, img, "")
	what(m.Dir)
	if err := m.Unmount(); err != nil {
		t.Fatal(err)
	}
}

// expect runs a shell script as somebody, which is to succeed, and compares what it says.
func expect(t *testing.T, uid uint32, script, want string) {
	t.Helper()
	got, err := shellAs(uid, "set -e\n"+script)
	if got = strings.TrimSpace(got); err != nil || got != strings.TrimSpace(want) {
		t.Errorf("as %d: %s\n%v\ngot:\n%s\nwant:\n%s", uid, script, err, got, want)
	}
}

// script runs one in a directory as root, which is to succeed.
func script(t *testing.T, dir, text string) string {
	t.Helper()
	got, err := shellAs(0, "set -e\ncd "+dir+"\n"+text)
	if err != nil {
		t.Fatalf("%s\n%v\n%s", text, err, got)
	}
	return strings.TrimSpace(got)
}

// mountFlags are the options of the mount at a directory.
func mountFlags(t *testing.T, dir string) string {
	t.Helper()
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 5 && f[4] == dir {
			return f[5]
		}
	}
	t.Fatalf("%s is not mounted", dir)
	return ""
}

// TestFakeroot: an ordinary user makes files of everybody.
func TestFakeroot(t *testing.T) {
	requireUsers(t)
	img, mnt := visited(t, func(dir string) {
		script(t, dir, `
			mkdir closed setgid sticky; echo secret >closed/secret; chmod 0 closed/secret; chmod 700 closed
			chgrp 77 setgid; chmod 2755 setgid; touch sticky/theirs; chmod 1777 sticky
			printf '#!/bin/sh\necho ran\n' >suid; chown 7:8 suid; chmod 4755 suid; echo plain >plain`)
	})
	r := runAs(t, visitor, nil, "mount", "-o", "fakeroot,suid", img.Path, mnt)
	if r.status != 0 || !strings.Contains(r.stderr, `"suid" has no effect`) {
		t.Fatalf("mount: %+v", r)
	}
	if flags := mountFlags(t, mnt); !strings.Contains(flags, "nosuid") || !strings.Contains(flags, "nodev") {
		t.Errorf("mounted with %s", flags)
	}
	if _, err := os.ReadDir(mnt); !errors.Is(err, unix.EACCES) {
		t.Errorf("root may look into a mount of somebody else: %v", err)
	}
	expect(t, visitor, "cd "+mnt+`
		find . -path ./lost+found -o -printf '%U:%G\n' | sort | uniq -c
		cat closed/secret; cd closed; rm secret; echo more >new; cd ..; rm sticky/theirs
		./suid
		for f in plain closed/new; do test -x $f && echo $f is no program; done
		test -x suid && test -x closed && test -r closed/new && test -w suid
		cp suid suid2; chown 7:8 suid2; chmod 6755 suid2; echo >>suid2; echo >>suid
		cp suid suid3; chmod 6744 suid3; : >suid3
		touch setgid/file; mkdir setgid/dir
		mkdir dir; chmod 2770 dir; chown 1000:1001 dir; chown 0 plain; mkfifo pipe; ln -s x link; chown -h 5:6 link
		mknod null c 1 3 2>/dev/null && echo made a device
		umask 027; mkdir masked; echo >masked/file
		setfattr -n user.x -v y plain
		setfattr -n trusted.x -v y plain 2>/dev/null && echo set a trusted attribute
		stat -c '%n %A %u:%g' suid2 dir plain link
	`, fmt.Sprintf("8 %[1]d:%[1]d\nsecret\nran\n", visitor)+strings.ReplaceAll(`suid2 -rwsr-sr-x U:U
dir drwxrws--- U:U
plain -rw-r--r-- U:U
link lrwxrwxrwx U:U`, "U", fmt.Sprint(visitor)))
	if r := runAs(t, visitor, nil, "umount", mnt); r.status != 0 {
		t.Fatal(r.stderr)
	}
	kernelView(t, img, func(dir string) {
		got := script(t, dir, `stat -c '%n %A %u:%g' suid suid2 suid3 closed/new setgid/* dir plain pipe link masked masked/file; getfattr --only-values -n user.x plain`)
		if want := `suid -rwsr-xr-x 7:8
suid2 -rwsr-sr-x 7:8
suid3 -rwsr-Sr-- 0:0
closed/new -rw-r--r-- 0:0
setgid/dir drwxr-sr-x 0:77
setgid/file -rw-r--r-- 0:77
dir drwxrws--- 1000:1001
plain -rw-r--r-- 0:0
pipe prw-r--r-- 0:0
link lrwxrwxrwx 5:6
masked drwxr-x--- 0:0
masked/file -rw-r----- 0:0
y`; got != want {
			t.Errorf("stored:\n%s\nwant:\n%s", got, want)
		}
	})
}

// TestForeignDisk: a user mounts a disk of another machine, as if all were his.
func TestForeignDisk(t *testing.T) {
	requireUsers(t)
	img, mnt := visited(t, func(dir string) {
		script(t, dir, `
			mkdir home tmp; echo content >home/file; chown 5:6 home home/file; chmod 600 home/file; chmod 700 home
			touch tmp/theirs; chmod 1777 tmp; cp home/file suid; chmod 6755 suid; cp -p suid suid-mine; cp -p suid suid-truncated
			cp home/file acl; setfacl -m u:`+fmt.Sprint(visitor)+`:0 acl`)
	})
	kernelView(t, img, func(dir string) {
		caps := filepath.Join(dir, "caps")
		if err := errors.Join(os.WriteFile(caps, nil, 0o755), unix.Setxattr(caps, "security.capability", fileCaps(0), 0)); err != nil {
			t.Fatal(err)
		}
	})
	option := fmt.Sprintf("uid=%d,gid=100,umask=027", visitor)
	if r := runAs(t, visitor, nil, "mount", "-o", option, img.Path, mnt); r.status != 0 || r.stderr != "" {
		t.Fatalf("mount: %+v", r)
	}
	if flags := mountFlags(t, mnt); !strings.Contains(flags, "nosuid") || !strings.Contains(flags, "nodev") {
		t.Errorf("mounted with %s", flags)
	}
	expect(t, visitor, "cd "+mnt+`
		find . -path ./lost+found -o ! -type l -printf '%U:%G %m\n' | sort | uniq -c
		cat home/file acl; echo new >home/new; chmod 640 home/new; mkdir home/dir; mkfifo home/pipe; ln -s x home/link
		rm tmp/theirs; echo mine >tmp/mine
		chown `+fmt.Sprint(visitor)+`:100 home/file suid-mine
		chown 5 home/file 2>/dev/null && echo gave it away
		chgrp `+fmt.Sprint(visitor)+` home/file 2>/dev/null && echo gave it to a group
		chmod 604 home/file; stat -c '%a %u:%g' home/file home/new
		echo more >>suid; : >suid-truncated; echo x >>caps
	`, fmt.Sprintf("10 %d:100 750\ncontent\ncontent\n750 %[1]d:100\n750 %[1]d:100", visitor))
	if r := runAs(t, visitor, nil, "umount", mnt); r.status != 0 {
		t.Fatal(r.stderr)
	}
	kernelView(t, img, func(dir string) {
		got := script(t, dir, `stat -c '%n %A %u:%g' home home/* tmp/mine suid suid-mine suid-truncated; getfattr -n security.capability caps 2>&1 | grep -c 'No such attr'`)
		if want := `home drwx------ 5:6
home/dir drwxr-xr-x 5:6
home/file -rw----r-- 5:6
home/link lrwxrwxrwx 5:6
home/new -rw-r----- 5:6
home/pipe prw-r--r-- 5:6
tmp/mine -rw-r--r-- 0:0
suid -rwxr-xr-x 0:0
suid-mine -rwsr-sr-x 0:0
suid-truncated -rwxr-xr-x 0:0
1`; got != want {
			t.Errorf("stored:\n%s\nwant:\n%s", got, want)
		}
	})

	// Mounted by root for others, the owner is one of them.
	direct := mountRW(t, img.Path, option+",allow_other")
	openUp(filepath.Join(direct, "x"))
	expect(t, visitor, "cat "+direct+"/home/file", "content")
	if got, err := shellAs(stranger, "cat "+direct+"/home/file"); err == nil {
		t.Errorf("others read what umask= keeps from them: %s", got)
	}
	umount(t, direct)

	// Without umask= the modes count, and without gid= the groups.
	direct = mountRW(t, img.Path, fmt.Sprintf("uid=%d,allow_other", visitor))
	openUp(direct)
	expect(t, visitor, "cd "+direct+`/home
		umask 022; echo >more; ln -s x other; stat -c '%n %A %u:%g' . file new more
		chgrp 6 more 2>/dev/null && echo gave it to a group
		chown 5 more 2>/dev/null && echo gave it away
		chown `+fmt.Sprint(visitor)+` more
	`, fmt.Sprintf(". drwx------ %d:6\nfile -rw----r-- %[1]d:6\nnew -rw-r----- %[1]d:6\nmore -rw-r--r-- %[1]d:%[1]d", visitor))
	expect(t, 0, "cd "+direct+"/home; chgrp 77 more; chown 5 more 2>/dev/null && echo gave it away; stat -c '%u:%g' more", fmt.Sprint(visitor, ":77"))
	umount(t, direct)
	kernelView(t, img, func(dir string) {
		if got, want := script(t, dir, "stat -c '%u:%g' home/more home/other"), fmt.Sprint("5:77\n5:", visitor); got != want {
			t.Errorf("stored: %s, want %s", got, want)
		}
	})
}

// TestFakerootTar: what an ordinary user unpacks with fakeroot is what root unpacks with the kernel.
func TestFakerootTar(t *testing.T) {
	requireUsers(t)
	for _, tool := range []string{"tar", "setfacl"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("needs %s", tool)
		}
	}
	base := t.TempDir()
	openUp(filepath.Join(base, "x"))
	archive := filepath.Join(base, "tree.tar")
	img, mnt := visited(t, func(dir string) {
		// Made where ACLs are sure to be.
		script(t, dir, `
			mkdir tree; cd tree; umask 022
			mkdir -p usr/bin var/mail var/lib/a etc tmp home/u; chmod 1777 tmp; chown 0:8 var/mail; chmod 2775 var/mail
			echo su >usr/bin/su; chmod 4755 usr/bin/su; ln usr/bin/su usr/bin/su2; echo at >usr/bin/at; chown 1:1 usr/bin/at; chmod 6755 usr/bin/at
			echo secret >etc/shadow; chown 0:42 etc/shadow; chmod 640 etc/shadow; echo locked >etc/none; chmod 0 etc/none
			ln -s ../usr etc/link; chown -h 3:4 etc/link; mkfifo var/pipe; chown -R 4000000000:3000000000 home/u
			echo x >var/lib/a/f; chmod 500 var/lib/a; chmod 444 var/lib/a/f; chown 5:5 var/lib/a var/lib/a/f
			setfacl -m u:9:rwx,g:10:r,d:u:11:rx var/mail; setfacl -m u:9:r etc/shadow; setfattr -n user.note -v hello etc/shadow
			touch -d 2001-02-03 usr/bin/at var/lib/a
			tar --xattrs --acls --numeric-owner -cf `+archive+` .
			cd ..; rm -r tree`)
	})
	oracle := copyImage(t, img, "oracle")
	const unpack = "tar --xattrs --acls --numeric-owner --same-owner -xpf "
	if r := runAs(t, visitor, nil, "mount", "-o", "fakeroot", img.Path, mnt); r.status != 0 {
		t.Fatalf("mount: %+v", r)
	}
	expect(t, visitor, "cd "+mnt+"; "+unpack+archive, "")
	if r := runAs(t, visitor, nil, "umount", mnt); r.status != 0 {
		t.Fatal(r.stderr)
	}
	report := func(img *testimage.Image, before string) (lines []string) {
		kernelView(t, img, func(dir string) {
			script(t, dir, before)
			times := script(t, dir, "find . -path ./lost+found -prune -o -printf '%p %T@ %n %l\n' | sort; getfattr -Rhd . 2>/dev/null")
			lines = append(look(t, dir), strings.Split(times, "\n")...)
		})
		return lines
	}
	got, want := report(img, ""), report(oracle, unpack+archive)
	compareLines(t, "unpacked", got, want)
}

// TestPermitted: who asks for what is not his to have is told so, before anything happens.
func TestPermitted(t *testing.T) {
	requireUsers(t)
	img, mnt := visited(t, func(dir string) {
		script(t, dir, "chown -R 0:0 .; mkdir dir; echo x >dir/file; chown 5:6 dir/file")
	})
	t.Run("allow_other", func(t *testing.T) {
		conf, _ := os.ReadFile("/etc/fuse.conf")
		for line := range strings.Lines(string(conf)) {
			if strings.HasPrefix(strings.TrimSpace(line), "user_allow_other") {
				t.Skip("/etc/fuse.conf allows it to everybody")
			}
		}
		// An image that does not exist would be found out later.
		r := runAs(t, visitor, nil, "mount", "-o", "allow_other", img.Path+"-none", mnt)
		if r.status != 1 || !strings.Contains(r.stderr, "user_allow_other") {
			t.Errorf("%+v", r)
		}
	})
	t.Run("suid", func(t *testing.T) {
		r := runAs(t, visitor, nil, "mount", "-o", "suid,dev", img.Path, mnt)
		if r.status != 0 || !strings.Contains(r.stderr, `"suid" has no effect`) || !strings.Contains(r.stderr, `"dev" has no effect`) {
			t.Fatalf("%+v", r)
		}
		if flags := mountFlags(t, mnt); !strings.Contains(flags, "nosuid") || !strings.Contains(flags, "nodev") {
			t.Errorf("mounted with %s", flags)
		}
		if r := runAs(t, visitor, nil, "umount", mnt); r.status != 0 {
			t.Fatal(r.stderr)
		}
	})
	t.Run("namespace", func(t *testing.T) {
		if got, err := shellAs(visitor, "unshare -Urm true"); err != nil {
			t.Skipf("needs user namespaces: %v: %s", err, got)
		}
		bin, err := program()
		if err != nil {
			t.Fatal(err)
		}
		inside := fmt.Sprintf(`
			b=%s i=%s m=%s
			PATH=/usr/bin:/bin
			export XDG_RUNTIME_DIR=$m-run; mkdir $XDG_RUNTIME_DIR
			$b mount -o suid,dev,allow_other $i $m 2>&1 | sed 's/:.*option//; s/ has no.*//' | sort
			grep " $m " /proc/self/mountinfo | grep -c nosuid,nodev
			$b umount $m
			$b mount -o fakeroot $i $m
			cat $m/dir/file; echo y >$m/dir/new; chown 0:0 $m/dir/new; stat -c %%u:%%g $m/dir/file
			$b umount $m
			$b mount -o idmap="u:5:0:1 g:6:0:1" $i $m; stat -c %%u:%%g $m/dir/file; touch $m/dir/file; touch $m/dir/none 2>/dev/null || echo refused
			$b umount $m`, bin, img.Path, mnt)
		got, err := shellAs(visitor, "unshare -Urm sh -ec '"+strings.ReplaceAll(inside, "'", `'\''`)+"'")
		want := "ext4box \"dev\"\next4box \"suid\"\n1\nx\n0:0\n0:0\nrefused"
		if got = strings.TrimSpace(got); err != nil || got != want {
			t.Errorf("%v\n%s\nwant:\n%s", err, got, want)
		}
		kernelView(t, img, func(dir string) {
			if got := script(t, dir, "stat -c %u:%g dir/file dir/new"); got != "5:6\n0:0" {
				t.Errorf("stored: %s", got)
			}
		})
	})
}
