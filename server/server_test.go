package server_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"ext4box/blockdev/blocktest"
	"ext4box/ext4"
	"ext4box/fuse"
	"ext4box/fuse/fusetest"
	"ext4box/internal/e2test"
	"ext4box/server"
)

// served is a filesystem behind the kernel of fusetest.
type served struct {
	*fusetest.Kernel
	fs   *ext4.FS
	path string
}

const content = "0123456789abcdef"

// serve makes an image, changes it with debugfs and serves it.
func serve(t *testing.T, cfg fusetest.Config, requests ...string) *served {
	t.Helper()
	files := map[string]string{"file": strings.Repeat(content, 1000), "dir/sub/deep": "deep", "empty": ""}
	for i := range 100 {
		files[fmt.Sprintf("many/entry number %03d", i)] = ""
	}
	tree := e2test.Tree(t, files)
	if err := os.Symlink("dir/sub", filepath.Join(tree, "link")); err != nil {
		t.Fatal(err)
	}
	path := e2test.Image(t, 8<<20, "-t", "ext4", "-b", "1024", "-L", "the label", "-d", tree)
	if len(requests) > 0 {
		e2test.Change(t, path, requests...)
	}
	dev, err := blocktest.LoadMem(path)
	if err != nil {
		t.Fatal(err)
	}
	dev.SetReadOnly(true)
	fs, err := ext4.Open(dev, ext4.Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { fs.Close() })
	s := server.New(fs, server.Options{})
	cfg.Options.Params = s.Params()
	return &served{Kernel: fusetest.Start(t, s, cfg), fs: fs, path: path}
}

// walk looks a path up name by name.
func (s *served) walk(t *testing.T, path string) fuse.EntryOut {
	t.Helper()
	e := fuse.EntryOut{NodeID: 1}
	for name := range strings.SplitSeq(path, "/") {
		var err error
		if e, err = s.Lookup(e.NodeID, name); err != nil || e.NodeID == 0 {
			t.Fatalf("%s: %+v, %v", path, e, err)
		}
	}
	return e
}

func TestNodeIDs(t *testing.T) {
	s := serve(t, fusetest.Config{})
	root, err := s.Getattr(1)
	if err != nil || root.Attr.Ino != 2 || root.Attr.Mode != syscall.S_IFDIR|0o755 {
		t.Errorf("root: %+v, %v", root.Attr, err)
	}
	file := s.walk(t, "file")
	ino, err := s.fs.Resolve("file")
	if err != nil || file.NodeID != uint64(ino) || file.Attr.Ino != uint64(ino) || file.Attr.Size != 16000 {
		t.Errorf("file: %+v, inode %d, %v", file, ino, err)
	}
	info := s.fs.Info()
	for _, bad := range []uint64{0, 2, 3, 4, 5, 6, 7, 8, 9, 10, uint64(info.Inodes) + 1, 1 << 31, 1<<32 + 1, 1<<32 | uint64(ino), ^uint64(0)} {
		if _, err := s.Getattr(bad); err != syscall.ESTALE {
			t.Errorf("attributes of node %d: %v", bad, err)
		}
		if _, err := s.Lookup(bad, "."); err != syscall.ESTALE {
			t.Errorf("lookup of . in node %d: %v", bad, err)
		}
		if _, err := s.Lookup(bad, "x"); err != syscall.ESTALE {
			t.Errorf("lookup in node %d: %v", bad, err)
		}
		if _, err := s.Read(bad, 0, 10); err != syscall.ESTALE {
			t.Errorf("read of node %d: %v", bad, err)
		}
	}
}

