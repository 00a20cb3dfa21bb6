package test

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"ext4box/internal/testimage"
)

// encryptedTree fills an encrypted directory of an image, under a key that goes
// away with the session it was made in.
const encryptedTree = `set -e
mount -o loop "$1" "$2"
trap 'umount "$2"' EXIT
mkdir "$2/v"
echo passphrase | e4crypt add_key -S 0x1234567890abcdef "$2/v" >/dev/null
for i in $(seq 200); do echo "data $i" >"$2/v/file$i"; done
for length in 15 16 17 140 141 148 149 150 200 255; do echo long >"$2/v/$(printf "%${length}s" | tr ' ' x)"; done
mkdir "$2/v/sub"
echo deep >"$2/v/sub/in"
ln -s file1 "$2/v/link"
ln -s "$(printf '%100s' | tr ' ' y)" "$2/v/long link"
echo plain >"$2/plain"
`

// encryptedImage is an image with what a script puts into it. It skips the test
// where the kernel cannot encrypt.
func encryptedImage(t *testing.T, script string) *testimage.Image {
	t.Helper()
	for _, program := range []string{"e4crypt", "keyctl"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("needs %s (package e2fsprogs or keyutils)", program)
		}
	}
	image := &testimage.Image{Path: filepath.Join(t.TempDir(), "e.img")}
	if err := testimage.Mke2fs(image.Path, 64<<20, "-t", "ext4", "-O", "encrypt"); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("keyctl", "session", "-", "bash", "-c", script, "fill", image.Path, t.TempDir())
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Skipf("this kernel has no encrypted files: %v: %s", err, out)
	}
	return image
}

// TestEncrypted: without the key an encrypted directory looks as the kernel shows
// it, and its files cannot be read.
func TestEncrypted(t *testing.T) {
	requireMounting(t)
	image := encryptedImage(t, encryptedTree)
	kernel := testimage.MountRO(t, image, "")
	listing := func(dir string) string {
		t.Helper()
		// The content of what is encrypted cannot be read, so no manifest.
		cmd := exec.Command("find", ".", "-printf", `%P %l %y %m %u %g %n %i %s %b %A@ %C@ %T@\n`)
		cmd.Dir = dir
		out, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		return sortedLines(string(out))
	}
	want := listing(kernel.Dir)
	dir := mount(t, image.Path)
	if got := listing(dir); got != want {
		t.Errorf("the mount shows\n%s, the kernel\n%s", got, want)
	}
	if b, err := os.ReadFile(filepath.Join(dir, "plain")); err != nil || string(b) != "plain\n" {
		t.Errorf("plain file: %q, %v", b, err)
	}
	names, err := filepath.Glob(filepath.Join(dir, "v", "*"))
	if err != nil || len(names) < 213 {
		t.Fatalf("%d names, %v", len(names), err)
	}
	for _, name := range names {
		if info, err := os.Lstat(name); err != nil {
			t.Errorf("looking up the shown name: %v", err)
		} else if info.Mode().IsRegular() {
			if _, err := os.ReadFile(name); err == nil {
				t.Errorf("%s can be read", name)
			}
		}
	}
}

func sortedLines(s string) string {
	lines := strings.Split(s, "\n")
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}
