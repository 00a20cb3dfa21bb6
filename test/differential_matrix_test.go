package test

import (
	"cmp"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"testing"

	"ext4box/blockdev"
	"ext4box/ext4"
	"ext4box/internal/testimage"
)

// TestDifferentialMatrix runs random system calls on every configuration of the
// read matrix that can be written. What the kernel of the test cannot write is
// compared with what it does on a plain filesystem. DIFFERENTIAL_OPS and
// DIFFERENTIAL_SEED are those of TestDifferential.
func TestDifferentialMatrix(t *testing.T) {
	requireMounting(t)
	const each = 80
	total, _ := strconv.Atoi(cmp.Or(os.Getenv("DIFFERENTIAL_OPS"), strconv.Itoa(each)))
	seed, err := strconv.ParseUint(cmp.Or(os.Getenv("DIFFERENTIAL_SEED"), "1"), 0, 64)
	if err != nil {
		t.Fatal(err)
	}
	shapes, done := 0, 0
	for _, c := range testimage.Configs() {
		if c.ExternalJournal || c.Level == testimage.Tiny {
			continue
		}
		t.Run(c.Name, func(t *testing.T) {
			c.Oracle, c.Finish = testimage.Debugfs, slices.DeleteFunc(slices.Clone(c.Finish), func(argv []string) bool { return argv[0] != "tune2fs" })
			d := newDifferential(t, c)
			if reason := readOnlyReason(t, d.image); reason != "" {
				t.Skip("not written: ", reason)
			}
			if kernelWrites(t, d.image) {
				d.config.Oracle, d.judge = testimage.Kernel, d.image
			}
			shapes++
			for i, n := seed, 0; n < total && !t.Failed(); i, n = i+1, n+each {
				g := &generator{Rand: rand.New(rand.NewPCG(i, 1)), block: d.blockSize(), old: d.oldInodes(), small: d.foreign()}
				d.check(i, g.sequence(each))
				done += each
			}
		})
	}
	t.Logf("%d system calls compared on %d shapes, from seed %d", done, shapes, seed)
}

// readOnlyReason says why ext4box does not write an image, or nothing.
func readOnlyReason(t *testing.T, path string) string {
	t.Helper()
	copied := filepath.Join(t.TempDir(), "copy")
	if err := testimage.CopyImage(copied, path); err != nil {
		t.Fatal(err)
	}
	defer os.Remove(copied)
	dev, err := blockdev.Open(copied, blockdev.Options{})
	if err != nil {
		t.Fatal(err)
	}
	fs, err := ext4.Open(dev, ext4.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer fs.Close()
	return fs.ReadOnlyReason()
}

// kernelWrites tells whether the kernel mounts a copy of an image for writing.
func kernelWrites(t *testing.T, path string) bool {
	t.Helper()
	dir := t.TempDir()
	copied := filepath.Join(dir, "copy")
	if err := testimage.CopyImage(copied, path); err != nil {
		t.Fatal(err)
	}
	defer os.Remove(copied)
	at := filepath.Join(dir, "mnt")
	if err := os.Mkdir(at, 0o700); err != nil {
		t.Fatal(err)
	}
	// A mount that falls back to read-only fails with -w.
	if exec.Command("mount", "-w", "-t", "ext4", "-o", "loop", copied, at).Run() != nil {
		return false
	}
	if out, err := exec.Command("umount", at).CombinedOutput(); err != nil {
		t.Fatalf("umount: %v: %s", err, out)
	}
	return true
}
