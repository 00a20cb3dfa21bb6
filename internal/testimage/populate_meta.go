package testimage

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"iter"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

func mapKeys[K comparable, V any](m map[K]V) iter.Seq[K] { return maps.Keys(m) }

func (p *populator) special() {
	d := p.mkdir("special")
	nodes := []struct {
		name         string
		mode         uint32
		major, minor uint32
	}{
		{"fifo", unix.S_IFIFO | 0o600, 0, 0},
		{"socket", unix.S_IFSOCK | 0o755, 0, 0},
		{"char-old", unix.S_IFCHR | 0o666, 1, 3},
		{"block-old", unix.S_IFBLK | 0o660, 255, 255},
		{"char-new", unix.S_IFCHR | 0o600, 256, 0},
		{"block-new", unix.S_IFBLK | 0o600, 4095, 1<<20 - 1},
		{"whiteout", unix.S_IFCHR, 0, 0},
	}
	for _, n := range nodes {
		path := filepath.Join(d, n.name)
		err := unix.Mknod(path, n.mode&^0o7777|0o600, int(unix.Mkdev(n.major, n.minor)))
		if p.may("mknod "+n.name, err) {
			p.must(os.Chmod(path, os.FileMode(n.mode&0o777)))
		}
	}
}

func (p *populator) symlinks() {
	d := p.mkdir("symlinks")
	p.must(os.Symlink("../files/hello", filepath.Join(d, "hello")))
	p.must(os.Symlink("nowhere", filepath.Join(d, "dangling")))
	p.must(os.Symlink("loop", filepath.Join(d, "loop")))
	lengths := []int{1, 58, 59, 60, 61, 100, 200, 1000, int(p.block) - 2, int(p.block) - 1, 4094, 4095}
	if p.opt.Level == Tiny {
		lengths = []int{59, 60, 200}
	}
	for _, n := range lengths {
		if n > 4095 || p.opt.Staging && n >= int(p.block) {
			continue // would not fit
		}
		name := filepath.Join(d, fmt.Sprintf("len-%d", n))
		target := strings.Repeat("t/", n)[:n]
		if err := os.Symlink(target, name); !os.IsExist(err) {
			p.may(fmt.Sprintf("symlink of %d bytes", n), err)
		}
	}
}

func (p *populator) owners() {
	d := p.mkdir("owners")
	ids := [][2]int{{0, 65535}, {65536, 65537}, {1000, 1 << 31}, {0xfffffffe, 0xfffffffe}}
	modes := []uint32{0, 0o4755, 0o2755, 0o1777, 0o7777, 0o111, 0o444}
	if p.opt.Level == Tiny {
		ids, modes = ids[1:2], modes[1:2]
	}
	for _, id := range ids {
		name := filepath.Join(d, fmt.Sprintf("%d-%d", id[0], id[1]))
		p.write(name, []byte(name[len(d):]))
		p.may("chown", os.Lchown(name, id[0], id[1]))
	}
	for _, mode := range modes {
		if p.opt.Staging && os.Geteuid() != 0 && mode&0o400 == 0 {
			continue // mke2fs could not read it
		}
		name := filepath.Join(d, fmt.Sprintf("mode-%04o", mode))
		p.write(name, nil)
		p.must(unix.Chmod(name, mode))
	}
}

// xattrs puts attributes of every size into the inode, a block, shared blocks
// and attribute inodes.
func (p *populator) xattrs() {
	d := p.mkdir("xattrs")
	file := func(name string) string {
		path := filepath.Join(d, name)
		p.write(path, []byte(name))
		return path
	}
	set := func(path, name string, value []byte) bool {
		return p.mayNotFit(fmt.Sprintf("attribute %.20s of %d bytes", name, len(value)), unix.Lsetxattr(path, name, value, 0))
	}
	sizes := []int64{0, 1, 2, 3, 4, 5, 31, 32, 33, 60, 64, 90, 100, 120, 200, 500, 900, 960, 1000, 2000, 3900, 4000, 5000, 20_000, 65_535, 65_536}
	if p.opt.Level == Tiny {
		sizes = []int64{0, 5, 200}
	}
	for _, n := range sizes {
		if p.opt.Staging && n > p.block-150 {
			break // the staging filesystem may have more room than the other
		}
		set(file(fmt.Sprintf("one-%d", n)), "user.value", p.data(n))
	}
	many := file("many")
	for i := range 24 {
		set(many, fmt.Sprintf("user.%s%d", strings.Repeat("n", i%7), i), p.data(int64(i%11)))
		if i%5 == 0 {
			set(many, fmt.Sprintf("trusted.t%d", i), p.data(int64(i)))
		}
	}
	set(many, "user."+strings.Repeat("l", 250), []byte("long name"))
	set(many, "user.ümlaut", []byte("name that is not ASCII"))
	for i := 0; i < 24; i += 3 {
		err := unix.Lremovexattr(many, fmt.Sprintf("user.%s%d", strings.Repeat("n", i%7), i))
		if err != unix.ENODATA {
			p.may("removing an attribute", err)
		}
	}
	shared, text := p.data(300), p.data(70)
	for i := range [...]int{Rich: 30, Small: 5, Tiny: 2}[p.opt.Level] {
		f := file(fmt.Sprintf("shared-%d", i))
		set(f, "user.shared", shared)
		set(f, "user.text", text)
		set(f, "trusted.shared", shared[:100])
	}
	dir := p.mkdir("xattrs", "dir")
	set(dir, "user.dir", p.data(40))
	link := filepath.Join(d, "symlink")
	p.must(os.Symlink("many", link))
	set(link, "trusted.on-symlink", p.data(40))
	slow := filepath.Join(d, "fast-symlink-with-block")
	p.must(os.Symlink("fast", slow))
	set(slow, "trusted.big", p.data(700))
	set(file("security"), "security.other", []byte("label"))
	p.capabilities(file("capability-v2"), file("capability-v3"))
	if p.opt.Level == Rich {
		p.manyValues(d, set)
	}
}

