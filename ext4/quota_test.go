package ext4_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"ext4box/blockdev"
	"ext4box/ext4"
)

// quotaShapes are the kinds of filesystem on which quota is tested.
var quotaShapes = map[string]string{
	"4k":        "-t ext4 -b 4096 -O quota,project -E quotatype=usrquota:grpquota:prjquota",
	"1k":        "-t ext4 -b 1024 -O quota,project -E quotatype=usrquota:grpquota:prjquota",
	"nojournal": "-t ext4 -b 1024 -O ^has_journal,quota,project -E quotatype=usrquota:grpquota:prjquota",
	"indirect":  "-t ext4 -b 1024 -O ^extents,^64bit,quota,project -E quotatype=usrquota:grpquota:prjquota",
}

func quotaImage(t *testing.T, args string, size int64) string {
	t.Helper()
	if _, err := exec.LookPath("mke2fs"); err != nil {
		t.Skip("needs mke2fs")
	}
	img := filepath.Join(t.TempDir(), "quota.img")
	mke2fs(t, img, size, strings.Fields(args)...)
	return img
}

var enforce = ext4.Options{UserQuota: true, GroupQuota: true, ProjectQuota: true}

func openQuotaImage(t *testing.T, img string, o ext4.Options) *ext4.FS {
	t.Helper()
	dev, err := blockdev.Open(img, blockdev.Options{})
	if err != nil {
		t.Fatal(err)
	}
	o.CommitInterval = time.Hour
	fs, err := ext4.Open(dev, o)
	if err != nil {
		t.Fatal(err)
	}
	if why := fs.ReadOnlyReason(); why != "" {
		t.Fatalf("opened read-only because %s", why)
	}
	return fs
}

func closeAndCheck(t *testing.T, fs *ext4.FS, img string) {
	t.Helper()
	if err := fs.Close(); err != nil {
		t.Fatal(err)
	}
	if err := runFsck(img, "-fn"); err != nil {
		t.Fatal(err)
	}
}

func must[T any](t *testing.T) func(v T, err error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// listQuota is what debugfs reads in a quota file.
func listQuota(t *testing.T, img, kind string) map[uint32][2]uint64 {
	t.Helper()
	out, err := exec.Command("debugfs", "-R", "list_quota "+kind, img).Output()
	if err != nil {
		t.Fatal(err)
	}
	list := map[uint32][2]uint64{}
	for line := range strings.Lines(string(out)) {
		var id uint32
		var space, q, l, inodes uint64
		if n, _ := fmt.Sscan(line, &id, &space, &q, &l, &inodes); n == 5 {
			list[id] = [2]uint64{space, inodes}
		}
	}
	return list
}

// TestQuotaOwners gives files to very many, whose records e2fsprogs must find, and
// takes them away again.
func TestQuotaOwners(t *testing.T) {
	for name, args := range quotaShapes {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			img := quotaImage(t, args, 32<<20)
			fs := openQuotaImage(t, img, ext4.Options{})
			rng := rand.New(rand.NewPCG(1, 1))
			want := map[uint32][2]uint64{}
			content := bytes.Repeat([]byte("x"), 5000)
			var inos []ext4.Ino
			for i := range 700 {
				uid := rng.Uint32() >> rng.IntN(32)
				ino := must[ext4.Ino](t)(fs.Create(ext4.RootIno, fmt.Sprint(i), ext4.NewNode{Mode: syscall.S_IFREG, UID: uid, GID: 5}))
				if i%3 == 0 {
					must[int](t)(fs.WriteAt(ino, content, int64(rng.IntN(1<<20))))
				}
				if i%5 == 0 {
					uid, project := rng.Uint32()>>rng.IntN(32), rng.Uint32N(1000)
					if err := fs.SetAttr(ino, ext4.Attr{UID: &uid, ProjectID: &project}); err != nil {
						t.Fatal(err)
					}
				}
				inos = append(inos, ino)
			}
			for _, ino := range inos {
				st := must[ext4.Stat](t)(fs.Stat(ino))
				u := want[st.UID]
				want[st.UID] = [2]uint64{u[0] + st.Blocks*512, u[1] + 1}
			}
			closeAndCheck(t, fs, img)
			got := listQuota(t, img, "user")
			for id, w := range want {
				if id != 0 && got[id] != w {
					t.Errorf("user %d: debugfs finds %v, want %v", id, got[id], w)
				}
			}
			fs = openQuotaImage(t, img, ext4.Options{})
			for id, w := range want {
				if q, err := fs.Quota(ext4.UserQuota, id); err != nil || id != 0 && (q.Space != w[0] || q.Inodes != w[1]) {
					t.Errorf("user %d: %+v, %v, want %v", id, q, err, w)
				}
			}
			for i := range inos {
				if err := fs.Unlink(ext4.RootIno, fmt.Sprint(i)); err != nil {
					t.Fatal(err)
				}
			}
			closeAndCheck(t, fs, img)
			for _, kind := range []string{"user", "group", "project"} {
				if left := listQuota(t, img, kind); len(left) != 1 {
					t.Errorf("%s quota still has %v", kind, left)
				}
			}
		})
	}
}

