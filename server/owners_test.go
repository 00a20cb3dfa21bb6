package server_test

import (
	"bytes"
	"errors"
	"strings"
	"syscall"
	"testing"

	"ext4box/blockdev/blocktest"
	"ext4box/ext4"
	"ext4box/fuse"
	"ext4box/fuse/fusetest"
	"ext4box/fuse/fusetest/vfs"
	"ext4box/internal/e2test"
	"ext4box/server"
)

// TestModelOwners: a kernel that keeps owners, modes and ACLs itself is shown mapped ones, and
// what it says of them is mapped back.
func TestModelOwners(t *testing.T) {
	const shift = 1000
	ids := server.IDMap{{Stored: 0, Shown: shift, Count: 100}}
	generations(t, func(t *testing.T, g vfs.Generation) {
		m := mountModelWith(t, modelConfig{
			Config: vfs.Config{Generation: g},
			prepare: func(fs *ext4.FS) {
				file(t, fs, "theirs", []byte("content"), 7)
				ino, err := fs.Resolve("theirs")
				if err != nil {
					t.Fatal(err)
				}
				uid, gid, mode := uint32(5), uint32(6), uint32(0o777)
				if err := errors.Join(fs.SetAttr(ino, ext4.Attr{UID: &uid, GID: &gid}), fs.SetAttr(ext4.RootIno, ext4.Attr{Mode: &mode})); err != nil {
					t.Fatal(err)
				}
			},
			options: func(o *server.Options) { o.Owners = server.Owners{Users: ids, Groups: ids} },
		})
		stored := func(name string, uid, gid uint32) ext4.Ino {
			t.Helper()
			ino, err := m.fs.Resolve(name)
			if err != nil {
				t.Fatal(err)
			}
			st, err := m.fs.Stat(ino)
			if err != nil || st.UID != uid || st.GID != gid {
				t.Errorf("%s is stored as %d:%d, %v, not %d:%d", name, st.UID, st.GID, err, uid, gid)
			}
			return ino
		}
		if st, err := m.Statx("theirs", 0); err != nil || st.Uid != shift+5 || st.Gid != shift+6 {
			t.Errorf("shown: %d:%d, %v", st.Uid, st.Gid, err)
		}
		if err := m.Chown("theirs", shift+7, -1); err != nil {
			t.Error(err)
		}
		if err := m.Chown("theirs", 5, -1); err != syscall.EOVERFLOW {
			t.Errorf("given to a user who is not mapped: %v", err)
		}
		ino := stored("theirs", 7, 6)
		shown := acl([3]uint32{1, 6, anyID}, [3]uint32{2, 6, shift + 8}, [3]uint32{4, 4, anyID}, [3]uint32{0x10, 6, anyID}, [3]uint32{0x20, 0, anyID})
		if err := m.Setxattr("theirs", "system.posix_acl_access", shown, 0); err != nil {
			t.Error(err)
		}
		want := acl([3]uint32{1, 6, anyID}, [3]uint32{2, 6, 8}, [3]uint32{4, 4, anyID}, [3]uint32{0x10, 6, anyID}, [3]uint32{0x20, 0, anyID})
		if got, err := m.fs.Getxattr(ino, "system.posix_acl_access"); err != nil || !bytes.Equal(got, want) {
			t.Errorf("stored: %x, %v\nwant:   %x", got, err, want)
		}
		if got, err := m.Getxattr("theirs", "system.posix_acl_access"); err != nil || !bytes.Equal(got, shown) {
			t.Errorf("shown: %x, %v", got, err)
		}
		user := m.As(vfs.Cred{UID: shift + 9, GID: shift + 10})
		if err := user.Mkdir("mine", 0o755); err != nil {
			t.Error(err)
		}
		stored("mine", 9, 10)
		if err := m.As(vfs.Cred{UID: 9, GID: 10}).Mkdir("nobody's", 0o755); err != syscall.EOVERFLOW {
			t.Errorf("by a user who is not mapped: %v", err)
		}
	})
}

// TestOwnersParams: what the kernel keeps, and whether it checks permissions, goes with what it is
// shown.
func TestOwnersParams(t *testing.T) {
	dev, err := blocktest.LoadMem(e2test.Image(t, 8<<20, "-t", "ext4"))
	if err != nil {
		t.Fatal(err)
	}
	fs, err := ext4.Open(dev, ext4.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer fs.Close()
	id := new(uint32)
	for _, tc := range []struct {
		name       string
		options    server.Options
		iomap, acl bool
	}{
		{"nothing", server.Options{}, true, true},
		{"idmap", server.Options{Owners: server.Owners{Users: server.IDMap{{Count: 1}}}}, true, true},
		{"allow_idmap", server.Options{AllowIdmap: true}, true, true},
		{"uid", server.Options{Owners: server.Owners{UID: id}}, false, true},
		{"gid", server.Options{Owners: server.Owners{GID: id}}, false, true},
		{"umask", server.Options{Owners: server.Owners{Umask: id}}, false, false},
		{"fakeroot", server.Options{Owners: server.Owners{UID: id, GID: id, Fakeroot: true}}, false, false},
	} {
		tc.options.Iomap.Mode = server.IomapAuto // on descriptor 0
		p := server.New(fs, tc.options).Params()
		if p.Iomap != tc.iomap || p.Flags&fuse.InitPosixACL != 0 != tc.acl || p.Flags&fuse.InitAllowIdmap != 0 != tc.options.AllowIdmap {
			t.Errorf("%s: %v, iomap %v", tc.name, p.Flags, p.Iomap)
		}
	}
}

// TestIdmapMissing: a kernel that cannot map ids is not served as if it did.
func TestIdmapMissing(t *testing.T) {
	dev, err := blocktest.LoadMem(e2test.Image(t, 8<<20, "-t", "ext4"))
	if err != nil {
		t.Fatal(err)
	}
	for _, flags := range []fuse.InitFlags{fusetest.AllFlags, fusetest.AllFlags &^ fuse.InitAllowIdmap} {
		fs, err := ext4.Open(dev, ext4.Options{})
		if err != nil {
			t.Fatal(err)
		}
		var told error
		o := server.Options{AllowIdmap: true}
		o.Iomap.Chosen = func(c server.Choice) { told = c.Err }
		s := server.New(fs, o)
		cfg := fusetest.Config{Flags: flags}
		cfg.Options.Params = s.Params()
		k, err := fusetest.Connect(s, cfg)
		if err == nil {
			err = k.Unmount()
		}
		if can := flags&fuse.InitAllowIdmap != 0; can != (err == nil) || !can && (told == nil || !strings.Contains(told.Error(), "leave out allow_idmap")) {
			t.Errorf("offered %v: %v, told %v", flags, err, told)
		}
		if err := fs.Close(); err != nil {
			t.Error(err)
		}
	}
}