// manyValues fills one file with attributes that need a block and, with
// ea_inode, several inodes, and shares one large value among files.
func (p *populator) manyValues(d string, set func(path, name string, value []byte) bool) {
	full := filepath.Join(d, "full")
	p.write(full, nil)
	room := int64(1 << 20)
	if p.opt.Staging {
		room = p.block - 200
	}
	for i := range 40 {
		if room -= int64(60 + i + 32); room < 0 || !set(full, fmt.Sprintf("user.k%02d", i), p.data(int64(60+i))) {
			break
		}
	}
	if p.opt.Staging {
		return
	}
	value := p.data(30_000)
	for i := range 3 {
		f := filepath.Join(d, fmt.Sprintf("large-shared-%d", i))
		p.write(f, nil)
		if !set(f, "user.large", value) {
			return
		}
		for k := range 3 {
			set(f, fmt.Sprintf("user.large%d", k), p.data(int64(9000+k)))
		}
	}
}

// capabilities writes struct vfs_cap_data of revisions 2 and 3.
func (p *populator) capabilities(v2, v3 string) {
	le := binary.LittleEndian
	cap2 := le.AppendUint32(nil, 0x02000001)
	cap2 = append(cap2, bytes.Repeat([]byte{0x20, 0, 0, 0}, 4)...)
	cap3 := le.AppendUint32(nil, 0x03000000)
	cap3 = append(cap3, bytes.Repeat([]byte{0x01, 4, 0, 0}, 4)...)
	cap3 = le.AppendUint32(cap3, 100000)
	p.mayNotFit("capability v2", unix.Lsetxattr(v2, "security.capability", cap2, 0))
	p.mayNotFit("capability v3", unix.Lsetxattr(v3, "security.capability", cap3, 0))
}

// aclEntry is a struct posix_acl_xattr_entry.
type aclEntry struct {
	tag, perm uint16
	id        uint32
}

// encodeACL writes Linux's attribute form of a POSIX ACL.
func encodeACL(entries ...aclEntry) []byte {
	b := binary.LittleEndian.AppendUint32(nil, 2)
	for _, e := range entries {
		b = binary.LittleEndian.AppendUint16(b, e.tag)
		b = binary.LittleEndian.AppendUint16(b, e.perm)
		b = binary.LittleEndian.AppendUint32(b, e.id)
	}
	return b
}

func (p *populator) acls() {
	const userObj, user, groupObj, group, mask, other = 1, 2, 4, 8, 16, 32
	const none = 1<<32 - 1
	d := p.mkdir("acls")
	short := encodeACL(aclEntry{userObj, 7, none}, aclEntry{user, 7, 1000}, aclEntry{groupObj, 4, none},
		aclEntry{mask, 7, none}, aclEntry{other, 0, none})
	entries := []aclEntry{{userObj, 7, none}}
	for i := range uint32(20) {
		entries = append(entries, aclEntry{user, uint16(i % 8), 70_000 + i})
	}
	entries = append(entries, aclEntry{groupObj, 5, none}, aclEntry{group, 1, 5}, aclEntry{group, 6, 4_000_000_000},
		aclEntry{mask, 7, none}, aclEntry{other, 4, none})
	long := encodeACL(entries...)
	set := func(path, kind string, acl []byte) {
		p.mayNotFit("ACL", unix.Lsetxattr(path, "system.posix_acl_"+kind, acl, 0))
	}
	f := filepath.Join(d, "file")
	p.write(f, nil)
	set(f, "access", short)
	f = filepath.Join(d, "long")
	p.write(f, nil)
	set(f, "access", long)
	sub := p.mkdir("acls", "dir")
	set(sub, "default", short)
	set(sub, "access", long)
	p.write(filepath.Join(sub, "inherits"), []byte("x"))
	p.mkdir("acls", "dir", "inherits-too")
}

