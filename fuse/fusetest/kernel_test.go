package fusetest

import (
	"encoding/binary"
	"errors"
	"strings"
	"syscall"
	"testing"

	"ext4box/fuse"
)

// hello has one file with the nodeid 2.
type hello struct {
	fuse.Unimplemented
	release chan struct{}
}

func (h hello) Lookup(r *fuse.Request, name string, out *fuse.EntryOut) syscall.Errno {
	if name != "hello" {
		return syscall.ENOENT
	}
	out.NodeID = 2
	return 0
}

func (h hello) Read(r *fuse.Request, in *fuse.ReadIn, buf []byte) (int, syscall.Errno) {
	if h.release != nil {
		<-h.release
	}
	return copy(buf, "hello, world"), 0
}

func TestConnect(t *testing.T) {
	for name, cfg := range map[string]Config{"direct": {}, "socket": {Socket: true}, "caller": {UID: 7, GID: 8}} {
		t.Run(name, func(t *testing.T) {
			k := Start(t, hello{}, cfg)
			if k.Protocol.Major != 7 || k.Protocol.Minor != 46 || k.Protocol.MaxWrite < 4096 {
				t.Errorf("%+v", k.Protocol)
			}
			if e, err := k.Lookup(1, "hello"); err != nil || e.NodeID != 2 {
				t.Errorf("%+v, %v", e, err)
			}
			if _, err := k.Lookup(1, "none"); err != syscall.ENOENT {
				t.Error(err)
			}
			if got, err := k.Read(2, 0, 5); err != nil || string(got) != "hello" {
				t.Errorf("%q, %v", got, err)
			}
		})
	}
}

// TestUnmountAnswers: what is in flight when the mount goes away is finished first.
func TestUnmountAnswers(t *testing.T) {
	h := hello{release: make(chan struct{})}
	k, err := Connect(h, Config{Socket: true})
	if err != nil {
		t.Fatal(err)
	}
	c := k.Go(fuse.OpRead, 2, Bytes(&fuse.ReadIn{Size: 100}))
	h.release <- struct{}{}
	close(h.release)
	if r := c.Wait(); r.Err() != nil || string(r.Payload) != "hello, world" {
		t.Errorf("%q, %v", r.Payload, r.Err())
	}
	if err := k.Unmount(); err != nil {
		t.Error(err)
	}
	if _, err := k.Getattr(1); !errors.Is(err, syscall.ENOTCONN) {
		t.Errorf("request after the end: %v", err)
	}
}

// TestDeliver: replies that the kernel would refuse are refused.
func TestDeliver(t *testing.T) {
	k := Start(t, hello{}, Config{})
	reply := func(length uint32, errno int32, unique uint64, payload string) []byte {
		h := fuse.OutHeader{Len: length, Error: errno, Unique: unique}
		return append(Bytes(&h), payload...)
	}
	for _, c := range []struct {
		name string
		msg  []byte
		want syscall.Errno
	}{
		{"short", make([]byte, 15), syscall.EINVAL},
		{"wrong length", reply(17, 0, 2, ""), syscall.EINVAL},
		{"positive error", reply(16, 5, 2, ""), syscall.EINVAL},
		{"error out of range", reply(16, -512, 2, ""), syscall.EINVAL},
		{"error with data", reply(17, -5, 2, "x"), syscall.EINVAL},
		{"nobody waits", reply(16, 0, 9998, ""), syscall.ENOENT},
		{"notification", reply(16, 8, 0, ""), 0},
	} {
		if got := k.deliver(c.msg); got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}

func TestParseDirents(t *testing.T) {
	entry := func(name string, namelen int) []byte {
		b := make([]byte, 24, 64)
		b[0], b[8] = 5, 6
		binary.NativeEndian.PutUint32(b[16:], uint32(namelen))
		b = append(b, name...)
		for len(b)%8 != 0 {
			b = append(b, 0)
		}
		return b
	}
	list, err := ParseDirents(append(entry("a", 1), entry("bcdefghi", 8)...), false)
	if err != nil || len(list) != 2 || list[0].Name != "a" || list[1].Name != "bcdefghi" || list[1].Ino != 5 || list[1].Next != 6 {
		t.Errorf("%+v, %v", list, err)
	}
	for name, b := range map[string][]byte{
		"cut off":   entry("a", 1)[:23],
		"no name":   entry("", 0),
		"long name": entry(strings.Repeat("n", 1025), 1025),
		"overrun":   entry("abc", 9),
		"unpadded":  entry("abc", 3)[:27],
	} {
		if _, err := ParseDirents(b, false); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