// TestQuotaConcurrent has many change what belongs to the same few.
func TestQuotaConcurrent(t *testing.T) {
	img := quotaImage(t, quotaShapes["1k"], 64<<20)
	fs := openQuotaImage(t, img, enforce)
	for id := range uint32(4) {
		limits := ext4.Quota{SpaceHard: 300 << 10, SpaceSoft: 100 << 10, InodeHard: 30}
		for _, kind := range []ext4.QuotaKind{ext4.UserQuota, ext4.GroupQuota, ext4.ProjectQuota} {
			if err := fs.SetQuotaLimits(kind, id, limits); err != nil {
				t.Fatal(err)
			}
		}
	}
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(w), 9))
			dir, err := fs.Create(ext4.RootIno, fmt.Sprint("d", w), ext4.NewNode{Mode: syscall.S_IFDIR | 0o755})
			if err != nil {
				t.Error(err)
				return
			}
			ok := func(err error) {
				if err != nil && !errors.Is(err, syscall.EDQUOT) && !errors.Is(err, syscall.EISDIR) && !errors.Is(err, syscall.ESTALE) {
					t.Error(err)
				}
			}
			buf := make([]byte, 40000)
			for range 400 {
				name := fmt.Sprint(rng.IntN(12))
				ino, err := fs.Lookup(dir, name)
				switch {
				case err != nil:
					mode := []uint32{syscall.S_IFREG, syscall.S_IFREG, syscall.S_IFDIR, syscall.S_IFLNK}[rng.IntN(4)]
					_, err := fs.Create(dir, name, ext4.NewNode{Mode: mode | 0o644, UID: 1 + rng.Uint32N(3), GID: rng.Uint32N(4), Target: strings.Repeat("t", 70), Limited: true})
					ok(err)
					continue
				case rng.IntN(5) == 0:
					if ok(fs.Unlink(dir, name)); err != nil {
						_ = fs.Rmdir(dir, name)
					}
				case rng.IntN(4) == 0:
					uid, project := rng.Uint32N(4), rng.Uint32N(4)
					ok(fs.SetAttr(ino, ext4.Attr{UID: &uid, ProjectID: &project, Limited: true}))
				case rng.IntN(4) == 0:
					ok(fs.SetxattrAs(ino, "user.x", buf[:rng.IntN(900)], 0, true))
				}
				if st, err := fs.Stat(ino); err != nil || st.IsDir() || st.Mode&syscall.S_IFMT != syscall.S_IFREG {
					continue
				}
				switch rng.IntN(4) {
				case 0:
					ok(fs.Truncate(ino, uint64(rng.IntN(50000))))
				case 1:
					if err := fs.FallocateAs(ino, uint32(rng.IntN(2)), uint64(rng.IntN(50000)), 1+uint64(rng.IntN(40000)), true); !errors.Is(err, syscall.EOPNOTSUPP) {
						ok(err)
					}
				default:
					_, err := fs.WriteBackLimited(ino, buf[:1+rng.IntN(len(buf)-1)], int64(rng.IntN(60000)))
					ok(err)
				}
			}
		})
	}
	wg.Wait()
	for id := uint32(1); id < 4; id++ {
		for _, kind := range []ext4.QuotaKind{ext4.UserQuota, ext4.GroupQuota, ext4.ProjectQuota} {
			// What the maps of files need is never refused.
			if q := must[ext4.Quota](t)(fs.Quota(kind, id)); q.Inodes > 30 || q.Space > 300<<10+40<<10 {
				t.Errorf("%v %d is beyond the limits: %+v", kind, id, q)
			}
		}
	}
	closeAndCheck(t, fs, img)
}