func (p *populator) times() {
	d := p.mkdir("times")
	seconds := []int64{
		-1 << 31, -1<<31 + 1, -1, 0, 1, 1<<31 - 1, 1 << 31, 1<<32 - 1, 1 << 32, 3 << 31, 1<<33 + 5,
		1<<34 - 1<<31 - 1, // the last second the format knows
		-1 << 40, 1 << 40, // clamped by the kernel
	}
	if p.opt.Level == Tiny {
		seconds = []int64{-1, 1 << 31}
	}
	for i, s := range seconds {
		name := filepath.Join(d, fmt.Sprintf("%d", s))
		p.write(name, nil)
		at := unix.Timespec{Sec: s, Nsec: [...]int64{0, 1, 999_999_999, 123_456_789}[i%4]}
		mt := unix.Timespec{Sec: s / 2, Nsec: int64(i)}
		p.must(unix.UtimesNanoAt(unix.AT_FDCWD, name, []unix.Timespec{at, mt}, unix.AT_SYMLINK_NOFOLLOW))
	}
	link := p.path("symlinks", "hello")
	old := unix.NsecToTimespec(time.Date(1955, 11, 5, 6, 15, 0, 7, time.UTC).UnixNano())
	p.must(unix.UtimesNanoAt(unix.AT_FDCWD, link, []unix.Timespec{old, old}, unix.AT_SYMLINK_NOFOLLOW))
	p.must(unix.UtimesNanoAt(unix.AT_FDCWD, d, []unix.Timespec{old, {Sec: 5e9, Nsec: 5}}, 0))
}

// The chattr flags of linux/fs.h that a user may set.
const (
	flagSecRm, flagUnRm, flagCompr, flagSync = 0x1, 0x2, 0x4, 0x8
	flagImmutable, flagAppend, flagNoDump    = 0x10, 0x20, 0x40
	flagNoAtime, flagJournalData, flagNoTail = 0x80, 0x4000, 0x8000
	flagDirSync, flagTopDir                  = 0x10000, 0x20000
)

func (p *populator) flags() {
	if p.opt.Staging {
		return // mke2fs -d does not copy them, and they hinder cleaning up
	}
	d := p.mkdir("flags")
	sets := map[string]int{
		"append": flagAppend, "immutable": flagImmutable, "nodump": flagNoDump, "noatime": flagNoAtime,
		"sync": flagSync, "undelete": flagUnRm, "secure": flagSecRm, "both": flagAppend | flagImmutable | flagNoDump,
		"journal": flagJournalData, "notail": flagNoTail, "compress": flagCompr,
	}
	if p.opt.Level == Tiny {
		sets = map[string]int{"append": flagAppend}
	}
	sub := p.mkdir("flags", "dir")
	for name := range sets {
		p.write(filepath.Join(d, name), []byte(name))
	}
	for name, flags := range sets {
		p.addFlags(filepath.Join(d, name), flags)
	}
	p.addFlags(sub, flagDirSync|flagTopDir|flagNoDump)
	if p.opt.Level == Rich {
		p.project(d)
	}
}

// addFlags sets chattr flags beside those the filesystem set itself.
func (p *populator) addFlags(path string, flags int) {
	f, err := os.Open(path)
	if err != nil {
		p.must(err)
		return
	}
	defer f.Close()
	old, err := unix.IoctlGetInt(int(f.Fd()), unix.FS_IOC_GETFLAGS)
	if p.may("FS_IOC_GETFLAGS", err) {
		p.may(fmt.Sprintf("chattr flags %#x", flags),
			unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, old|flags))
	}
}

// project sets a project id where the feature is on.
func (p *populator) project(d string) {
	const ioctlGet, ioctlSet = 0x801c581f, 0x401c5820 // FS_IOC_FSGETXATTR, FS_IOC_FSSETXATTR
	path := filepath.Join(d, "project")
	p.write(path, nil)
	var attr [28]byte // struct fsxattr; the project id is its fourth word
	if !p.may("FS_IOC_FSGETXATTR", ioctlPath(path, ioctlGet, unsafe.Pointer(&attr))) {
		return
	}
	binary.LittleEndian.PutUint32(attr[12:], 1234567)
	err := ioctlPath(path, ioctlSet, unsafe.Pointer(&attr))
	if err == unix.EINVAL {
		err = unix.EOPNOTSUPP // the answer of kernels without quota support
	}
	p.may("project id", err)
}
