package disk

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"strings"
	"syscall"
	"testing"
)

// hashNames is a list of names that debugfs can be asked about: no byte that
// its command line gives a meaning to, but every length and every byte above
// ASCII.
func hashNames() [][]byte {
	r := rand.New(rand.NewPCG(4, 2))
	var names [][]byte
	for n := 1; n <= 255; n++ {
		name := make([]byte, n)
		for i := range name {
			for {
				name[i] = byte(r.IntN(256))
				if c := name[i]; c > ' ' && c != '"' && c != 0x7F {
					break
				}
			}
		}
		if name[0] == '-' {
			name[0] = '+'
		}
		names = append(names, name)
	}
	return append(names, []byte("lost+found"), []byte("straße"), []byte("\xff\xfe"))
}

func TestDirHashEqualsDebugfs(t *testing.T) {
	if _, err := exec.LookPath("debugfs"); err != nil {
		t.Skip("debugfs is not installed")
	}
	seeds := map[string][4]uint32{
		"00000000-0000-0000-0000-000000000000": {},
		"11111111-2222-3333-4444-555566667777": {0x11111111, 0x33332222, 0x55554444, 0x77776666},
	}
	names := hashNames()
	var script bytes.Buffer
	type question struct {
		v    HashVersion
		seed [4]uint32
		name []byte
	}
	var asked []question
	for _, v := range []HashVersion{HashLegacy, HashHalfMD4, HashTEA} {
		for uuid, seed := range seeds {
			for _, name := range names {
				fmt.Fprintf(&script, "dx_hash -h %s -s %s %s\n", v, uuid, name)
				asked = append(asked, question{v, seed, name})
			}
		}
	}
	cmd := exec.Command("debugfs", "-f", "-")
	cmd.Stdin = &script
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	i := 0
	for line := range strings.SplitSeq(string(out), "\n") {
		at := strings.LastIndex(line, " is 0x")
		if at < 0 || !strings.HasPrefix(line, "Hash of ") {
			continue
		}
		var major, minor uint32
		if _, err := fmt.Sscanf(line[at:], " is 0x%x (minor 0x%x)", &major, &minor); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		q := asked[i]
		i++
		gotMajor, gotMinor, err := DirHash(q.v, q.seed, q.name)
		if err != nil || gotMajor != major || gotMinor != minor {
			t.Fatalf("%v of %q: %#x/%#x, %v; debugfs says %#x/%#x", q.v, q.name, gotMajor, gotMinor, err, major, minor)
		}
	}
	if i != len(asked) {
		t.Fatalf("debugfs answered %d of %d questions", i, len(asked))
	}
}

// The unsigned variants differ from the signed ones exactly when a byte is
// above ASCII. Their values were taken from htree_dump of a directory on an
// image whose superblock has the unsigned flag.
func TestDirHashUnsigned(t *testing.T) {
	for _, c := range []struct {
		v            HashVersion
		name         string
		major, minor uint32
	}{
		{HashLegacyUnsigned, "caf\xe9", 0x7c3849d0, 0},
		{HashLegacyUnsigned, "\xff\xfe\x80", 0x2103b008, 0},
		{HashHalfMD4Unsigned, "caf\xe9", 0xe024b25c, 0xfc654b70},
		{HashHalfMD4Unsigned, "\xff\xfe\x80", 0x22088262, 0x51d77b4c},
		{HashHalfMD4Unsigned, strings.Repeat("\xe9", 17), 0x78a288aa, 0x35b1d3a5},
		{HashHalfMD4Unsigned, "ü-and-a-rather-long-name-of-more-than-32-bytes-\U0001F600", 0xe66c4f60, 0xfad18db3},
		{HashTEAUnsigned, "caf\xe9", 0x4cf144c6, 0x5dad3510},
		{HashTEAUnsigned, "\xff\xfe\x80", 0x3f81280e, 0x5069b18b},
		{HashTEAUnsigned, "ü-and-a-rather-long-name-of-more-than-32-bytes-\U0001F600", 0xb9c38718, 0x610a8edd},
	} {
		major, minor, err := DirHash(c.v, [4]uint32{0x11111111, 0x33332222, 0x55554444, 0x77776666}, []byte(c.name))
		if err != nil || major != c.major || minor != c.minor {
			t.Errorf("%v of %q: %#x/%#x, %v, want %#x/%#x", c.v, c.name, major, minor, err, c.major, c.minor)
		}
	}
	for v := HashLegacy; v <= HashTEA; v++ {
		for name, same := range map[string]bool{"plain ascii \x7f": true, "caf\xe9": false} {
			a, _, _ := DirHash(v, [4]uint32{}, []byte(name))
			b, _, _ := DirHash(v.Unsigned(), [4]uint32{}, []byte(name))
			if (a == b) != same {
				t.Errorf("%v of %q: signed %#x, unsigned %#x", v, name, a, b)
			}
		}
	}
}

func TestDirHashRefusals(t *testing.T) {
	if _, _, err := DirHash(HashSipHash, [4]uint32{}, []byte("x")); !errors.Is(err, syscall.EOPNOTSUPP) {
		t.Errorf("siphash: %v", err)
	}
	if _, _, err := DirHash(7, [4]uint32{}, []byte("x")); !errors.Is(err, syscall.EUCLEAN) {
		t.Errorf("version 7: %v", err)
	}
}

func TestDirHashDoesNotAllocate(t *testing.T) {
	name := []byte(strings.Repeat("long name ", 25))
	for v := HashLegacy; v <= HashTEAUnsigned; v++ {
		if n := testing.AllocsPerRun(100, func() { _, _, _ = DirHash(v, [4]uint32{1}, name) }); n != 0 {
			t.Errorf("%v: %v allocations", v, n)
		}
	}
}

func FuzzDirHash(f *testing.F) {
	f.Add(uint8(1), uint32(0), []byte("name"))
	f.Fuzz(func(t *testing.T, v uint8, seed uint32, name []byte) {
		major, _, err := DirHash(HashVersion(v), [4]uint32{seed, 0, seed}, name)
		if err == nil && (major&1 != 0 || major == 0xFFFFFFFE) {
			t.Fatalf("%#x is reserved", major)
		}
	})
}

func BenchmarkDirHash(b *testing.B) {
	name := []byte("a-file-name-of-usual-length.txt")
	for b.Loop() {
		_, _, _ = DirHash(HashHalfMD4, [4]uint32{1, 2, 3, 4}, name)
	}
}