// limitRig is a filesystem with a user and a group at whose limits things happen.
type limitRig struct {
	t   *testing.T
	fs  *ext4.FS
	img string
}

const limitedUser, limitedGroup = 1000, 2000

func newLimitRig(t *testing.T, args string) *limitRig {
	img := quotaImage(t, args, 32<<20)
	return &limitRig{t, openQuotaImage(t, img, enforce), img}
}

func (r *limitRig) set(kind ext4.QuotaKind, id uint32, q ext4.Quota) {
	r.t.Helper()
	if err := r.fs.SetQuotaLimits(kind, id, q); err != nil {
		r.t.Fatal(err)
	}
}

func (r *limitRig) create(name string, mode uint32) (ext4.Ino, error) {
	return r.fs.Create(ext4.RootIno, name, ext4.NewNode{Mode: mode | 0o755, UID: limitedUser, GID: limitedGroup, Target: strings.Repeat("t", 100), Limited: true})
}

func (r *limitRig) refused(what string, err error) {
	r.t.Helper()
	if !errors.Is(err, syscall.EDQUOT) {
		r.t.Errorf("%s: %v instead of EDQUOT", what, err)
	}
}

func (r *limitRig) used(kind ext4.QuotaKind, id uint32) (space, inodes uint64) {
	r.t.Helper()
	q, err := r.fs.Quota(kind, id)
	if err != nil {
		r.t.Fatal(err)
	}
	return q.Space, q.Inodes
}

// TestQuotaSpaceLimit fills up what a user, or his group, may have.
func TestQuotaSpaceLimit(t *testing.T) {
	for name, args := range quotaShapes {
		for _, kind := range []ext4.QuotaKind{ext4.UserQuota, ext4.GroupQuota} {
			t.Run(fmt.Sprint(name, "-", kind), func(t *testing.T) {
				t.Parallel()
				r := newLimitRig(t, args)
				id := map[ext4.QuotaKind]uint32{ext4.UserQuota: limitedUser, ext4.GroupQuota: limitedGroup}[kind]
				const limit = 64 << 10
				r.set(kind, id, ext4.Quota{SpaceHard: limit})
				f := must[ext4.Ino](t)(r.create("f", syscall.S_IFREG))
				data := bytes.Repeat([]byte("data"), 8<<10)
				must[int](t)(r.fs.WriteBackLimited(f, data, 0))
				n, err := r.fs.WriteBackLimited(f, bytes.Repeat(data, 2), int64(len(data)))
				r.refused("a write beyond the limit", err)
				if space, _ := r.used(kind, id); n < 8<<10 || space < limit-4096 || space > limit+4096 {
					t.Errorf("%d bytes were written, and %d are in use", n, space)
				}
				if st := must[ext4.Stat](t)(r.fs.Stat(f)); st.Size != int64(len(data)+n) {
					t.Errorf("the file has %d bytes of %d", st.Size, len(data)+n)
				}
				// One more block is refused wherever it is needed, and nothing is left
				// behind by that.
				before := must[ext4.Statfs](t)(r.fs.Statfs())
				g := must[ext4.Ino](t)(r.create("g", syscall.S_IFREG))
				_, err = r.fs.WriteBackLimited(g, data[:1], 0)
				r.refused("a first block", err)
				_, err = r.create("d", syscall.S_IFDIR)
				r.refused("mkdir", err)
				_, err = r.create("s", syscall.S_IFLNK)
				r.refused("a long link", err)
				r.refused("an attribute block", r.fs.SetxattrAs(g, "user.a", data[:600], 0, true))
				if name != "indirect" {
					r.refused("fallocate", r.fs.FallocateAs(g, 0, 0, 4096, true))
				}
				if err := r.fs.Unlink(ext4.RootIno, "g"); err != nil {
					t.Fatal(err)
				}
				if err := r.fs.Sync(); err != nil {
					t.Fatal(err)
				}
				if after := must[ext4.Statfs](t)(r.fs.Statfs()); after != before {
					t.Errorf("statfs was %+v and is %+v", before, after)
				}
				// Blocks that the file has can be written; root may do what he wants.
				must[int](t)(r.fs.WriteBackLimited(f, data, 0))
				must[int](t)(r.fs.WriteAt(f, data, 1<<20))
				// And with less there is room again.
				if err := r.fs.Truncate(f, 0); err != nil {
					t.Fatal(err)
				}
				must[int](t)(r.fs.WriteBackLimited(f, data, 0))
				must[ext4.Ino](t)(r.create("d", syscall.S_IFDIR))
				closeAndCheck(t, r.fs, r.img)
			})
		}
	}
}

