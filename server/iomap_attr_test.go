package server_test

import (
	"encoding/binary"
	"errors"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ext4box/ext4"
	"ext4box/fuse"
	"ext4box/fuse/fusetest"
	"ext4box/server"
)

const owned = fuse.AttrExclusive | fuse.AttrIomap

// TestIomapEntryFlags: every answer that introduces an inode says that it is the kernel's alone.
func TestIomapEntryFlags(t *testing.T) {
	b := serveBare(t, bareConfig{prepare: func(t *testing.T, fs *ext4.FS) {
		someFiles(t, fs)
		for name, flags := range map[string]uint32{"sync": ext4.FlagSync, "immutable": ext4.FlagImmutable, "append": ext4.FlagAppend} {
			ino, err := fs.Create(ext4.RootIno, name, ext4.NewNode{Mode: syscall.S_IFREG | 0o644})
			if err != nil {
				t.Fatal(err)
			}
			st, err := fs.Stat(ino)
			if flags |= st.Flags; err == nil {
				err = fs.SetAttr(ino, ext4.Attr{Flags: &flags})
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}})
	regular := owned | fuse.AttrAtomic
	for name, want := range map[string]fuse.AttrFlags{
		"file": regular, "sparse": regular, "dir": owned, "sync": regular | fuse.AttrSync, "immutable": regular | fuse.AttrImmutable,
		"append": regular | fuse.AttrAppend,
	} {
		if got := b.node(name).Attr.Flags; got != want {
			t.Errorf("LOOKUP of %s: flags %#x, want %#x", name, got, want)
		}
	}
	entry := func(what string, e fuse.EntryOut, err error, want fuse.AttrFlags) {
		t.Helper()
		if err != nil || e.NodeID == 0 || e.Attr.Flags != want || e.Attr.Ino != e.NodeID || e.AttrValid < 10 || e.EntryValid < 10 {
			t.Errorf("%s: %+v, %v; want flags %#x", what, e, err, want)
		}
	}
	e, open, err := b.Create(1, "created", fuse.CreateIn{Flags: syscall.O_RDWR, Mode: syscall.S_IFREG | 0o644})
	entry("CREATE", e, err, regular)
	if open.OpenFlags&fuse.OpenKeepCache == 0 || open.OpenFlags&^(fuse.OpenKeepCache|fuse.OpenNoflush) != 0 {
		t.Errorf("CREATE opens with %#x", open.OpenFlags)
	}
	r := b.Do(fuse.OpTmpfile, 1, fusetest.Bytes(&fuse.CreateIn{Flags: syscall.O_RDWR, Mode: syscall.S_IFREG | 0o644}), fusetest.CString("x"))
	entry("TMPFILE", fusetest.Value[fuse.EntryOut](r.Payload), r.Err(), regular)
	r = b.Do(fuse.OpMknod, 1, fusetest.Bytes(&fuse.MknodIn{Mode: syscall.S_IFREG | 0o644}), fusetest.CString("made"))
	entry("MKNOD", fusetest.Value[fuse.EntryOut](r.Payload), r.Err(), regular)
	r = b.Do(fuse.OpMknod, 1, fusetest.Bytes(&fuse.MknodIn{Mode: syscall.S_IFIFO | 0o644}), fusetest.CString("fifo"))
	entry("MKNOD of a pipe", fusetest.Value[fuse.EntryOut](r.Payload), r.Err(), owned)
	r = b.Do(fuse.OpSymlink, 1, fusetest.CString("link"), fusetest.CString("target"))
	entry("SYMLINK", fusetest.Value[fuse.EntryOut](r.Payload), r.Err(), owned)
	r = b.Do(fuse.OpLink, 1, fusetest.Bytes(&fuse.LinkIn{OldNodeID: e.NodeID}), fusetest.CString("second"))
	second := fusetest.Value[fuse.EntryOut](r.Payload)
	entry("LINK", second, r.Err(), regular)
	if second.NodeID != e.NodeID {
		t.Errorf("a link is node %d, the file %d", second.NodeID, e.NodeID)
	}
	d, err := b.Mkdir(1, "made dir", 0o755)
	entry("MKDIR", d, err, owned)
	list, err := b.Readdirplus(1, 0, 65536)
	if err != nil || len(list) < 12 {
		t.Errorf("READDIRPLUS: %d entries, %v", len(list), err)
	}
	for _, d := range list {
		if d.Name != "." && d.Name != ".." && (d.Entry.Attr.Flags&owned != owned || d.Type == unix.DT_REG && d.Entry.Attr.Flags&fuse.AttrAtomic == 0) {
			t.Errorf("READDIRPLUS: %s has flags %#x", d.Name, d.Entry.Attr.Flags)
		}
	}
	for _, name := range []string{".", ".."} {
		if root, err := b.Lookup(1, name); err != nil || root.NodeID != 1 || root.Attr.Flags != 0 {
			t.Errorf("the root directory as %s: %+v, %v", name, root, err)
		}
	}
	if up, err := b.Lookup(d.NodeID, ".."); err != nil || up.NodeID != 1 || up.Attr.Flags != 0 {
		t.Errorf("the root directory from below: %+v, %v", up, err)
	}
	b.finish(t)
}

// TestIomapEncrypted: what nobody here has a key for has no mappings, and the log says so once.
func TestIomapEncrypted(t *testing.T) {
	// EXT4_ENCRYPT_FL in files that were written without: their content does not matter.
	b := serveBare(t, bareConfig{
		mke2fs:  []string{"-t", "ext4", "-b", "4096", "-O", "encrypt"},
		debugfs: []string{"write /dev/null secret", "sif secret flags 0x80800", "write /dev/null hidden", "sif hidden flags 0x80800"},
	})
	for _, name := range []string{"secret", "hidden"} {
		e := b.node(name)
		if e.Attr.Flags != fuse.AttrExclusive {
			t.Errorf("%s: flags %#x", name, e.Attr.Flags)
		}
		if _, err := b.Read(e.NodeID, 0, 4096); err != nil && err != syscall.ENOKEY {
			t.Errorf("READ: %v", err)
		}
		if _, _, err := b.begin(e.NodeID, 0, 4096, 0); err == nil {
			t.Error("BEGIN of an encrypted file")
		}
	}
	if n := countLines(b.log.String(), "encrypted"); n == 0 || countLines(b.log.String(), "level=INFO msg=\"data of a file") != 1 {
		t.Errorf("logged: %s", b.log)
	}
}

func TestIomapOpen(t *testing.T) {
	b := serveBare(t, bareConfig{prepare: someFiles})
	e := b.node("file")
	for _, flags := range []uint32{syscall.O_RDONLY, syscall.O_RDWR, syscall.O_WRONLY | syscall.O_APPEND} {
		if _, err := b.Open(e.NodeID, flags); err != syscall.ENOSYS {
			t.Errorf("OPEN: %v", err)
		}
	}
	for op, in := range map[fuse.Opcode][]byte{
		fuse.OpFlush: fusetest.Bytes(&fuse.FlushIn{}), fuse.OpOpendir: fusetest.Bytes(&fuse.OpenIn{}), fuse.OpLseek: fusetest.Bytes(&fuse.LseekIn{Whence: ext4.SeekData}),
		fuse.OpIomapEnd: fusetest.Bytes(&fuse.IomapEndIn{Ino: e.NodeID}),
	} {
		if err := b.Do(op, e.NodeID, in).Err(); err != syscall.ENOSYS {
			t.Errorf("%v: %v", op, err)
		}
	}
	// Of a file that CREATE opened.
	if err := b.Do(fuse.OpRelease, e.NodeID, fusetest.Bytes(&fuse.ReleaseIn{Flags: syscall.O_RDWR})).Err(); err != nil {
		t.Errorf("RELEASE: %v", err)
	}
	in := fuse.CopyFileRangeIn{NodeIDOut: b.node("empty").NodeID, Len: 100}
	if err := b.Do(fuse.OpCopyFileRange, e.NodeID, fusetest.Bytes(&in)).Err(); err != syscall.ENOSYS {
		t.Errorf("COPY_FILE_RANGE: %v", err)
	}
}

// TestIomapSetattr: what is stored is what was sent, and nothing else.
func TestIomapSetattr(t *testing.T) {
	b := serveBare(t, bareConfig{prepare: someFiles, uid: 1000})
	file := b.node("file")
	past := time.Unix(1e9, 123456789)
	stat := func(nodeid uint64) ext4.Stat {
		t.Helper()
		st, err := b.fs.Stat(ext4.Ino(nodeid))
		if err != nil {
			t.Fatal(err)
		}
		return st
	}
	set := func(nodeid uint64, in fuse.SetattrIn) fuse.Attr {
		t.Helper()
		out, err := b.Setattr(nodeid, in)
		if err != nil {
			t.Fatalf("SETATTR %#x: %v", in.Valid, err)
		}
		return out.Attr
	}
	// The times of a write, long after it happened.
	set(file.NodeID, fuse.SetattrIn{
		Valid: fuse.SetattrAtime | fuse.SetattrMtime | fuse.SetattrCtime,
		Atime: 1e9, AtimeNsec: 123456789, Mtime: 1e9, MtimeNsec: 123456789, Ctime: 1e9, CtimeNsec: 123456789,
	})
	if st := stat(file.NodeID); !st.Atime.Equal(past) || !st.Mtime.Equal(past) || !st.Ctime.Equal(past) {
		t.Errorf("times: %v, %v, %v", st.Atime, st.Mtime, st.Ctime)
	}
	// Set-user-id stays if nobody says otherwise.
	set(file.NodeID, fuse.SetattrIn{Valid: fuse.SetattrMode, Mode: 0o6755})
	if st := stat(file.NodeID); st.Mode&0o7777 != 0o6755 || !st.Ctime.Equal(past) {
		t.Errorf("mode %#o, ctime %v", st.Mode, st.Ctime)
	}
	set(file.NodeID, fuse.SetattrIn{Valid: fuse.SetattrUID | fuse.SetattrGID, UID: 7, GID: 8})
	if st := stat(file.NodeID); st.Mode&0o7777 != 0o6755 || st.UID != 7 || st.GID != 8 || !st.Ctime.Equal(past) {
		t.Errorf("after chown: %+v", st)
	}
	a := set(file.NodeID, fuse.SetattrIn{Valid: fuse.SetattrSize | fuse.SetattrMtime | fuse.SetattrCtime | fuse.SetattrKillSuidgid, Size: 5000, Mtime: 1e9 + 1, Ctime: 1e9 + 2})
	if st := stat(file.NodeID); a.Size != 5000 || st.Size != 5000 || st.Mtime.Unix() != 1e9+1 || st.Ctime.Unix() != 1e9+2 || st.Mode&0o7777 != 0o6755 {
		t.Errorf("after truncate: %+v", st)
	}
	a = set(file.NodeID, fuse.SetattrIn{Valid: fuse.SetattrSize, Size: 20000})
	if st := stat(file.NodeID); a.Size != 20000 || st.Size != 20000 || st.Mtime.Unix() != 1e9+1 || st.Ctime.Unix() != 1e9+2 {
		t.Errorf("after truncate without times: %+v", st)
	}
	if got := a.Flags; got != 0 {
		t.Errorf("an answer that introduces nothing has flags %#x", got)
	}
	// Of a directory the times are the server's.
	dir := b.node("dir")
	set(dir.NodeID, fuse.SetattrIn{Valid: fuse.SetattrCtime, Ctime: 1e9, CtimeNsec: 123456789})
	set(dir.NodeID, fuse.SetattrIn{Valid: fuse.SetattrMode, Mode: 0o700})
	if st := stat(dir.NodeID); st.Mode&0o7777 != 0o700 || !st.Ctime.After(past) {
		t.Errorf("directory: %+v", st)
	}
	// It would grow beyond what a file can have, or what is not a number of bytes.
	for _, size := range []uint64{1 << 62, 1<<63 - 1, 1 << 63, ^uint64(0)} {
		if _, err := b.Setattr(file.NodeID, fuse.SetattrIn{Valid: fuse.SetattrSize, Size: size}); err != syscall.EFBIG && err != syscall.EINVAL {
			t.Errorf("size %#x: %v", size, err)
		}
	}
	if _, err := b.Setattr(dir.NodeID, fuse.SetattrIn{Valid: fuse.SetattrSize}); err != syscall.EISDIR && err != syscall.EINVAL {
		t.Errorf("truncate of a directory: %v", err)
	}
	b.finish(t)
}

// acl is a POSIX ACL in the form of its attribute.
func acl(entries ...[3]uint32) []byte {
	b := binary.LittleEndian.AppendUint32(nil, 2)
	for _, e := range entries {
		b = binary.LittleEndian.AppendUint16(b, uint16(e[0]))
		b = binary.LittleEndian.AppendUint16(b, uint16(e[1]))
		b = binary.LittleEndian.AppendUint32(b, e[2])
	}
	return b
}

var (
	anyID = ^uint32(0)
	// rwx for the owner, r-x for user 5, the mask rwx, nothing for others.
	someACL = acl([3]uint32{1, 7, anyID}, [3]uint32{2, 5, 5}, [3]uint32{4, 5, anyID}, [3]uint32{0x10, 7, anyID}, [3]uint32{0x20, 0, anyID})
)

// TestIomapACL: the kernel keeps ACL and mode in step, except in the root directory, of which it does not
// know that it is alone with it.
func TestIomapACL(t *testing.T) {
	b := serveBare(t, bareConfig{prepare: someFiles})
	const access, byDefault = "system.posix_acl_access", "system.posix_acl_default"
	file, dir := b.node("file"), b.node("dir")
	before, err := b.fs.Stat(ext4.Ino(file.NodeID))
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Setxattr(file.NodeID, access, someACL, 0); err != nil {
		t.Fatal(err)
	}
	st, err := b.fs.Stat(ext4.Ino(file.NodeID))
	if err != nil || st.Mode != before.Mode || !st.Ctime.Equal(before.Ctime) {
		t.Errorf("an ACL changes mode %#o to %#o, ctime %v to %v; %v", before.Mode, st.Mode, before.Ctime, st.Ctime, err)
	}
	if _, err := b.Setattr(file.NodeID, fuse.SetattrIn{Valid: fuse.SetattrMode, Mode: 0o600}); err != nil {
		t.Error(err)
	}
	if got, err := b.Getxattr(file.NodeID, access, 1024); err != nil || string(got) != string(someACL) {
		t.Errorf("the mode changes the ACL to %x, %v", got, err)
	}
	for _, want := range []error{nil, syscall.ENODATA} {
		if err := b.Do(fuse.OpRemovexattr, file.NodeID, fusetest.CString(access)).Err(); !errors.Is(err, want) {
			t.Errorf("REMOVEXATTR: %v, want %v", err, want)
		}
	}

	// What is made in a directory with a default ACL: elsewhere as sent, in the root as the ACL says.
	for _, parent := range []uint64{dir.NodeID, 1} {
		if err := b.Setxattr(parent, byDefault, someACL, 0); err != nil {
			t.Fatal(err)
		}
		e, _, err := b.Create(parent, "heir", fuse.CreateIn{Flags: syscall.O_RDWR, Mode: syscall.S_IFREG | 0o666, Umask: 0o022})
		if err != nil {
			t.Fatal(err)
		}
		_, err = b.Getxattr(e.NodeID, access, 1024)
		mode := e.Attr.Mode & 0o7777
		if parent == 1 && (mode != 0o660 || err != nil) || parent != 1 && (mode != 0o666 || err != syscall.ENODATA) {
			t.Errorf("made in node %d: mode %#o, ACL %v", parent, mode, err)
		}
	}
	if err := b.Do(fuse.OpRemovexattr, 1, fusetest.CString(byDefault)).Err(); err != nil {
		t.Fatal(err)
	}
	for _, parent := range []uint64{dir.NodeID, 1} {
		if parent != 1 {
			if err := b.Do(fuse.OpRemovexattr, parent, fusetest.CString(byDefault)).Err(); err != nil {
				t.Fatal(err)
			}
		}
		e, _, err := b.Create(parent, "masked", fuse.CreateIn{Flags: syscall.O_RDWR, Mode: syscall.S_IFREG | 0o666, Umask: 0o022})
		want := uint32(0o644)
		if parent != 1 {
			want = 0o666
		}
		if err != nil || e.Attr.Mode&0o7777 != want {
			t.Errorf("made in node %d with umask 022: mode %#o, %v; want %#o", parent, e.Attr.Mode, err, want)
		}
	}
	// The mode of the root follows its ACL, as ever.
	if err := b.Setxattr(1, access, someACL, 0); err != nil {
		t.Fatal(err)
	}
	if root, err := b.Getattr(1); err != nil || root.Attr.Mode&0o7777 != 0o770 {
		t.Errorf("the root has mode %#o, %v", root.Attr.Mode, err)
	}
	b.finish(t)
}

// TestIomapWithoutACLs: without them the kernel inherits nothing, and leaves the umask to the server.
func TestIomapWithoutACLs(t *testing.T) {
	b := serveBare(t, bareConfig{prepare: someFiles, kernel: func(k *fusetest.Config) { k.Options.Params.Flags &^= fuse.InitPosixACL }})
	e, _, err := b.Create(b.node("dir").NodeID, "masked", fuse.CreateIn{Flags: syscall.O_RDWR, Mode: syscall.S_IFREG | 0o666, Umask: 0o022})
	if err != nil || e.Attr.Mode&0o7777 != 0o644 {
		t.Errorf("mode %#o, %v", e.Attr.Mode, err)
	}
}

func TestIomapStatx(t *testing.T) {
	for name, c := range map[string]struct {
		options func(*server.Options)
		align   uint32
		atomic  uint32
	}{
		"all":                    {func(*server.Options) {}, 512, 4096},
		"nothing known":          {func(o *server.Options) { o.Iomap.SectorSize, o.Iomap.AtomicMin, o.Iomap.AtomicMax = 0, 0, 0 }, 4096, 0},
		"small atomic writes":    {func(o *server.Options) { o.Iomap.AtomicMax = 2048 }, 512, 0},
		"large atomic writes":    {func(o *server.Options) { o.Iomap.AtomicMin = 8192 }, 512, 0},
		"blocks not on the grid": {func(o *server.Options) { o.Iomap.Offset += 512 }, 512, 0},
	} {
		t.Run(name, func(t *testing.T) {
			b := serveBare(t, bareConfig{prepare: someFiles, options: c.options})
			e := b.node("file")
			if got := e.Attr.Flags&fuse.AttrAtomic != 0; got != (c.atomic != 0) {
				t.Errorf("flags %#x", e.Attr.Flags)
			}
			out, err := b.Statx(e.NodeID, unix.STATX_BASIC_STATS|unix.STATX_BTIME|unix.STATX_DIOALIGN|unix.STATX_WRITE_ATOMIC)
			x := &out.Stat
			if err != nil || x.Mask&unix.STATX_DIOALIGN == 0 || x.DioMemAlign != c.align || x.DioOffsetAlign != c.align || x.Mask&unix.STATX_BTIME == 0 {
				t.Errorf("%+v, %v", x, err)
			}
			if c.atomic != 0 && (x.Mask&unix.STATX_WRITE_ATOMIC == 0 || x.AtomicWriteSegmentsMax != 1) || x.AtomicWriteUnitMin != c.atomic || x.AtomicWriteUnitMax != c.atomic {
				t.Errorf("%+v", x)
			}
			if out, err := b.Statx(e.NodeID, unix.STATX_BASIC_STATS); err != nil || out.Stat.Mask&(unix.STATX_DIOALIGN|unix.STATX_WRITE_ATOMIC) != 0 {
				t.Errorf("not asked for: %+v, %v", out.Stat, err)
			}
			if out, err := b.Statx(b.node("dir").NodeID, unix.STATX_DIOALIGN); err != nil || out.Stat.Mask&unix.STATX_DIOALIGN != 0 {
				t.Errorf("of a directory: %+v, %v", out.Stat, err)
			}
		})
	}
}

func TestIomapFlags(t *testing.T) {
	b := serveBare(t, bareConfig{prepare: someFiles})
	set := func(nodeid uint64, flags uint32) error {
		in := fuse.IoctlIn{Cmd: unix.FS_IOC_SETFLAGS, InSize: 4}
		return b.Do(fuse.OpIoctl, nodeid, fusetest.Bytes(&in), binary.NativeEndian.AppendUint32(nil, flags)).Err()
	}
	file := b.node("file").NodeID
	st, err := b.fs.Stat(ext4.Ino(file))
	if err != nil {
		t.Fatal(err)
	}
	if err := set(file, st.Flags|ext4.FlagNodump|ext4.FlagSync); err != nil {
		t.Errorf("nodump and sync: %v", err)
	}
	const journalData = 0x4000
	for _, flag := range []uint32{ext4.FlagDAX, journalData} {
		if err := set(file, st.Flags|flag); err != syscall.EOPNOTSUPP {
			t.Errorf("flag %#x: %v", flag, err)
		}
	}
}

// TestRootNode2: every nodeid is an inode number where the mount says so.
func TestRootNode2(t *testing.T) {
	b := serveBare(t, bareConfig{prepare: someFiles, options: func(o *server.Options) { o.RootNode = 2 }})
	root, err := b.Getattr(2)
	if err != nil || root.Attr.Ino != 2 {
		t.Fatalf("%+v, %v", root.Attr, err)
	}
	e, err := b.Lookup(2, "dir")
	if err != nil || e.Attr.Flags != owned {
		t.Errorf("%+v, %v", e, err)
	}
	up, err := b.Lookup(e.NodeID, "..")
	if err != nil || up.NodeID != 2 || up.Attr.Flags != 0 {
		t.Errorf("..: %+v, %v", up, err)
	}
	for _, bad := range []uint64{0, 1, 3, 1<<32 + 2} {
		if _, err := b.Getattr(bad); err != syscall.ESTALE {
			t.Errorf("node %d: %v", bad, err)
		}
	}
	if err := b.Setxattr(2, "system.posix_acl_access", someACL, 0); err != nil {
		t.Fatal(err)
	}
	if root, err := b.Getattr(2); err != nil || root.Attr.Mode&0o7777 != 0o770 {
		t.Errorf("the root is treated like others: mode %#o, %v", root.Attr.Mode, err)
	}
}
