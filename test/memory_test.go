package test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// mostMemory is what a server may take with default options, in KiB, where data is not what it is busy with:
// buffers of requests come on top.
const mostMemory = 100 << 10

// TestMemoryManyFiles: with 100,000 files in one directory the server stays small.
func TestMemoryManyFiles(t *testing.T) {
	if testing.Short() {
		t.Skip("other processes are not under the race detector")
	}
	b := mountBoxedOf(t, []string{"512M", "-N", "110000"})
	dir := filepath.Join(b.dir, "dir")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		name string
		do   func(name string) error
	}{
		{"create", func(name string) error {
			f, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
			if err != nil {
				return err
			}
			return f.Close()
		}},
		{"stat", func(name string) error { _, err := os.Lstat(name); return err }},
		{"unlink", os.Remove},
	} {
		for i := range 100_000 {
			if err := step.do(fmt.Sprintf("%s/file-%07d", dir, i)); err != nil {
				t.Fatal(err)
			}
		}
		n := peakMemory(b.server)
		t.Logf("%s: %d MiB", step.name, n>>10)
		if n == 0 || n > mostMemory {
			t.Errorf("%s: the server has had %d KiB, of %d", step.name, n, mostMemory)
		}
	}
	umount(t, b.dir)
	b.over(t)
}
