package test

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"ext4box/internal/posixfs"
)

// A step is one system call of a sequence that runs on two mounts. It names
// everything by paths below the mount or by slots of open files, so that any
// part of a sequence can be left out.
type step struct {
	kind string
	a, b string // paths, or a path and a name or target
	slot int    // of an open file
	n, m int64  // offset and length, mode, or owner
	flag int
	uid  int // 0 or that of somebody without privilege
}

func (s step) String() string {
	return fmt.Sprintf("{kind: %q, a: %q, b: %q, slot: %d, n: %#o, m: %#o, flag: %d, uid: %d}",
		s.kind, s.a, s.b, s.slot, s.n, s.m, s.flag, s.uid)
}

// stranger is a user and a group without privilege.
const stranger = 1000

// slots is the number of files that a sequence holds open.
const slots = 4

// A player runs steps below one directory.
type player struct {
	fs    posixfs.FS
	dir   string
	files [slots]posixfs.File
	start time.Time
}

func newPlayer(fs posixfs.FS, dir string) *player {
	return &player{fs: fs, dir: dir, start: time.Now().Add(-time.Minute)}
}

func (p *player) close() {
	for i, f := range p.files {
		if f != nil {
			f.Close()
			p.files[i] = nil
		}
	}
}

func (p *player) path(rel string) string { return p.dir + "/" + rel }

// play runs one step and describes what came of it.
func (p *player) play(s step) string {
	said, err := p.do(s)
	if err != nil {
		var e unix.Errno
		if !errors.As(err, &e) {
			return err.Error()
		}
		return unix.ErrnoName(e)
	}
	return said
}

// as calls what as another user, and as root if uid is 0.
func as(uid int, what func() string) string { return asGroup(uid, uid, what) }

// asGroup is as with another first group.
func asGroup(uid, gid int, what func() string) string {
	if uid != 0 {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		_ = unix.Setfsgid(gid)
		_ = unix.Setfsuid(uid)
		defer func() {
			_ = unix.Setfsuid(0)
			_ = unix.Setfsgid(0)
		}()
	}
	return what()
}