// TestQuotaInodeLimit makes as many inodes as a user may have.
func TestQuotaInodeLimit(t *testing.T) {
	r := newLimitRig(t, quotaShapes["1k"])
	r.set(ext4.UserQuota, limitedUser, ext4.Quota{InodeHard: 3})
	for i, mode := range []uint32{syscall.S_IFREG, syscall.S_IFDIR, syscall.S_IFLNK} {
		must[ext4.Ino](t)(r.create(fmt.Sprint(i), mode))
	}
	before := must[ext4.Statfs](t)(r.fs.Statfs())
	for _, mode := range []uint32{syscall.S_IFREG, syscall.S_IFDIR, syscall.S_IFLNK, syscall.S_IFIFO} {
		_, err := r.create("more", mode)
		r.refused("a fourth inode", err)
	}
	_, err := r.fs.Tmpfile(ext4.RootIno, ext4.NewNode{UID: limitedUser, Limited: true})
	r.refused("a file without a name", err)
	if after := must[ext4.Statfs](t)(r.fs.Statfs()); after != before {
		t.Errorf("statfs was %+v and is %+v", before, after)
	}
	must[ext4.Ino](t)(r.fs.Create(ext4.RootIno, "by root", ext4.NewNode{Mode: syscall.S_IFREG, UID: limitedUser}))
	for _, name := range []string{"0", "2"} {
		if err := r.fs.Unlink(ext4.RootIno, name); err != nil {
			t.Fatal(err)
		}
	}
	must[ext4.Ino](t)(r.create("again", syscall.S_IFREG))
	if _, inodes := r.used(ext4.UserQuota, limitedUser); inodes != 3 {
		t.Errorf("%d inodes are in use", inodes)
	}
	closeAndCheck(t, r.fs, r.img)
}

// TestQuotaTransfer gives files to those who have no room for them.
func TestQuotaTransfer(t *testing.T) {
	r := newLimitRig(t, quotaShapes["4k"])
	f := must[ext4.Ino](t)(r.create("f", syscall.S_IFREG))
	must[int](t)(r.fs.WriteAt(f, make([]byte, 40000), 0))
	other, project := uint32(77), uint32(5)
	r.set(ext4.GroupQuota, other, ext4.Quota{SpaceHard: 8 << 10})
	r.set(ext4.ProjectQuota, project, ext4.Quota{InodeHard: 1})
	r.refused("chgrp", r.fs.SetAttr(f, ext4.Attr{GID: &other, Limited: true}))
	if space, inodes := r.used(ext4.GroupQuota, other); space+inodes != 0 {
		t.Errorf("the group has %d bytes, %d inodes", space, inodes)
	}
	if err := r.fs.SetProject(f, project); err != nil {
		t.Fatal(err)
	}
	g := must[ext4.Ino](t)(r.create("g", syscall.S_IFREG))
	r.refused("a second file in the project", r.fs.SetAttr(g, ext4.Attr{ProjectID: &project, Limited: true}))
	if err := r.fs.SetAttr(f, ext4.Attr{GID: &other}); err != nil {
		t.Fatalf("chgrp by root: %v", err)
	}
	if space, inodes := r.used(ext4.GroupQuota, other); space != 40960 || inodes != 1 {
		t.Errorf("the group has %d bytes, %d inodes", space, inodes)
	}
	if space, inodes := r.used(ext4.ProjectQuota, project); space != 40960 || inodes != 1 {
		t.Errorf("the project has %d bytes, %d inodes", space, inodes)
	}
	closeAndCheck(t, r.fs, r.img)
}

