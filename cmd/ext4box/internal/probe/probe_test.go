package probe

import (
	"encoding/binary"
	"testing"
)

func TestAll(t *testing.T) {
	names := map[string]bool{}
	for _, c := range All(Options{Dir: t.TempDir()}) {
		if c.Name == "" || c.Detail == "" || names[c.Name] {
			t.Errorf("%+v: incomplete, or a second one", c)
		}
		names[c.Name] = true
		if c.Answer != Yes && c.Answer != No && c.Answer != Unknown {
			t.Errorf("%s: answer %q", c.Name, c.Answer)
		}
	}
}

// initRequest is FUSE_INIT as a kernel sends it.
func initRequest(op, major, minor, flags, flags2 uint32, size int) []byte {
	b := make([]byte, 104)
	for off, v := range map[int]uint32{0: 104, 4: op, 40: major, 44: minor, 52: flags, 56: flags2} {
		binary.NativeEndian.PutUint32(b[off:], v)
	}
	return b[:size]
}

func TestDecodeInit(t *testing.T) {
	k, err := decodeInit(initRequest(26, 7, 45, 1<<30|1, 1<<(37-32), 104))
	if err != nil || k.Major != 7 || k.Minor != 45 || k.Flags != flagPassthrough|1<<30|1 {
		t.Errorf("%+v, %v", k, err)
	}
	k, err = decodeInit(initRequest(26, 7, 31, 1, 0, 56))
	if err != nil || k.Minor != 31 || k.Flags != 1 {
		t.Errorf("old kernel: %+v, %v", k, err)
	}
	for _, bad := range [][]byte{nil, initRequest(26, 7, 45, 0, 0, 55), initRequest(3, 7, 45, 0, 0, 104)} {
		if _, err := decodeInit(bad); err == nil {
			t.Errorf("%d bytes: no error", len(bad))
		}
	}
}

func FuzzDecodeInit(f *testing.F) {
	f.Add(initRequest(26, 7, 45, 1<<30, 0, 104))
	f.Fuzz(func(t *testing.T, b []byte) { decodeInit(b) })
}