func (p *player) do(s step) (string, error) {
	who := posixfs.Cred{UID: uint32(s.uid), GID: uint32(s.uid)}
	fs, a := p.fs.As(who), p.path(s.a)
	switch s.kind {
	case "create":
		f, err := fs.Open(a, unix.O_CREAT|unix.O_RDWR|s.flag, uint32(s.n))
		if err == nil {
			err = f.Close()
		}
		return "", err
	case "mkdir":
		return "", fs.Mkdir(a, uint32(s.n))
	case "mknod":
		return "", fs.Mknod(a, uint32(s.n), uint64(s.m))
	case "symlink":
		return "", fs.Symlink(s.b, a)
	case "readlink":
		return fs.Readlink(a)
	case "link":
		return "", fs.Link(a, p.path(s.b))
	case "unlink":
		return "", fs.Unlink(a)
	case "rmdir":
		return "", fs.Rmdir(a)
	case "rename":
		return "", fs.Rename(a, p.path(s.b), uint(s.flag))
	case "truncate":
		return "", fs.Truncate(a, s.n)
	case "write":
		f, err := fs.Open(a, unix.O_WRONLY|unix.O_NONBLOCK|s.flag, 0)
		if err != nil {
			return "", err
		}
		defer f.Close()
		return p.write(f, s)
	case "read":
		f, err := fs.Open(a, unix.O_RDONLY|unix.O_NONBLOCK, 0)
		if err != nil {
			return "", err
		}
		defer f.Close()
		return p.read(f, s)
	case "fallocate":
		f, err := fs.Open(a, unix.O_WRONLY|unix.O_NONBLOCK, 0)
		if err != nil {
			return "", err
		}
		defer f.Close()
		return "", f.Fallocate(uint32(s.flag), s.n, s.m)
	case "chmod":
		return "", fs.Chmod(a, uint32(s.n))
	case "chown":
		return "", fs.Chown(a, int(s.n), int(s.m))
	case "utimes":
		return "", fs.Utimes(a, [2]unix.Timespec{{Sec: s.n, Nsec: 123456789}, {Sec: s.m, Nsec: 987654321}}, false)
	case "touch":
		now := unix.Timespec{Nsec: unix.UTIME_NOW}
		return "", fs.Utimes(a, [2]unix.Timespec{now, now}, true)
	case "setflags":
		return setFlagsTo(fs, a, uint32(s.n)), nil
	case "setxattr":
		return "", fs.Setxattr(a, s.b, pattern(int(s.m), uint64(s.n)), s.flag)
	case "setacl":
		return "", fs.Setxattr(a, s.b, acl(s.n), s.flag)
	case "removexattr":
		return "", fs.Removexattr(a, s.b)
	case "getxattr":
		value, err := fs.Getxattr(a, s.b)
		return fmt.Sprintf("%d bytes %x", len(value), sha256.Sum256(value)), err
	case "listxattr":
		names, err := fs.Listxattr(a)
		if s.uid != 0 {
			// A user by setfsuid(2) keeps CAP_SYS_ADMIN, of which a FUSE server
			// is not told.
			names = slices.DeleteFunc(names, func(name string) bool { return strings.HasPrefix(name, "trusted.") })
		}
		slices.Sort(names)
		return strings.Join(names, ","), err
	case "stat":
		st, err := fs.Statx(a, unix.STATX_BASIC_STATS)
		return p.stat(&st), err
	case "list":
		return list(fs, a)
	case "open", "tmpfile":
		flags := unix.O_RDWR | unix.O_NONBLOCK | unix.O_NOFOLLOW | s.flag
		if s.kind == "tmpfile" {
			flags |= unix.O_TMPFILE
		}
		f, err := fs.Open(a, flags, uint32(s.n))
		if err != nil {
			return "", err
		}
		if old := p.files[s.slot]; old != nil {
			old.Close()
		}
		p.files[s.slot] = f
		return "", nil
	}
	f := p.files[s.slot]
	if f == nil {
		return "", unix.EBADF
	}
	f = f.As(who)
	switch s.kind {
	case "close":
		p.files[s.slot] = nil
		return "", f.Close()
	case "linkfd":
		return "", f.Link(a)
	case "pwrite":
		return p.write(f, s)
	case "pread":
		return p.read(f, s)
	case "ftruncate":
		return "", f.Truncate(s.n)
	case "ffallocate":
		return "", f.Fallocate(uint32(s.flag), s.n, s.m)
	case "fsync":
		return "", f.Fsync()
	case "fchmod":
		return "", f.Chmod(uint32(s.n))
	case "fstat":
		st, err := f.Statx(unix.STATX_BASIC_STATS)
		return p.stat(&st), err
	}
	panic("unknown step " + s.kind)
}

func (p *player) write(f posixfs.File, s step) (string, error) {
	n, err := f.Pwrite(pattern(int(s.m), uint64(s.n+s.m)), s.n)
	return fmt.Sprint(n), err
}

func (p *player) read(f posixfs.File, s step) (string, error) {
	buf := make([]byte, s.m)
	n, err := f.Pread(buf, s.n)
	return fmt.Sprintf("%d bytes %x", n, sha256.Sum256(buf[:n])), err
}

// list describes a directory, in the order of its names.
func list(fs posixfs.FS, path string) (string, error) {
	entries, err := fs.ReadDir(path)
	var names []string
	for _, e := range entries {
		names = append(names, fmt.Sprint(e.Name, " ", e.Type))
	}
	slices.Sort(names)
	return strings.Join(names, ","), err
}

// stat describes what must be alike. Sizes of directories depend on where in
// them the names are.
func (p *player) stat(st *unix.Statx_t) string {
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		st.Size = 0
	}
	return fmt.Sprintf("mode %#o links %d owner %d:%d size %d dev %d mtime %s ctime %s", st.Mode, st.Nlink, st.Uid, st.Gid, st.Size,
		unix.Mkdev(st.Rdev_major, st.Rdev_minor), p.when(st.Mtime), p.when(st.Ctime))
}