// TestQuotaGrace: a soft limit may be exceeded for a time.
func TestQuotaGrace(t *testing.T) {
	img := quotaImage(t, quotaShapes["4k"], 32<<20)
	// The times of grace are in the header: 2 s.
	out := must[[]byte](t)(exec.Command("debugfs", "-R", "blocks <3>", img).Output())
	var blk int64
	if _, err := fmt.Sscan(string(out), &blk); err != nil {
		t.Fatal(err)
	}
	dev := must[blockdev.Device](t)(blockdev.Open(img, blockdev.Options{}))
	must[int](t)(dev.WriteAt([]byte{2, 0, 0, 0, 2, 0, 0, 0}, blk*4096+8))
	if err := dev.Close(); err != nil {
		t.Fatal(err)
	}
	r := &limitRig{t, openQuotaImage(t, img, enforce), img}
	r.set(ext4.UserQuota, limitedUser, ext4.Quota{SpaceSoft: 8 << 10, InodeSoft: 2})
	f := must[ext4.Ino](t)(r.create("f", syscall.S_IFREG))
	must[int](t)(r.fs.WriteBackLimited(f, make([]byte, 16<<10), 0))
	for _, name := range []string{"g", "h"} {
		must[ext4.Ino](t)(r.create(name, syscall.S_IFREG))
	}
	if q := must[ext4.Quota](t)(r.fs.Quota(ext4.UserQuota, limitedUser)); q.SpaceTime == 0 || q.InodeTime == 0 {
		t.Errorf("no time of grace runs: %+v", q)
	}
	if err := r.fs.Close(); err != nil { // it is on disk
		t.Fatal(err)
	}
	r.fs = openQuotaImage(t, img, enforce)
	time.Sleep(2100 * time.Millisecond)
	_, err := r.fs.WriteBackLimited(f, make([]byte, 4096), 16<<10)
	r.refused("a write after the time of grace", err)
	_, err = r.create("i", syscall.S_IFREG)
	r.refused("a file after the time of grace", err)
	if err := errors.Join(r.fs.Unlink(ext4.RootIno, "g"), r.fs.Truncate(f, 4096)); err != nil {
		t.Fatal(err)
	}
	must[int](t)(r.fs.WriteBackLimited(f, make([]byte, 4096), 4096))
	if q := must[ext4.Quota](t)(r.fs.Quota(ext4.UserQuota, limitedUser)); q.SpaceTime != 0 || q.InodeTime != 0 {
		t.Errorf("times still run: %+v", q)
	}
	closeAndCheck(t, r.fs, img)
}

// TestProjectQuotaRefused: there is nothing to enforce.
func TestProjectQuotaRefused(t *testing.T) {
	dev := must[blockdev.Device](t)(blockdev.Open(quotaImage(t, "-t ext4 -O quota", 16<<20), blockdev.Options{}))
	defer dev.Close()
	if _, err := ext4.Open(dev, enforce); !errors.Is(err, syscall.EINVAL) {
		t.Errorf("prjquota without projects: %v", err)
	}
}

// TestQuotaNotEnforced: without the option limits are only kept.
func TestQuotaNotEnforced(t *testing.T) {
	img := quotaImage(t, quotaShapes["4k"], 32<<20)
	r := &limitRig{t, openQuotaImage(t, img, ext4.Options{GroupQuota: true}), img}
	r.set(ext4.UserQuota, limitedUser, ext4.Quota{SpaceHard: 4096, InodeHard: 1})
	for i := range 3 {
		f := must[ext4.Ino](t)(r.create(fmt.Sprint(i), syscall.S_IFREG))
		must[int](t)(r.fs.WriteBackLimited(f, make([]byte, 10000), 0))
	}
	closeAndCheck(t, r.fs, img)
	if got := listQuota(t, img, "user")[limitedUser]; got != [2]uint64{3 * 12288, 3} {
		t.Errorf("the user has %v", got)
	}
}

