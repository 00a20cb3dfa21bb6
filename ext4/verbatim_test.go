package ext4_test

import (
	"bytes"
	"errors"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ext4box/ext4"
)

// TestVerbatim: nothing is changed but what is named.
func TestVerbatim(t *testing.T) {
	r := newChangeRig(t, 16<<20, "-t ext4")
	ino := r.create("f")
	times := func(want ...time.Time) {
		t.Helper()
		st, err := r.Stat(ino)
		if err != nil || !st.Atime.Equal(want[0]) || !st.Mtime.Equal(want[1]) || !st.Ctime.Equal(want[2]) {
			t.Errorf("times %v, %v, %v, %v; want %v", st.Atime, st.Mtime, st.Ctime, err, want)
		}
	}
	at := func(sec int64) time.Time { return time.Unix(sec, 123456789) }
	a, m, c := at(-1e9), at(1e9), at(3e9)
	r.must(r.SetAttr(ino, ext4.Attr{Atime: &a, Mtime: &m, Ctime: &c, Verbatim: true}))
	times(a, m, c)
	mode := func(want uint32) {
		t.Helper()
		if st, err := r.Stat(ino); err != nil || st.Mode&0o7777 != want {
			t.Errorf("mode %#o, %v; want %#o", st.Mode, err, want)
		}
	}
	acl := func(group, mask uint16) []byte { // u::rw- g::r-- g:7:group m::mask o::---
		b := []byte{2, 0, 0, 0}
		for _, e := range []struct {
			tag, perm uint16
			id        uint32
		}{{1, 6, ^uint32(0)}, {4, 4, ^uint32(0)}, {8, group, 7}, {16, mask, ^uint32(0)}, {32, 0, ^uint32(0)}} {
			b = append(b, byte(e.tag), 0, byte(e.perm), 0, byte(e.id), byte(e.id>>8), byte(e.id>>16), byte(e.id>>24))
		}
		return b
	}
	const access = "system.posix_acl_access"
	has := func(want []byte) {
		t.Helper()
		if got, err := r.Getxattr(ino, access); !bytes.Equal(got, want) || (err == nil) != (want != nil) {
			t.Errorf("ACL %x, %v; want %x", got, err, want)
		}
	}
	r.must(r.SetxattrVerbatim(ino, access, acl(7, 7), 0, false))
	has(acl(7, 7))
	mode(0o644)
	times(a, m, c)
	// The kernel changes the ACL for a mode itself.
	perm := uint32(0o6600)
	r.must(r.SetAttr(ino, ext4.Attr{Mode: &perm, Verbatim: true}))
	mode(0o6600)
	has(acl(7, 7))
	times(a, m, c)
	// One that a mode can express stays, too.
	minimal := acl(0, 0)[:4]
	for _, i := range []int{0, 1, 4} {
		minimal = append(minimal, acl(0, 0)[4+8*i:12+8*i]...)
	}
	r.must(r.SetxattrVerbatim(ino, access, minimal, 0, false))
	has(minimal)
	mode(0o6600)
	if err := r.SetxattrVerbatim(ino, access, []byte("nonsense"), 0, false); !errors.Is(err, syscall.EINVAL) {
		t.Errorf("no ACL: %v", err)
	}
	r.must(r.RemovexattrVerbatim(ino, access))
	has(nil)
	mode(0o6600)
	times(a, m, c)
	if err := r.RemovexattrVerbatim(ino, access); !errors.Is(err, syscall.ENODATA) {
		t.Errorf("removed twice: %v", err)
	}
	// Data of a file can be written, and its times told, when flags forbid that by now.
	st, err := r.Stat(ino)
	r.must(err)
	for _, flag := range []uint32{0x10, 0x20} { // immutable, append only
		flag |= st.Flags
		r.must(r.SetAttr(ino, ext4.Attr{Flags: &flag, Verbatim: true}))
		r.must(r.SetAttr(ino, ext4.Attr{Atime: &m, Mtime: &a, Ctime: &c, Verbatim: true}))
		times(m, a, c)
		if err := r.SetAttr(ino, ext4.Attr{Mode: &perm, Verbatim: true}); !errors.Is(err, syscall.EPERM) {
			t.Errorf("mode: %v", err)
		}
		r.must(r.SetAttr(ino, ext4.Attr{Flags: &st.Flags, Verbatim: true}))
	}
	r.finish()
}

// TestFinal: what is made has the mode that it is made with, and no ACL, but the group of
// a directory that gives it.
func TestFinal(t *testing.T) {
	r := newChangeRig(t, 16<<20, "-t ext4")
	dir, err := r.Create(ext4.RootIno, "dir", ext4.NewNode{Mode: syscall.S_IFDIR | 0o2755, GID: 9})
	r.must(err)
	acl := []byte{2, 0, 0, 0}
	for _, e := range [][2]byte{{1, 6}, {4, 4}, {32, 0}} {
		acl = append(acl, e[0], 0, e[1], 0, 255, 255, 255, 255)
	}
	r.must(r.Setxattr(dir, "system.posix_acl_default", acl, 0))
	for _, c := range []struct {
		name       string
		mode, want uint32
		final      bool
	}{
		{"file", syscall.S_IFREG | 0o777, syscall.S_IFREG | 0o777, true},
		{"sub", syscall.S_IFDIR | 0o777, syscall.S_IFDIR | 0o2777, true},
		{"classic", syscall.S_IFREG | 0o777, syscall.S_IFREG | 0o640, false},
	} {
		ino, err := r.Create(dir, c.name, ext4.NewNode{Mode: c.mode, Umask: 0o777, GID: 3, Final: c.final})
		r.must(err)
		if st, err := r.Stat(ino); err != nil || st.Mode != c.want || st.GID != 9 {
			t.Errorf("%s: mode %#o, group %d, %v", c.name, st.Mode, st.GID, err)
		}
		if names, err := r.Listxattr(ino); err != nil || len(names) > 0 {
			t.Errorf("%s has %v, %v", c.name, names, err)
		}
	}
	r.finish()
}

// TestOutsideClock: what is made here is not younger than what the kernel then says of it.
func TestOutsideClock(t *testing.T) {
	r := newChangeRig(t, 16<<20, "-t ext4")
	coarse := func() time.Time {
		var ts unix.Timespec
		r.must(unix.ClockGettime(unix.CLOCK_REALTIME_COARSE, &ts))
		return time.Unix(ts.Unix())
	}
	for i := range 50 {
		before := coarse()
		ino := r.create(string(rune('A' + i)))
		after := coarse()
		if st, err := r.Stat(ino); err != nil || st.Btime.Before(before) || st.Btime.After(after) || !st.Btime.Equal(st.Ctime) {
			t.Fatalf("made between %v and %v: %+v, %v", before, after, st, err)
		}
	}
	r.finish()
}
