package edit

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// TestModeAsChmod compares with chmod(1).
func TestModeAsChmod(t *testing.T) {
	if _, err := exec.LookPath("chmod"); err != nil {
		t.Skip("needs chmod")
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	pick := func(from string, n int) (s string) {
		for range n {
			s += string(from[r.IntN(len(from))])
		}
		return s
	}
	modes := []string{
		"0", "7", "755", "0755", "4755", "02755", "00755", "00000", "1777", "6000", "u+s", "g+s", "+s", "o+s", "u=s", "a=", "=", "u=rwx", "u=rwx,go=rx",
		"+t", "o+t", "u+t", "a+t", "=t", "+x", "+w", "-w", "=w", "=rw", "g=u", "o=g", "a+X", "u+X,g=u", "u+x,a+X", "u=g-w+x", "=755", "+111", "-6000", "-4000", "=0", "a-s", "-s",
		"u", "x", "8", "u+q", "+", "u+u", "a=u", "u=rwxu", "", ",", "u+r,", "07777", "17777", "u+755",
	}
	for range 300 {
		var clauses []string
		for range 1 + r.IntN(2) {
			clause := pick("ugoa", r.IntN(3))
			for range 1 + r.IntN(2) {
				clause += pick("+-=", 1)
				if r.IntN(5) == 0 {
					clause += pick("ugo", 1)
				} else {
					clause += pick("rwxXst", r.IntN(4))
				}
			}
			clauses = append(clauses, clause)
		}
		modes = append(modes, strings.Join(clauses, ","))
	}
	dir := t.TempDir()
	for i, text := range modes {
		start := uint32(r.IntN(0o10000))
		for _, isDir := range []bool{false, true} {
			path := filepath.Join(dir, fmt.Sprint(i, isDir))
			kind := uint32(syscall.S_IFREG)
			if isDir {
				kind = syscall.S_IFDIR
				if err := os.Mkdir(path, 0o700); err != nil {
					t.Fatal(err)
				}
			} else if err := os.WriteFile(path, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			if err := syscall.Chmod(path, start); err != nil {
				t.Fatal(err)
			}
			out, failed := exec.Command("sh", "-c", `umask 022; exec chmod -- "$1" "$2"`, "sh", text, path).CombinedOutput()
			if failed != nil && strings.Contains(string(out), "new permissions are") {
				failed = nil // it complains of a -w that the umask has weakened
			}
			var st syscall.Stat_t
			if err := syscall.Stat(path, &st); err != nil {
				t.Fatal(err)
			}
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
			m, err := ParseMode(text)
			if (err != nil) != (failed != nil) {
				t.Errorf("%q: %v; chmod: %v, %s", text, err, failed, out)
			} else if got, want := m.Apply(kind|start), st.Mode&0o7777; err == nil && got != want {
				t.Errorf("%q of %#o, directory %v: %#o, want %#o", text, start, isDir, got, want)
			}
		}
	}
}