// TestProjects: what is made in a directory that hands its project down belongs
// to it, nothing of another is linked or moved there, and statfs shows its limits.
func TestProjects(t *testing.T) {
	const inherit = 0x20000000
	r := newLimitRig(t, quotaShapes["4k"])
	fs := r.fs
	project := uint32(42)
	dir := must[ext4.Ino](t)(fs.Create(ext4.RootIno, "dir", ext4.NewNode{Mode: syscall.S_IFDIR | 0o755}))
	flags := must[ext4.Stat](t)(fs.Stat(dir)).Flags | inherit
	if err := fs.SetAttr(dir, ext4.Attr{Flags: &flags, ProjectID: &project}); err != nil {
		t.Fatal(err)
	}
	for name, mode := range map[string]uint32{"f": syscall.S_IFREG, "d": syscall.S_IFDIR, "s": syscall.S_IFLNK} {
		ino := must[ext4.Ino](t)(fs.Create(dir, name, ext4.NewNode{Mode: mode, Target: "t"}))
		st := must[ext4.Stat](t)(fs.Stat(ino))
		if st.ProjectID != project || st.Flags&inherit != 0 != (mode == syscall.S_IFDIR) {
			t.Errorf("%s has project %d and flags %#x", name, st.ProjectID, st.Flags)
		}
	}
	out := must[ext4.Ino](t)(fs.Create(ext4.RootIno, "out", ext4.NewNode{Mode: syscall.S_IFREG}))
	for what, err := range map[string]error{
		"link in":       fs.Link(out, dir, "in"),
		"rename in":     fs.Rename(ext4.RootIno, "out", dir, "in", 0),
		"exchange":      fs.Rename(ext4.RootIno, "out", dir, "f", ext4.RenameExchange),
		"exchange back": fs.Rename(dir, "f", ext4.RootIno, "out", ext4.RenameExchange),
	} {
		if !errors.Is(err, syscall.EXDEV) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if err := fs.Rename(dir, "s", ext4.RootIno, "s", 0); err != nil {
		t.Errorf("rename out: %v", err)
	}
	r.set(ext4.ProjectQuota, project, ext4.Quota{SpaceHard: 1 << 20, SpaceSoft: 512 << 10, InodeHard: 10})
	whole, part := must[ext4.Statfs](t)(fs.Statfs()), must[ext4.Statfs](t)(fs.StatfsAt(dir))
	if part.Blocks != 128 || part.BlocksFree != 126 || part.BlocksAvail != 126 || part.Files != 10 || part.FilesFree != 6 {
		t.Errorf("statfs in the project: %+v", part)
	}
	if at := must[ext4.Statfs](t)(fs.StatfsAt(out)); at != whole {
		t.Errorf("statfs outside: %+v instead of %+v", at, whole)
	}
	f := must[ext4.Ino](t)(fs.Lookup(dir, "f"))
	n, err := fs.WriteBackLimited(f, make([]byte, 2<<20), 0)
	r.refused("a write beyond the limit of the project", err)
	if n != 1<<20-8192 {
		t.Errorf("%d bytes were written", n)
	}
	closeAndCheck(t, fs, r.img)
}

// TestQuotaFull: when there is no room for the record of a new owner, nothing is
// left half done.
func TestQuotaFull(t *testing.T) {
	img := quotaImage(t, quotaShapes["1k"]+" -N 4000", 4<<20)
	fs := openQuotaImage(t, img, ext4.Options{})
	ballast := must[ext4.Ino](t)(fs.Create(ext4.RootIno, "ballast", ext4.NewNode{Mode: syscall.S_IFREG}))
	for off := int64(0); ; off += 1024 {
		if _, err := fs.WriteAt(ballast, make([]byte, 1024), off); err != nil {
			if !errors.Is(err, syscall.ENOSPC) {
				t.Fatal(err)
			}
			break
		}
	}
	failed := 0
	for i := range uint32(600) {
		_, err := fs.Create(ext4.RootIno, fmt.Sprint(i), ext4.NewNode{Mode: syscall.S_IFREG, UID: i * 0x00800001, GID: i * 0x00900001})
		if err != nil && !errors.Is(err, syscall.ENOSPC) {
			t.Fatal(err)
		}
		if err != nil {
			failed++
		}
	}
	if failed == 0 {
		t.Error("there was always room")
	}
	closeAndCheck(t, fs, img)
}

// TestQuotaDamagedInode: nor of one whose inode is none for a quota file. With
// errors=remount-ro nothing is written then.
func TestQuotaDamagedInode(t *testing.T) {
	for _, policy := range []string{"continue", "remount-ro"} {
		for _, request := range []string{
			"ssv usr_quota_inum 5", "ssv grp_quota_inum 7", "ssv prj_quota_inum 11", "ssv prj_quota_inum 99999", "ssv prj_quota_inum 14",
			"sif <3> mode 040600", "sif <4> mode 0", "sif <12> size 1024", "sif <12> size 0xffffffffffffffff", "sif <3> links_count 0",
			"sif <3> flags 0x10000010", "sif <3> flags 0x10", "sif <4> block[5] 0", "sif <12> block[5] 99999999", "sif <12> block[5] 2",
		} {
			img := quotaImage(t, quotaShapes["1k"]+" -e "+policy, 16<<20)
			if out, err := exec.Command("debugfs", "-w", "-R", request, img).CombinedOutput(); err != nil {
				t.Fatalf("%s: %v, %s", request, err, out)
			}
			dev := must[blockdev.Device](t)(blockdev.Open(img, blockdev.Options{}))
			fs, err := ext4.Open(dev, ext4.Options{UserQuota: true})
			if err != nil {
				t.Errorf("%s: %v", request, err)
				continue
			}
			ino, err := fs.Create(ext4.RootIno, "f", ext4.NewNode{Mode: syscall.S_IFREG, UID: 6, Limited: true})
			if err == nil {
				_, err = fs.WriteBackLimited(ino, make([]byte, 5000), 0)
			}
			if err != nil && (policy == "continue" || !errors.Is(err, syscall.EROFS)) {
				t.Errorf("errors=%s, %s: %v", policy, request, err)
			}
			if err := fs.Close(); err != nil && policy == "continue" {
				t.Errorf("%s: close: %v", request, err)
			}
		}
	}
}

// TestQuotaDamaged: of a quota file that is damaged nobody may take notice, but
// for e2fsck.
func TestQuotaDamaged(t *testing.T) {
	base := quotaImage(t, quotaShapes["1k"]+" -e continue", 16<<20)
	fs := openQuotaImage(t, base, ext4.Options{})
	for i := range uint32(60) {
		ino := must[ext4.Ino](t)(fs.Create(ext4.RootIno, fmt.Sprint("old", i), ext4.NewNode{Mode: syscall.S_IFREG, UID: i * i * 31, GID: i}))
		must[int](t)(fs.WriteAt(ino, make([]byte, 3000), 0))
	}
	if err := fs.Close(); err != nil {
		t.Fatal(err)
	}
	out := must[[]byte](t)(exec.Command("debugfs", "-R", "blocks <3>", base).Output())
	blocks := strings.Fields(string(out))
	image := must[[]byte](t)(os.ReadFile(base))
	for i, blk := range blocks {
		var n int
		if _, err := fmt.Sscan(blk, &n); err != nil {
			t.Fatal(err)
		}
		if i > 7 && i%11 != 0 {
			continue
		}
		for kind, spoil := range map[string]func(b []byte){
			"zeros":  func(b []byte) { clear(b) },
			"ones":   func(b []byte) { copy(b, bytes.Repeat([]byte{0xFF}, len(b))) },
			"circle": func(b []byte) { copy(b, bytes.Repeat([]byte{byte(i), 0, 0, 0}, len(b)/4)) },
			"self":   func(b []byte) { copy(b, bytes.Repeat([]byte{2, 0, 0, 0}, len(b)/4)) },
			"counts": func(b []byte) { b[8] ^= 7; b[0x18] ^= 3 },
		} {
			img := filepath.Join(t.TempDir(), "img")
			bad := slices.Clone(image)
			spoil(bad[n<<10 : (n+1)<<10])
			if err := os.WriteFile(img, bad, 0o600); err != nil {
				t.Fatal(err)
			}
			fs := openQuotaImage(t, img, enforce)
			for j := range uint32(40) {
				name := fmt.Sprint("new", j)
				ino, err := fs.Create(ext4.RootIno, name, ext4.NewNode{Mode: syscall.S_IFREG, UID: j * 7919, GID: j, Limited: true})
				if err != nil && !errors.Is(err, syscall.EDQUOT) {
					t.Fatalf("block %d, %s: create: %v", i, kind, err)
				}
				if err == nil {
					if _, err := fs.WriteBackLimited(ino, make([]byte, 2000), 0); err != nil && !errors.Is(err, syscall.EDQUOT) {
						t.Fatalf("block %d, %s: write: %v", i, kind, err)
					}
				}
				if err := fs.Unlink(ext4.RootIno, fmt.Sprint("old", j)); err != nil {
					t.Fatalf("block %d, %s: unlink: %v", i, kind, err)
				}
			}
			if err := fs.Close(); err != nil {
				t.Fatalf("block %d, %s: %v", i, kind, err)
			}
			if kind != "counts" {
				continue
			}
			_ = exec.Command("e2fsck", "-fy", img).Run()
			if err := runFsck(img, "-fn"); err != nil {
				t.Fatalf("block %d, %s: %v", i, kind, err)
			}
		}
	}
}

// TestQuotaValueInodes: large values of attributes, which are in inodes of their
// own, count to the owners of the file.
func TestQuotaValueInodes(t *testing.T) {
	for _, args := range []string{
		"-t ext4 -b 4096 -O ea_inode,quota",
		"-t ext4 -b 1024 -O ea_inode,quota,project -E quotatype=usrquota:grpquota:prjquota",
		"-t ext4 -b 1024 -O ea_inode,quota,bigalloc -C 16384",
	} {
		img := quotaImage(t, args, 32<<20)
		dev := must[blockdev.Device](t)(blockdev.Open(img, blockdev.Options{}))
		fs := must[*ext4.FS](t)(ext4.Open(dev, ext4.Options{UserQuota: true}))
		if why := fs.ReadOnlyReason(); why != "" {
			fs.Close()
			t.Skip("opened read-only because ", why)
		}
		value := bytes.Repeat([]byte("v"), 20000)
		f := must[ext4.Ino](t)(fs.Create(ext4.RootIno, "f", ext4.NewNode{Mode: syscall.S_IFREG, UID: 7, GID: 8}))
		g := must[ext4.Ino](t)(fs.Create(ext4.RootIno, "g", ext4.NewNode{Mode: syscall.S_IFREG, UID: 9}))
		check := func(what string, err error, uid uint32, inodes uint64) {
			t.Helper()
			if q, e := fs.Quota(ext4.UserQuota, uid); err != nil || e != nil || q.Inodes != inodes {
				t.Errorf("%s: %v; user %d has %+v, %v; want %d inodes", what, err, uid, q, e, inodes)
			}
			closeAndCheck(t, fs, img)
			fs = openQuotaImage(t, img, ext4.Options{UserQuota: true})
		}
		check("set", fs.Setxattr(f, "user.a", value, 0), 7, 2)
		check("set another", fs.Setxattr(f, "user.b", value, 0), 7, 3)
		check("the same elsewhere", fs.Setxattr(g, "user.a", value, 0), 9, 2)
		uid, gid := uint32(9), uint32(10)
		check("chown", fs.SetAttr(f, ext4.Attr{UID: &uid, GID: &gid}), 9, 5)
		check("replace", fs.Setxattr(f, "user.a", value[:9000], 0), 9, 5)
		check("make small", fs.Setxattr(f, "user.a", value[:9], 0), 9, 4)
		check("remove", fs.Removexattr(f, "user.b"), 9, 3)
		check("unlink", fs.Unlink(ext4.RootIno, "g"), 9, 1)
		closeAndCheck(t, fs, img)
	}
}
