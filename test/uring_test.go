package test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"ext4box/internal/posixfs"
	"ext4box/internal/testimage"
	launch "ext4box/mount"
)

// requireUring skips a test where requests cannot come by io_uring.
func requireUring(t *testing.T) {
	t.Helper()
	requireMounting(t)
	if why, advice := launch.AskUring(); why != "" {
		t.Skipf("%s: %s", why, advice)
	}
}

// byUring mounts by ext4box with requests by io_uring.
func byUring(t *testing.T, image string) (posixfs.FS, func()) {
	mnt := mountRW(t, image, "transport=uring")
	return posixfs.Mounted(mnt), func() { umount(t, mnt) }
}

// TestFsxUring is TestFsx by io_uring.
func TestFsxUring(t *testing.T) {
	requireUring(t)
	var some []exerciser
	for _, e := range exercisers() {
		if strings.HasPrefix(e.name, "ext4-") {
			some = append(some, e)
		}
	}
	fsx(t, some, byUring, 1)
}

// TestUringLoad has many write, flush and read at once, and the kernel's switch be what it was.
func TestUringLoad(t *testing.T) {
	requireUring(t)
	before, err := os.ReadFile(launch.UringParameter)
	if err != nil {
		t.Fatal(err)
	}
	img := &testimage.Image{Path: filepath.Join(t.TempDir(), "image")}
	if err := testimage.Mke2fs(img.Path, 256<<20, "-t", "ext4"); err != nil {
		t.Fatal(err)
	}
	mnt := mountRW(t, img.Path, "transport=uring")
	const programs, rounds, size = 64, 4, 48 << 10
	var wg sync.WaitGroup
	for i := range programs {
		wg.Go(func() {
			name := filepath.Join(mnt, fmt.Sprint("file", i))
			for round := range rounds {
				data := bytes.Repeat([]byte{byte(i), byte(round)}, size/2)
				f, err := os.Create(name)
				if err == nil {
					_, err = f.Write(data)
					err = errors.Join(err, f.Sync(), f.Close())
				}
				if err != nil {
					t.Error(err)
					return
				}
				if got, err := os.ReadFile(name); err != nil || !bytes.Equal(got, data) {
					t.Errorf("%s: %d bytes, %v", name, len(got), err)
				}
			}
		})
	}
	wg.Wait()
	umount(t, mnt)
	if err := testimage.Run("e2fsck", "-fn", img.Path); err != nil {
		t.Error(err)
	}
	// Another mount may have it on for a moment.
	eventually(t, "the switch to be put back", func() bool {
		after, err := os.ReadFile(launch.UringParameter)
		return err == nil && (bytes.Equal(after, before) || before[0] == 'Y') // then, too
	})
}