// when shows a time that somebody set, and "now" for one that the clock did.
func (p *player) when(t unix.StatxTimestamp) string {
	if d := time.Unix(t.Sec, int64(t.Nsec)).Sub(p.start); d > 0 && d < 24*time.Hour {
		return "now"
	}
	return fmt.Sprintf("%d.%09d", t.Sec, t.Nsec)
}

// pattern is content that tells where it comes from.
func pattern(n int, seed uint64) []byte {
	r := rand.NewPCG(seed, 1)
	b := make([]byte, n)
	for i := 0; i < n; i += 8 {
		var w [8]byte
		binary.LittleEndian.PutUint64(w[:], r.Uint64())
		copy(b[i:], w[:])
	}
	return b
}

// acl makes an ACL in the format of setxattr(2) from the bits of n.
func acl(n int64) []byte {
	b := []byte{2, 0, 0, 0}
	entry := func(tag uint16, perm int64, id uint32) {
		b = binary.LittleEndian.AppendUint16(b, tag)
		b = binary.LittleEndian.AppendUint16(b, uint16(perm&7))
		b = binary.LittleEndian.AppendUint32(b, id)
	}
	const nobody = 1<<32 - 1
	entry(0x01, n, nobody)
	if n&(1<<12) != 0 {
		entry(0x02, n>>15, stranger)
	}
	entry(0x04, n>>3, nobody)
	if n&(1<<13) != 0 {
		entry(0x08, n>>18, stranger)
	}
	if n&(3<<12) != 0 || n&(1<<14) != 0 {
		entry(0x10, n>>9, nobody)
	}
	if n&(1<<21) == 0 { // else it is invalid
		entry(0x20, n>>6, nobody)
	}
	return b
}

// A generator makes sequences.
type generator struct {
	*rand.Rand
	block int64 // size
	old   bool  // inodes have 32 bits of time
	large bool  // attributes may be larger than a block
	small bool  // attributes all fit, also into what a judge of another shape has
	tiny  int64 // not 0: half of the offsets and lengths are below this
}

func pick[T any](g *generator, from ...T) T { return from[g.IntN(len(from))] }

var longName = strings.Repeat("n", 255)

func (g *generator) name() string {
	switch g.IntN(30) {
	case 0:
		return longName
	case 1:
		return longName + "x"
	case 2:
		return "."
	case 3:
		return ".."
	case 4:
		return longName[:254] + string(rune('a'+g.IntN(20)))
	}
	return string(rune('a' + g.IntN(6)))
}

// path favours few paths, so that steps meet each other.
func (g *generator) path() string {
	parts := []string{}
	for g.IntN(10) < 6 && len(parts) < 3 {
		parts = append(parts, pick(g, "D", "E", "F"))
	}
	return strings.Join(append(parts, g.name()), "/")
}

func (g *generator) dir() string {
	parts := []string{pick(g, "D", "E", "F")}
	for g.IntN(10) < 5 && len(parts) < 3 {
		parts = append(parts, pick(g, "D", "E", "F"))
	}
	return strings.Join(parts, "/")
}

func (g *generator) any() string {
	if g.IntN(4) == 0 {
		return g.dir()
	}
	return g.path()
}

func (g *generator) offset() int64 {
	if g.tiny > 0 && g.IntN(2) == 0 {
		// Not 0: the kernel's side of FUSE does not let a truncation that does
		// not change the size set times, and most files are empty here.
		return 1 + g.Int64N(g.tiny)
	}
	switch g.IntN(6) {
	case 0:
		return g.Int64N(16) * g.block
	case 1:
		return g.Int64N(16)*g.block + g.Int64N(3) - 1
	case 2:
		return g.Int64N(4 << 20)
	case 3:
		return g.Int64N(100)
	}
	return g.Int64N(20 * g.block)
}