func TestLookup(t *testing.T) {
	s := serve(t, fusetest.Config{})
	absent, err := s.Lookup(1, "absent")
	if err != nil || absent.NodeID != 0 || absent.EntryValid < 1<<30 {
		t.Errorf("an absent name is not cached: %+v, %v", absent, err)
	}
	e := s.walk(t, "dir/sub/deep")
	if e.EntryValid < 1<<30 || e.AttrValid < 1<<30 {
		t.Errorf("a name is kept for %d s, attributes for %d s", e.EntryValid, e.AttrValid)
	}
	if _, err := s.Lookup(e.NodeID, "x"); err != syscall.ENOTDIR {
		t.Errorf("a name in a file: %v", err)
	}
	if _, err := s.Lookup(1, strings.Repeat("n", 256)); err != syscall.ENAMETOOLONG {
		t.Errorf("a long name: %v", err)
	}
	// As an NFS server does after the kernel has forgotten everything.
	sub := s.walk(t, "dir/sub")
	for range 2 {
		if up, err := s.Lookup(sub.NodeID, ".."); err != nil || up.NodeID != s.walk(t, "dir").NodeID {
			t.Errorf("..: %+v, %v", up, err)
		}
		if self, err := s.Lookup(e.NodeID, "."); err != nil || self.NodeID != e.NodeID || self.Generation != e.Generation {
			t.Errorf(".: %+v, %v", self, err)
		}
		if err := s.Forget(sub.NodeID, 2); err != nil {
			t.Fatal(err)
		}
		if err := s.BatchForget(fuse.ForgetOne{NodeID: e.NodeID, Nlookup: 3}); err != nil {
			t.Fatal(err)
		}
	}
	top, err := s.Lookup(s.walk(t, "dir").NodeID, "..")
	if err != nil || top.NodeID != 1 {
		t.Errorf(".. of a directory in the root is node %d, %v", top.NodeID, err)
	}
	if up, err := s.Lookup(1, ".."); err != nil || up.NodeID != 1 {
		t.Errorf(".. of the root is node %d, %v", up.NodeID, err)
	}
}

// TestGeneration comes from the inode, so that handles do not outlive it.
func TestGeneration(t *testing.T) {
	s := serve(t, fusetest.Config{}, "sif file generation 0xcafe1234")
	if e := s.walk(t, "file"); e.Generation != 0xcafe1234 {
		t.Errorf("generation %#x", e.Generation)
	}
}

// TestDamagedEntries has names that lead to what is not a file.
func TestDamagedEntries(t *testing.T) {
	s := serve(t, fusetest.Config{}, "link <8> journal", "link <2> root", "link <13> gone", "sif <13> links_count 0", "sif <13> dtime 1")
	for _, name := range []string{"journal", "root", "gone"} {
		if e, err := s.Lookup(1, name); err != syscall.EUCLEAN {
			t.Errorf("%s: node %d, %v", name, e.NodeID, err)
		}
	}
	// The listing shows the names all the same, without attributes.
	list, err := s.Readdirplus(1, 0, 65536)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range list {
		if damaged := d.Name == "journal" || d.Name == "root" || d.Name == "gone"; damaged != (d.Entry.NodeID == 0) && d.Name != "." && d.Name != ".." && d.Ino != 13 {
			t.Errorf("%s: node %d", d.Name, d.Entry.NodeID)
		}
	}
	if _, err := s.Lookup(13, "."); err != syscall.ESTALE {
		t.Errorf("a handle of a deleted inode: %v", err)
	}
}

// TestNoMessages are the answers after which the kernel asks no more.
func TestNoMessages(t *testing.T) {
	s := serve(t, fusetest.Config{})
	if _, err := s.Open(s.walk(t, "file").NodeID, 0); err != syscall.ENOSYS {
		t.Errorf("OPEN: %v", err)
	}
	if _, err := s.Opendir(1); err != syscall.ENOSYS {
		t.Errorf("OPENDIR: %v", err)
	}
	for op, size := range map[fuse.Opcode]int{fuse.OpFlush: 24, fuse.OpAccess: 8} {
		if err := s.Do(op, 1, make([]byte, size)).Err(); err != syscall.ENOSYS {
			t.Errorf("%v: %v", op, err)
		}
	}
	if err := s.Do(fuse.OpFsync, 1, make([]byte, 16)).Err(); err != nil && err != syscall.ENOSYS {
		t.Errorf("FSYNC: %v", err)
	}
	want := fuse.InitNoOpenSupport | fuse.InitNoOpendirSupport | fuse.InitExportSupport | fuse.InitDoReaddirplus | fuse.InitPosixACL |
		fuse.InitCacheSymlinks | fuse.InitParallelDirops
	if got := s.Protocol.InitFlags(); got&want != want {
		t.Errorf("negotiated %#x, which lacks %#x", got, want&^got)
	}
}

