package test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"ext4box/internal/e2test"
	"ext4box/internal/testimage"
)

// damagedDirectory makes an image with a directory "bad" whose block is damaged.
func damagedDirectory(t *testing.T) string {
	t.Helper()
	tree := e2test.Tree(t, map[string]string{"bad/name": ""})
	path := e2test.Image(t, 16<<20, "-t", "ext4", "-b", "4096", "-d", tree)
	var block int64
	if _, err := fmt.Sscan(e2test.Debugfs(t, path, "bmap bad 0"), &block); err != nil {
		t.Fatal(err)
	}
	e2test.Patch(t, path, block<<12, []byte{0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF})
	return path
}

// TestErrorsOption runs into damage on mounts with each value of errors=, on the
// kernel's ext4 and on ours.
func TestErrorsOption(t *testing.T) {
	requireMounting(t)
	for _, policy := range []string{"continue", "remount-ro", "panic"} {
		t.Run(policy, func(t *testing.T) {
			path := damagedDirectory(t)
			dir := t.TempDir()
			log := filepath.Join(dir, "log")
			m := filepath.Join(dir, "m")
			if err := os.Mkdir(m, 0o700); err != nil {
				t.Fatal(err)
			}
			if r := runMount(t, "--log", log, "-o", "errors="+policy, path, m); r.status != 0 {
				t.Fatal(r.stderr)
			}
			if err := syncFile(m); err != nil {
				t.Fatal(err)
			}
			// By now there is nothing that could be lost, and umount does not complain.
			_, err := os.ReadDir(filepath.Join(m, "bad"))
			after := os.WriteFile(filepath.Join(m, "after"), nil, 0o600)
			if policy == "panic" {
				eventually(t, "the end of the server", func() bool {
					return errors.Is(os.WriteFile(filepath.Join(m, "again"), nil, 0o600), unix.ENOTCONN)
				})
				eventually(t, "the reason in the log", func() bool {
					text, _ := os.ReadFile(log)
					return strings.Contains(string(text), "errors=panic")
				})
			} else {
				if !errors.Is(err, unix.EUCLEAN) {
					t.Errorf("reading the damaged directory: %v", err)
				}
				k := testimage.MountRW(t, &testimage.Image{Path: damagedDirectory(t)}, "errors="+policy)
				if _, err := os.Stat(filepath.Join(k.Dir, "bad", "name")); err == nil {
					t.Error("the kernel finds nothing wrong")
				}
				kafter := os.WriteFile(filepath.Join(k.Dir, "after"), nil, 0o600)
				if err := k.Unmount(); err != nil {
					t.Fatal(err)
				}
				if errors.Is(after, unix.EROFS) != errors.Is(kafter, unix.EROFS) || (after == nil) != (kafter == nil) {
					t.Errorf("creating a file afterwards: %v; with the kernel: %v", after, kafter)
				}
			}
			umount(t, m)
			// Both judges see it: dumpe2fs in the fields, e2fsck in the state.
			eventually(t, "the record of the error", func() bool {
				return strings.Contains(e2test.Output(t, "dumpe2fs", "-h", path), "FS Error count:")
			})
			if r := run(t, "info", path); !strings.Contains(r.stdout, "EFSCORRUPTED in directory_leaf") {
				t.Errorf("info: %s", r.stdout)
			}
		})
	}
}