func (g *generator) length() int64 {
	if g.tiny > 0 && g.IntN(2) == 0 {
		return g.Int64N(g.tiny)
	}
	switch g.IntN(5) {
	case 0:
		return g.Int64N(8) * g.block
	case 1:
		return g.Int64N(10)
	case 2:
		return g.Int64N(200_000)
	}
	return g.Int64N(3 * g.block)
}

func (g *generator) xattr() string {
	return pick(g, "user.a", "user.b", "user.c", "user.long-"+longName[:200], "user."+longName, "trusted.t", "security.s",
		"system.x", "nothing", "user.")
}

func (g *generator) time() int64 {
	// The kernel's side of FUSE keeps the times that it is told, also those that
	// the image cannot have, until it forgets the file: only possible ones.
	if g.old {
		return pick[int64](g, 0, 1, 1_000_000_000, -5, 1<<31-2, 1-1<<31)
	}
	return pick[int64](g, 0, 1, 1_000_000_000, -5, 1<<31-1, 1<<31, 1<<32+7, 1-1<<31, 1<<33)
}

func (g *generator) falloc() int {
	return pick(g, 0, 0, 1, 1, 3, 3, 3, 2, 0x10, 0x10, 0x11, 0x40, 0x04)
}

// step makes a step of any kind.
func (g *generator) step() step {
	s := step{a: g.path(), slot: g.IntN(slots)}
	if g.IntN(5) == 0 {
		s.uid = stranger
	}
	switch g.IntN(40) {
	case 0, 1:
		s.kind, s.flag, s.n = "create", pick(g, 0, unix.O_EXCL, unix.O_TRUNC, unix.O_NOFOLLOW), pick[int64](g, 0o644, 0o666, 0o4755, 0o2775, 0o600, 0o7777, 0)
	case 2, 3, 4:
		s.kind, s.a, s.n = "mkdir", g.any(), pick[int64](g, 0o755, 0o777, 0o2775, 0o1777, 0o700)
	case 5:
		s.kind = "mknod"
		s.n = pick[int64](g, unix.S_IFIFO|0o644, unix.S_IFSOCK|0o600, unix.S_IFCHR|0o666, unix.S_IFBLK|0o660, unix.S_IFREG|0o644, 0o644, unix.S_IFDIR|0o755)
		s.m = int64(pick(g, unix.Mkdev(1, 3), unix.Mkdev(8, 300), unix.Mkdev(300, 7), unix.Mkdev(4095, 1<<20-1), 0))
	case 6, 7:
		s.kind, s.b = "symlink", pick(g, "t", strings.Repeat("x", 59), strings.Repeat("x", 60), strings.Repeat("x", 61), strings.Repeat("y/", 500),
			strings.Repeat("z/", 511), strings.Repeat("z/", 512), strings.Repeat("w/", 2040), strings.Repeat("w/", 2048)[:4095], "", "D", "../a")
	case 8:
		s.kind = "readlink"
	case 9, 10:
		s.kind, s.b = "link", g.path()
	case 11, 12:
		s.kind = "unlink"
		if g.IntN(5) == 0 {
			s.a = g.dir()
		}
	case 13:
		s.kind, s.a = "rmdir", g.any()
	case 14, 15, 16, 17:
		s.kind, s.a, s.b = "rename", g.any(), g.any()
		s.flag = pick(g, 0, 0, 0, 0, unix.RENAME_NOREPLACE, unix.RENAME_EXCHANGE, unix.RENAME_EXCHANGE, unix.RENAME_WHITEOUT, 3, 5, 6, 8)
	case 18:
		s.kind, s.n = "truncate", g.offset()
	case 19, 20, 21:
		s.kind, s.n, s.m, s.flag = "write", max(0, g.offset()), g.length(), pick(g, 0, 0, unix.O_APPEND, unix.O_TRUNC, unix.O_SYNC)
	case 22:
		s.kind, s.n, s.m = "read", max(0, g.offset()), 1+g.length()
	case 23, 24:
		s.kind, s.flag, s.n, s.m = "fallocate", g.falloc(), g.offset(), g.length()
	case 25:
		s.kind, s.a, s.n = "chmod", g.any(), g.Int64N(0o10000)
	case 26:
		s.kind, s.a, s.n, s.m = "chown", g.any(), pick[int64](g, -1, 0, stranger, 70000), pick[int64](g, -1, 0, stranger, 70000)
	case 27:
		s.kind, s.a, s.n, s.m = "utimes", g.any(), g.time(), g.time()
	case 28, 29:
		s.kind, s.a, s.b, s.n = "setxattr", g.any(), g.xattr(), g.Int64N(100)
		s.m = pick[int64](g, 0, 1, 20, 60, 100, 500, 900, 2000, 3800, 4000, 5000)
		if g.small {
			s.m = min(s.m, 60)
		}
		if g.large && g.IntN(3) == 0 {
			s.m = pick[int64](g, 940, 968, 969, 1100, 4040, 4041, 9000, 65535, 65536, 65537)
		}
		s.flag = pick(g, 0, 0, 0, 0, unix.XATTR_CREATE, unix.XATTR_REPLACE)
	case 30:
		s.kind, s.a, s.b = "removexattr", g.any(), pick(g, g.xattr(), "system.posix_acl_access", "system.posix_acl_default")
	case 31, 32:
		s.kind, s.a, s.b, s.n = "setacl", g.any(), pick(g, "system.posix_acl_access", "system.posix_acl_default"), g.Int64N(1<<21)
		if g.IntN(8) == 0 {
			s.n |= 1 << 21
		}
	case 33:
		s.kind, s.a, s.b = "getxattr", g.any(), pick(g, g.xattr(), "system.posix_acl_access", "system.posix_acl_default")
		if g.IntN(2) == 0 {
			s.kind = "listxattr"
		}
	case 34:
		s.kind, s.a = "stat", g.any()
	case 35:
		s.kind, s.a = pick(g, "stat", "list"), g.dir()
		if g.IntN(3) > 0 {
			break
		}
		// Not files immutable: what was open before can be written, unlike on ext4.
		s.kind, s.n = "setflags", pick[int64](g, 0, 0, 0, 0, flagImmutable, flagAppend, flagSync, flagDirsync, flagNodump, flagNoatime|flagNodump)
		if g.IntN(2) == 0 {
			s.a, s.n = g.path(), pick[int64](g, 0, 0, flagAppend, flagSync, flagNodump|flagNoatime, flagDirsync)
		}
	case 36:
		s.kind, s.flag, s.n = "open", pick(g, 0, 0, unix.O_CREAT, unix.O_CREAT, unix.O_APPEND, unix.O_TRUNC), 0o666
	case 37:
		s.kind, s.a, s.n, s.flag = "tmpfile", g.dir(), 0o666, pick(g, 0, 0, unix.O_EXCL)
	case 38:
		s.kind = pick(g, "linkfd", "close", "fstat", "fchmod", "fsync")
		if s.kind == "fchmod" {
			s.n = g.Int64N(0o10000)
		}
	case 39:
		s.kind, s.flag = pick(g, "pwrite", "pwrite", "pread", "ftruncate", "ffallocate"), g.falloc()
		s.n, s.m = max(0, g.offset()), g.length()
	}
	return s
}

// sequence makes n steps, of which the first make something to work with.
func (g *generator) sequence(n int) []step {
	var list []step
	for _, d := range []string{"D", "E", "F", "D/E", "D/F", "E/D", "D/E/F"} {
		list = append(list, step{kind: "mkdir", a: d, n: 0o777}, step{kind: "chmod", a: d, n: 0o777})
	}
	for len(list) < n {
		list = append(list, g.step())
	}
	return list[:n]
}

// openUp lets others than root pass through a test's directories.
func openUp(dir string) {
	for d := filepath.Dir(dir); strings.HasPrefix(d, os.TempDir()+"/"); d = filepath.Dir(d) {
		_ = os.Chmod(d, 0o755)
	}
}