// TestChangesAreRefused: the image is read-only, and that is what callers hear.
func TestChangesAreRefused(t *testing.T) {
	s := serve(t, fusetest.Config{})
	file := s.walk(t, "file").NodeID
	zeros := func(n int) []byte { return make([]byte, n) }
	_, setattr := s.Setattr(file, fuse.SetattrIn{Valid: 1, Mode: 0o600})
	_, write := s.Write(file, 0, []byte("x"))
	_, mkdir := s.Mkdir(1, "new", 0o755)
	_, _, create := s.Create(1, "new", fuse.CreateIn{Flags: syscall.O_RDWR | syscall.O_CREAT})
	for name, err := range map[string]error{
		"SETATTR": setattr, "WRITE": write, "MKDIR": mkdir, "CREATE": create, "UNLINK": s.Unlink(1, "file"), "RENAME": s.Rename(1, "file", 1, "new", 0),
		"RMDIR": s.Do(fuse.OpRmdir, 1, fusetest.CString("dir")).Err(), "SETXATTR": s.Setxattr(file, "user.a", []byte("v"), 0),
		"REMOVEXATTR": s.Do(fuse.OpRemovexattr, file, fusetest.CString("user.a")).Err(),
		"SYMLINK":     s.Do(fuse.OpSymlink, 1, fusetest.CString("new"), fusetest.CString("target")).Err(),
		"MKNOD":       s.Do(fuse.OpMknod, 1, zeros(16), fusetest.CString("new")).Err(),
		"LINK":        s.Do(fuse.OpLink, 1, zeros(8), fusetest.CString("new")).Err(),
		"FALLOCATE":   s.Do(fuse.OpFallocate, file, zeros(32)).Err(),
	} {
		if err != syscall.EROFS {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestRead(t *testing.T) {
	s := serve(t, fusetest.Config{})
	file := s.walk(t, "file").NodeID
	all := strings.Repeat(content, 1000)
	for _, c := range []struct {
		off  uint64
		size uint32
		want string
	}{
		{0, 4096, all[:4096]}, {15000, 4096, all[15000:]}, {16000, 4096, ""}, {1 << 40, 10, ""}, {3, 5, all[3:8]}, {0, 131072, all}, {0, 0, ""},
	} {
		if got, err := s.Read(file, c.off, c.size); err != nil || string(got) != c.want {
			t.Errorf("read of %d at %d: %d bytes, %v; want %d", c.size, c.off, len(got), err, len(c.want))
		}
	}
	if _, err := s.Read(file, 1<<63, 10); err != syscall.EINVAL {
		t.Errorf("read behind 2^63: %v", err)
	}
	if _, err := s.Read(1, 0, 10); err != syscall.EISDIR {
		t.Errorf("read of a directory: %v", err)
	}
	if got, err := s.Readlink(s.walk(t, "link").NodeID); err != nil || got != "dir/sub" {
		t.Errorf("link: %q, %v", got, err)
	}
	if _, err := s.Readlink(file); err != syscall.EINVAL {
		t.Errorf("link target of a file: %v", err)
	}
	for _, c := range []struct {
		in   fuse.LseekIn
		want uint64
		err  error
	}{
		{fuse.LseekIn{Offset: 5, Whence: 3}, 5, nil}, {fuse.LseekIn{Whence: 4}, 16000, nil}, {fuse.LseekIn{Offset: 16000, Whence: 3}, 0, syscall.ENXIO},
		{fuse.LseekIn{Offset: 1 << 63, Whence: 3}, 0, syscall.ENXIO}, {fuse.LseekIn{Whence: 0}, 0, syscall.EINVAL},
	} {
		r := s.Do(fuse.OpLseek, file, fusetest.Bytes(&c.in))
		if err := r.Err(); err != c.err || err == nil && fusetest.Value[fuse.LseekOut](r.Payload).Offset != c.want {
			t.Errorf("lseek %+v: %x, %v", c.in, r.Payload, err)
		}
	}
}

// TestReaddir lists a directory with replies of different sizes, from one that
// holds one entry on.
func TestReaddir(t *testing.T) {
	s := serve(t, fusetest.Config{})
	dir := s.walk(t, "many").NodeID
	for _, plus := range []bool{false, true} {
		for _, size := range []uint32{220, 500, 4096, 131072} {
			seen := map[string]int{}
			pos := uint64(0)
			for range 1000 {
				list, err := s.Readdir(dir, pos, size)
				if plus {
					list, err = s.Readdirplus(dir, pos, size)
				}
				if err != nil {
					t.Fatal(err)
				}
				if len(list) == 0 {
					break
				}
				for _, d := range list {
					seen[d.Name]++
					pos = d.Next
					if dot := d.Name == "." || d.Name == ".."; plus && !dot {
						if d.Entry.NodeID != d.Ino || d.Entry.Attr.Ino != d.Ino || d.Entry.Attr.Mode>>12 != d.Type || d.Entry.EntryValid < 1<<30 {
							t.Errorf("%s: %+v", d.Name, d)
						}
					} else if d.Entry.NodeID != 0 {
						t.Errorf("%s counts as looked up", d.Name)
					}
				}
			}
			if len(seen) != 102 || seen["entry number 042"] != 1 || seen["."] != 1 || seen[".."] != 1 {
				t.Errorf("replies of %d, plus %v: %d names", size, plus, len(seen))
			}
		}
	}
	for _, pos := range []uint64{1 << 62, 1 << 63, ^uint64(0)} {
		if list, err := s.Readdir(dir, pos, 4096); err != nil || len(list) != 0 {
			t.Errorf("from %d: %d entries, %v", pos, len(list), err)
		}
	}
	if _, err := s.Readdir(s.walk(t, "file").NodeID, 0, 4096); err != syscall.ENOTDIR {
		t.Errorf("entries of a file: %v", err)
	}
}

// TestXattrProtocol asks for sizes, gets values, and has too little room.
func TestXattrProtocol(t *testing.T) {
	s := serve(t, fusetest.Config{}, "ea_set file user.a value", "ea_set file trusted.t secret", "ea_set file user.empty \"\"")
	file := s.walk(t, "file").NodeID
	size := func(r []byte) uint32 { return binary.NativeEndian.Uint32(r) }
	if r, err := s.Getxattr(file, "user.a", 0); err != nil || len(r) != 8 || size(r) != 5 {
		t.Errorf("size: %x, %v", r, err)
	}
	if r, err := s.Getxattr(file, "user.a", 5); err != nil || string(r) != "value" {
		t.Errorf("value: %q, %v", r, err)
	}
	if r, err := s.Getxattr(file, "user.a", 65536); err != nil || string(r) != "value" {
		t.Errorf("value with room: %q, %v", r, err)
	}
	if _, err := s.Getxattr(file, "user.a", 4); err != syscall.ERANGE {
		t.Errorf("too little room: %v", err)
	}
	if _, err := s.Getxattr(file, "user.b", 0); err != syscall.ENODATA {
		t.Errorf("absent: %v", err)
	}
	if _, err := s.Getxattr(file, "nonsense", 0); err != syscall.EOPNOTSUPP {
		t.Errorf("no such namespace: %v", err)
	}
	if _, err := s.Getxattr(file, "system.posix_acl_access", 0); err != syscall.ENODATA {
		t.Errorf("no ACL: %v", err)
	}
	for _, c := range []struct {
		room uint32
		err  error
	}{{0, nil}, {1000, nil}, {3, syscall.ERANGE}} {
		r := s.Do(fuse.OpListxattr, file, fusetest.Bytes(&[2]uint32{c.room}))
		switch {
		case r.Err() != c.err:
			t.Errorf("names with room for %d: %v", c.room, r.Err())
		case c.room == 1000:
			if got := sorted(r.Payload); !slices.Equal(got, []string{"trusted.t", "user.a", "user.empty"}) {
				t.Errorf("names %q", got)
			}
		case c.room == 0:
			if n := size(r.Payload); n != uint32(len("trusted.t")+len("user.a")+len("user.empty")+3) {
				t.Errorf("names take %d bytes", n)
			}
		}
	}
}

func sorted(list []byte) []string {
	names := strings.Split(strings.TrimSuffix(string(list), "\x00"), "\x00")
	slices.Sort(names)
	return names
}

// TestTrustedXattrs are listed for root only.
func TestTrustedXattrs(t *testing.T) {
	s := serve(t, fusetest.Config{UID: 1000, GID: 1000}, "ea_set file user.a value", "ea_set file trusted.t secret")
	file := s.walk(t, "file").NodeID
	r := s.Do(fuse.OpListxattr, file, fusetest.Bytes(&[2]uint32{1000}))
	if got := sorted(r.Payload); r.Err() != nil || !slices.Equal(got, []string{"user.a"}) {
		t.Errorf("names %q, %v", got, r.Err())
	}
	r = s.Do(fuse.OpListxattr, file, fusetest.Bytes(&[2]uint32{0}))
	if n := binary.NativeEndian.Uint32(r.Payload); n != 7 {
		t.Errorf("names take %d bytes", n)
	}
}

func TestAttributes(t *testing.T) {
	s := serve(t, fusetest.Config{}, "sif file atime 0x80000000", "sif file atime_extra 0x5", "sif file crtime 1000", "sif file crtime_extra 0",
		"sif file flags 0x80030", "mknod dev b 8 17", "sif file uid 70000", "sif file gid 80000")
	file := s.walk(t, "file")
	a := file.Attr
	if a.Mode != syscall.S_IFREG|0o644 || a.Nlink != 1 || a.UID != 70000 || a.GID != 80000 || a.Blksize != 1024 || a.Blocks != 32 ||
		int64(a.Atime) != 1<<31 || a.AtimeNsec != 1 {
		t.Errorf("attributes %+v", a)
	}
	x, err := s.Statx(file.NodeID, 0xFFF)
	if err != nil {
		t.Fatal(err)
	}
	const immutable, appendOnly = 0x10, 0x20
	if x.Stat.Btime.Sec != 1000 || x.Stat.Mask&0x800 == 0 || x.Stat.Attributes&(immutable|appendOnly) != immutable|appendOnly ||
		x.Stat.Size != 16000 || x.Stat.Ino != a.Ino || x.Stat.Atime.Sec != 1<<31 || uint32(x.Stat.Mode) != a.Mode {
		t.Errorf("statx %+v", x.Stat)
	}
	dev := s.walk(t, "dev").Attr
	if dev.Rdev != fuse.EncodeDev(8, 17) || dev.Mode&syscall.S_IFMT != syscall.S_IFBLK {
		t.Errorf("device %+v", dev)
	}
	st, err := s.Statfs()
	want, wantErr := s.fs.Statfs()
	if err != nil || wantErr != nil || st.Blocks != want.Blocks || st.Bfree != want.BlocksFree || st.Bavail != want.BlocksAvail ||
		st.Files != want.Files || st.Ffree != want.FilesFree || st.Bsize != 1024 || st.Frsize != 1024 || st.Namelen != 255 {
		t.Errorf("statfs %+v, %v; want %+v", st, err, want)
	}
}

// TestIoctls are those of lsattr.
func TestIoctls(t *testing.T) {
	s := serve(t, fusetest.Config{}, "sif file flags 0x80030", "sif file generation 77", "sif file projid 42")
	file := s.walk(t, "file").NodeID
	ioctl := func(cmd, size uint32) ([]byte, error) {
		in := fuse.IoctlIn{Cmd: cmd, OutSize: size}
		r := s.Do(fuse.OpIoctl, file, fusetest.Bytes(&in))
		if r.Err() != nil {
			return nil, r.Err()
		}
		return r.Payload[len(fusetest.Bytes(new(fuse.IoctlOut))):], nil
	}
	le := binary.NativeEndian
	if b, err := ioctl(0x80086601, 8); err != nil || le.Uint32(b) != 0x80030 {
		t.Errorf("flags: %x, %v", b, err)
	}
	if b, err := ioctl(0x80087601, 8); err != nil || le.Uint32(b) != 77 {
		t.Errorf("version: %x, %v", b, err)
	}
	if b, err := ioctl(0x801C581F, 28); err != nil || le.Uint32(b) != 0x18 || le.Uint32(b[12:]) != 42 {
		t.Errorf("fsxattr: %x, %v", b, err)
	}
	if b, err := ioctl(0x81009431, 256); err != nil || !strings.HasPrefix(string(b), "the label\x00") {
		t.Errorf("label: %q, %v", b, err)
	}
	if b, err := ioctl(0x80086601, 2); err != nil || len(b) > 2 {
		t.Errorf("flags with too little room: %x, %v", b, err)
	}
	if _, err := ioctl(0x12345678, 8); err != syscall.ENOTTY {
		t.Errorf("unknown: %v", err)
	}
}

// TestConcurrentRequests goes through the socket with several readers.
func TestConcurrentRequests(t *testing.T) {
	s := serve(t, fusetest.Config{Socket: true})
	var group sync.WaitGroup
	for range 6 {
		group.Go(func() {
			for i := range 40 {
				name := fmt.Sprintf("entry number %03d", i)
				dir, err := s.Lookup(1, "many")
				if err != nil {
					t.Error(err)
					return
				}
				if e, err := s.Lookup(dir.NodeID, name); err != nil || e.NodeID == 0 {
					t.Errorf("%s: %v", name, err)
				}
				if list, err := s.Readdirplus(dir.NodeID, 0, 65536); err != nil || len(list) != 102 {
					t.Errorf("%d entries, %v", len(list), err)
				}
			}
		})
	}
	group.Wait()
}

// TestDeviceErrors become EIO, and the session lives on.
func TestDeviceErrors(t *testing.T) {
	good := serve(t, fusetest.Config{})
	mem, err := blocktest.LoadMem(good.path)
	if err != nil {
		t.Fatal(err)
	}
	dev := blocktest.NewFailing(mem)
	fs, err := ext4.Open(dev, ext4.Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	s := server.New(fs, server.Options{})
	k := fusetest.Start(t, s, fusetest.Config{Options: fuse.Options{Params: s.Params()}})
	file, err := k.Lookup(1, "file")
	if err != nil {
		t.Fatal(err)
	}
	dev.Add(blocktest.Rule{Ops: blocktest.Read})
	if _, err := k.Read(file.NodeID, 0, 4096); err != syscall.EIO {
		t.Errorf("read: %v", err)
	}
	dir, err := k.Lookup(1, "many")
	if err == nil {
		_, err = k.Readdir(dir.NodeID, 0, 4096)
	}
	if err != syscall.EIO {
		t.Errorf("readdir: %v", err)
	}
	dev.Clear()
	if _, err := k.Read(file.NodeID, 0, 4096); err != nil {
		t.Errorf("read after the device has recovered: %v", err)
	}
	if !errors.Is(fs.Close(), nil) {
		t.Error("close failed")
	}
}
