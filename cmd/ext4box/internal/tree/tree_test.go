package tree_test

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"syscall"
	"testing"

	"ext4box/cmd/ext4box/internal/tree"
	"ext4box/ext4"
)

// fake is an image of directories: inode numbers to names and inode numbers. What
// is no key is a file.
type fake map[ext4.Ino][]link

type link struct {
	name string
	ino  ext4.Ino
}

func (f fake) Stat(ino ext4.Ino) (ext4.Stat, error) {
	if ino == 666 {
		return ext4.Stat{}, syscall.EUCLEAN
	}
	mode := uint32(syscall.S_IFREG)
	if _, ok := f[ino]; ok {
		mode = syscall.S_IFDIR
	}
	return ext4.Stat{Ino: ino, Mode: mode}, nil
}

func (f fake) ReadDir(dir ext4.Ino, pos int64, fn func(ext4.Dirent) bool) error {
	entries := f[dir]
	for i := pos; i < int64(len(entries)); i++ {
		if entries[i].name == "error" {
			return syscall.EIO
		}
		if !fn(ext4.Dirent{Ino: entries[i].ino, Name: []byte(entries[i].name), Next: i + 1}) {
			return nil
		}
	}
	return nil
}

// recorder writes down what it is told.
type recorder struct {
	log  []string
	skip string
}

func (r *recorder) Enter(n *tree.Node) error {
	r.log = append(r.log, "+"+n.Path)
	if r.skip != "" && n.Name == r.skip {
		return fs.SkipDir
	}
	return nil
}

func (r *recorder) Leave(n *tree.Node) error {
	r.log = append(r.log, "-"+n.Path)
	return nil
}

func (r *recorder) Problem(path string, err error) error {
	r.log = append(r.log, "!"+path)
	return nil
}

func TestWalk(t *testing.T) {
	for _, tc := range []struct {
		name string
		fs   fake
		skip string
		want string
	}{
		{"empty", fake{2: {{".", 2}, {"..", 2}}}, "", "+ -"},
		{"order", fake{2: {{"b", 10}, {"d", 3}, {"a", 11}}, 3: {{"x", 12}}}, "", "+ +b +d +d/x -d +a -"},
		{"skip", fake{2: {{"d", 3}, {"a", 11}}, 3: {{"x", 12}}}, "d", "+ +d +a -"},
		{"loop to itself", fake{2: {{"d", 3}}, 3: {{"d", 3}, {"e", 10}}}, "", "+ +d !d/d +d/e -d -"},
		{"loop to the root", fake{2: {{"d", 3}}, 3: {{"up", 2}}}, "", "+ +d !d/up -d -"},
		{"two places", fake{2: {{"a", 3}, {"b", 3}}, 3: {{"x", 10}}}, "", "+ +a +a/x -a !b -"},
		{"names", fake{2: {{"", 10}, {"a/b", 10}, {"z\x00", 10}, {"/", 10}, {"ok", 10}, {"..x", 10}}}, "", "+ ! ! ! ! +ok +..x -"},
		{"bad inode", fake{2: {{"a", 666}, {"b", 10}}}, "", "+ !a +b -"},
		{"bad start", fake{}, "", ""},
		{"read error", fake{2: {{"d", 3}, {"z", 11}}, 3: {{"a", 10}, {"error", 0}, {"b", 10}}}, "", "+ +d !d +d/a -d +z -"},
	} {
		start := ext4.RootIno
		if tc.name == "bad start" {
			start, tc.want = 666, "!"
		}
		r := &recorder{skip: tc.skip}
		if err := tree.Walk(tc.fs, start, r); err != nil {
			t.Errorf("%s: %v", tc.name, err)
		}
		if got := strings.Join(r.log, " "); got != tc.want {
			t.Errorf("%s: %q, want %q", tc.name, got, tc.want)
		}
	}
}

// A wide directory is read in pieces: each name once, in order.
func TestWide(t *testing.T) {
	f := fake{2: nil}
	want := []string{"+"}
	for i := range 1000 {
		name := fmt.Sprint(i)
		f[2] = append(f[2], link{name, ext4.Ino(1000 + i)})
		want = append(want, "+"+name)
	}
	r := &recorder{}
	if err := tree.Walk(f, 2, r); err != nil {
		t.Fatal(err)
	}
	if want = append(want, "-"); !slices.Equal(r.log, want) {
		t.Errorf("%d calls, want %d", len(r.log), len(want))
	}
}

// Depth costs no stack.
func TestDeep(t *testing.T) {
	const depth = 5000
	f := fake{}
	for i := range ext4.Ino(depth) {
		f[1000+i] = []link{{"d", 1001 + i}}
	}
	r := &recorder{}
	if err := tree.Walk(f, 1000, r); err != nil {
		t.Fatal(err)
	}
	if len(r.log) != 2*depth+1 {
		t.Errorf("%d calls", len(r.log))
	}
}

// Paths end somewhere: directories in directories need memory for all of theirs.
func TestTooDeep(t *testing.T) {
	f := fake{}
	name := strings.Repeat("n", 255)
	for i := range ext4.Ino(500) {
		f[1000+i] = []link{{name, 1001 + i}}
	}
	r := &recorder{}
	if err := tree.Walk(f, 1000, r); err != nil {
		t.Fatal(err)
	}
	const whole = tree.MaxPath / 256
	if n := len(r.log); n != 2*(whole+1)+1 || !strings.HasPrefix(r.log[whole+1], "!") {
		t.Errorf("%d calls for %d levels", n, whole)
	}
}

type stopper struct{ recorder }

func (s *stopper) Problem(string, error) error { return errStop }

var errStop = errors.New("stop")

func TestStop(t *testing.T) {
	if err := tree.Walk(fake{2: {{"a", 666}, {"b", 10}}}, 2, &stopper{}); err != errStop {
		t.Errorf("got %v", err)
	}
}

func FuzzCheckName(f *testing.F) {
	f.Add("name")
	f.Add("..")
	f.Add("a/b")
	f.Fuzz(func(t *testing.T, name string) {
		if tree.CheckName(name) == nil && (name == "" || !fs.ValidPath(strings.ToValidUTF8(name, "?")) || strings.Contains(name, "/")) {
			t.Errorf("%q passes", name)
		}
	})
}
