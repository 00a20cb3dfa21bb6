package casefold

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"strings"
	"testing"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"

	"ext4box/ext4/internal/disk"
)

// debugfsHashes asks debugfs for the case-folded directory hash of each name.
func debugfsHashes(t *testing.T, names [][]byte) []uint32 {
	t.Helper()
	if _, err := exec.LookPath("debugfs"); err != nil {
		t.Skip("debugfs is not installed")
	}
	var script bytes.Buffer
	for _, name := range names {
		fmt.Fprintf(&script, "dx_hash -c -e utf8 -h half_md4 %s\n", name)
	}
	cmd := exec.Command("debugfs", "-f", "-")
	cmd.Stdin = &script
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	hashes := make([]uint32, 0, len(names))
	for line := range bytes.SplitSeq(out, []byte("\n")) {
		at := bytes.LastIndex(line, []byte(" is 0x"))
		if at < 0 || !bytes.HasPrefix(line, []byte("Hash of ")) {
			continue
		}
		var h uint32
		if _, err := fmt.Sscanf(string(line[at:]), " is 0x%x ", &h); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		hashes = append(hashes, h)
	}
	if len(hashes) != len(names) {
		t.Fatalf("debugfs answered %d of %d questions", len(hashes), len(names))
	}
	return hashes
}

func compareWithDebugfs(t *testing.T, names [][]byte) {
	t.Helper()
	bad := 0
	for i, want := range debugfsHashes(t, names) {
		folded, err := Fold(nil, names[i])
		if err != nil {
			t.Fatalf("%+q: %v", names[i], err)
		}
		if len(folded) > 3*len(names[i]) {
			t.Errorf("%+q folds to %d bytes", names[i], len(folded))
		}
		got, _, _ := disk.DirHash(disk.HashHalfMD4, [4]uint32{}, folded)
		if got != want {
			t.Errorf("%+q folds to %+q, hash %#x, debugfs says %#x", names[i], folded, got, want)
			if bad++; bad > 20 {
				t.FailNow()
			}
		}
	}
}

// Every code point of the planes that have letters, marks or ignorables, those
// assigned after Unicode 12.1 among them.
func TestEveryCodePointFoldsAsInE2fsprogs(t *testing.T) {
	var names [][]byte
	for r := rune(0x80); r < 0xE2000; r++ {
		if r == 0x32000 {
			r = 0xE0000
		}
		if 0x3400 <= r && r < 0xA000 || 0x20000 <= r && r < 0x2F000 || !utf8.ValidRune(r) {
			continue // ideographs fold to themselves; surrogates are invalid
		}
		names = append(names, []byte("A"+string(r)+"b"))
	}
	compareWithDebugfs(t, names)
}

// Marks have to be put in canonical order, also very many of them, where
// golang.org/x/text would insert grapheme joiners.
func TestMarksAreOrderedAsInE2fsprogs(t *testing.T) {
	r := rand.New(rand.NewPCG(12, 1))
	var names [][]byte
	for range 2000 {
		var name []byte
		for n := r.IntN(120); n >= 0; n-- {
			s := classes[r.IntN(len(classes))]
			switch r.IntN(8) {
			case 0:
				name = append(name, "aB"...)
			case 1:
				name = append(name, mappings[r.IntN(len(mappings))].to...)
			case 2:
				name = utf8.AppendRune(name, mappings[r.IntN(len(mappings))].from)
			default:
				name = utf8.AppendRune(name, s.lo+r.Int32N(s.hi-s.lo+1))
			}
		}
		if len(name) > 255 {
			name = []byte(strings.ToValidUTF8(string(name[:255]), ""))
		}
		names = append(names, append([]byte("x"), name...))
	}
	compareWithDebugfs(t, names)
}

func TestFold(t *testing.T) {
	for _, c := range []struct{ in, out string }{
		{"README.txt", "readme.txt"},
		{"Straße", "strasse"},
		{"ÅNGSTRÖM", "a\u030angstro\u0308m"},
		{"\u212b", "a\u030a"},                                  // ANGSTROM SIGN
		{"a\u00adb\u200d", "ab"},                               // ignorables
		{"각", "\u1100\u1161\u11a8"},                            // Hangul
		{"\u0390", "\u03b9\u0308\u0301"},                       // folds to three
		{"a\u0301\u0323", "a\u0323\u0301"},                     // ordering
		{"\u0378A", "\u0378a"},                                 // unassigned
		{"\u2c2f", "\u2c2f"},                                   // a capital letter of Unicode 14
		{"a\u0301\U0001e08f\u0323", "a\u0301\U0001e08f\u0323"}, // a mark of Unicode 15 is a starter
		{"a\u180fb", "a\u180fb"},                               // an ignorable of Unicode 14
		{"", ""},
		{"\ufffd", "\ufffd"},
	} {
		got, err := Fold([]byte("prefix/"), []byte(c.in))
		if err != nil || string(got) != "prefix/"+c.out {
			t.Errorf("Fold(%+q) = %+q, %v, want %+q", c.in, got, err, c.out)
		}
	}
}

