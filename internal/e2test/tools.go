package e2test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"ext4box/internal/testimage"
)

// Image makes a filesystem of size bytes with mke2fs and returns its path. It
// skips the test where e2fsprogs is missing.
func Image(tb testing.TB, size int64, args ...string) string {
	tb.Helper()
	testimage.RequireTools(tb)
	path := filepath.Join(tb.TempDir(), "image")
	if err := testimage.Mke2fs(path, size, args...); err != nil {
		tb.Fatal(err)
	}
	return path
}

// Output runs a tool of e2fsprogs and returns what it prints, with times in
// UTC. Complaints on stderr are left to the tool's exit status.
func Output(tb testing.TB, argv ...string) string {
	tb.Helper()
	tool, err := exec.LookPath(argv[0])
	if err != nil {
		tool = filepath.Join("/usr/sbin", argv[0]) // not in every PATH
	}
	cmd := exec.Command(tool, argv[1:]...)
	cmd.Env = append(os.Environ(), "TZ=UTC", "LC_ALL=C", "DEBUGFS_PAGER=__none__")
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		tb.Fatalf("%q: %v: %s", argv, err, stderr.String())
	}
	return string(out)
}

// Debugfs asks debugfs one thing about an image.
func Debugfs(tb testing.TB, image, request string) string {
	tb.Helper()
	return Output(tb, "debugfs", "-R", request, image)
}

// Change lets debugfs change an image, one request after the other.
func Change(tb testing.TB, image string, requests ...string) {
	tb.Helper()
	script := filepath.Join(tb.TempDir(), "requests")
	if err := os.WriteFile(script, []byte(strings.Join(requests, "\n")+"\n"), 0o600); err != nil {
		tb.Fatal(err)
	}
	if err := testimage.Run("debugfs", "-w", "-f", script, image); err != nil {
		tb.Fatal(err)
	}
}

// Bytes returns n bytes of an image.
func Bytes(tb testing.TB, image string, off int64, n int) []byte {
	tb.Helper()
	f, err := os.Open(image)
	if err != nil {
		tb.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, n)
	if _, err := f.ReadAt(b, off); err != nil {
		tb.Fatal(err)
	}
	return b
}

// Patch overwrites bytes of an image.
func Patch(tb testing.TB, image string, off int64, b []byte) {
	tb.Helper()
	f, err := os.OpenFile(image, os.O_RDWR, 0)
	if err != nil {
		tb.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(b, off); err != nil {
		tb.Fatal(err)
	}
}

// Tree writes files below a new directory and returns it, for mke2fs -d.
// A name that ends in a slash makes a directory.
func Tree(tb testing.TB, files map[string]string) string {
	tb.Helper()
	root := tb.TempDir()
	for name, content := range files {
		path := filepath.Join(root, name)
		dir := filepath.Dir(path)
		if strings.HasSuffix(name, "/") {
			dir = path
		}
		err := os.MkdirAll(dir, 0o755)
		if err == nil && dir != path {
			err = os.WriteFile(path, []byte(content), 0o644)
		}
		if err != nil {
			tb.Fatal(err)
		}
	}
	return root
}