func TestInvalid(t *testing.T) {
	for _, bad := range []string{"\xff", "a\xc3", "\xed\xa0\x80", "\xc0\x80", "\xf4\x90\x80\x80", "\xe2\x82"} {
		dst, err := Fold([]byte("p"), []byte("A"+bad))
		if err != ErrInvalid || string(dst) != "p" {
			t.Errorf("Fold(%+q) = %q, %v", bad, dst, err)
		}
	}
}

// equal tells whether two names fold to the same.
func equal(a, b []byte) bool {
	foldedA, errA := Fold(nil, a)
	foldedB, errB := Fold(nil, b)
	return errA == nil && errB == nil && bytes.Equal(foldedA, foldedB)
}

func TestEqual(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want bool
	}{
		{"Makefile", "MAKEFILE", true},
		{"Makefile", "Makefiles", false},
		{"ÄPFEL", "a\u0308pfel", true},
		{"straße", "STRASSE", true},
		{"K", "\u212a", true}, // KELVIN SIGN
		{"a", "ä", false},
	} {
		if equal([]byte(c.a), []byte(c.b)) != c.want || equal([]byte(c.b), []byte(c.a)) != c.want {
			t.Errorf("%+q and %+q: equal is not %v", c.a, c.b, c.want)
		}
	}
}

func TestFoldDoesNotAllocate(t *testing.T) {
	for _, name := range []string{"plain", strings.Repeat("ΐ", 127), strings.Repeat("\u1f82", 85)} {
		in, room := []byte(name), make([]byte, 0, maxStackName)
		if n := testing.AllocsPerRun(100, func() { _, _ = Fold(room, in) }); n != 0 {
			t.Errorf("%q: %v allocations", name, n)
		}
	}
}

func TestTablesAreSorted(t *testing.T) {
	for i := 1; i < len(mappings); i++ {
		if mappings[i-1].from >= mappings[i].from {
			t.Fatalf("mapping of %U out of order", mappings[i].from)
		}
	}
	for _, spans := range [][]span{ignorable[:], classes[:]} {
		for i := range spans {
			if spans[i].lo > spans[i].hi || i > 0 && spans[i-1].hi >= spans[i].lo {
				t.Fatalf("span at %U out of order", spans[i].lo)
			}
		}
	}
}

func FuzzFold(f *testing.F) {
	f.Add([]byte("Straße"))
	f.Add([]byte("e\u0301\u0323\u1f82각"))
	f.Add([]byte("\xed\xa0\x80"))
	f.Fuzz(func(t *testing.T, name []byte) {
		if len(name) > 1024 {
			name = name[:1024]
		}
		folded, err := Fold(nil, name)
		if (err == nil) != utf8.Valid(name) {
			t.Fatalf("%+q: %v", name, err)
		}
		if err != nil {
			return
		}
		again, err := Fold(nil, folded)
		if err != nil || !bytes.Equal(again, folded) {
			t.Fatalf("%+q folds to %+q and that to %+q, %v", name, folded, again, err)
		}
		// The composed form is another spelling of the same name. Two kinds of
		// code points are left out: what a later Unicode version may have
		// assigned, which the library composes, and U+0345, which is a mark
		// when it is ordered but, folded before that as ext4 does, a letter.
		for _, r := range string(name) {
			if r >= 0x0870 || r == 0x0345 {
				return
			}
		}
		if nfc := norm.NFC.Bytes(name); len(name) < 30 && !equal(nfc, name) {
			t.Fatalf("%+q differs from its composed form %+q", name, nfc)
		}
	})
}

func BenchmarkFold(b *testing.B) {
	for _, name := range []string{"a-file-name-of-usual-length.txt", "Ärgerliche-Übergrößen.txt", "각각각각각각"} {
		b.Run(name, func(b *testing.B) {
			var buf [maxStackName]byte
			for b.Loop() {
				_, _ = Fold(buf[:0], []byte(name))
			}
		})
	}
}
