package test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ext4box/blockdev"
	"ext4box/ext4"
	"ext4box/internal/testimage"
)

// killsEnv is how often a live mount is killed.
const killsEnv = "EXT4BOX_CRASH_KILLS"

// A killedWriter writes until its mount is killed, and knows what it was told to
// be durable.
type killedWriter struct {
	dir     string
	acked   map[int]bool // files that were synced and are not being removed
	version int          // of the file that is replaced again and again
}

// killContent is what file n of a writer has.
func killContent(n int) []byte {
	return bytes.Repeat([]byte(fmt.Sprintf("%d of no other. ", n)), 1+n*7919%4000)
}

func killName(n int) string { return fmt.Sprintf("file-%d", n) }

// writeSynced makes a file and syncs it.
func writeSynced(path string, data []byte) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Sync(), f.Close())
}

// work ends with the first error, which is the end of the mount.
func (w *killedWriter) work(root string) error {
	dir := filepath.Join(root, w.dir)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for n := 0; ; n++ {
		if err := writeSynced(filepath.Join(dir, killName(n)), killContent(n)); err != nil {
			return err
		}
		w.acked[n] = true
		if n%3 == 0 {
			fresh := filepath.Join(dir, "fresh")
			if err := writeSynced(fresh, killContent(n+1)); err != nil {
				return err
			}
			if err := os.Rename(fresh, filepath.Join(dir, "current")); err != nil {
				return err
			}
			if err := syncFile(dir); err != nil {
				return err
			}
			w.version = n + 1
		}
		if n%7 == 6 {
			if err := os.Mkdir(filepath.Join(dir, fmt.Sprintf("sub-%d", n)), 0o700); err != nil {
				return err
			}
		}
		if old := n - 12; old >= 0 {
			delete(w.acked, old)
			if err := os.Remove(filepath.Join(dir, killName(old))); err != nil {
				return err
			}
		}
		if n%5 == 4 && w.acked[n-3] {
			delete(w.acked, n-3)
			if err := os.Truncate(filepath.Join(dir, killName(n-3)), 5); err != nil {
				return err
			}
		}
	}
}

// verify looks for what was promised.
func (w *killedWriter) verify(read func(name string) ([]byte, error)) error {
	for n := range w.acked {
		got, err := read(w.dir + "/" + killName(n))
		if err != nil {
			return err
		}
		if !bytes.Equal(got, killContent(n)) {
			return fmt.Errorf("%s/%s was synced and has %d bytes of something else", w.dir, killName(n), len(got))
		}
	}
	if w.version == 0 {
		return nil
	}
	got, err := read(w.dir + "/current")
	if err != nil {
		return err
	}
	for v := w.version; v <= w.version+3; v++ {
		if bytes.Equal(got, killContent(v)) {
			return nil
		}
	}
	return fmt.Errorf("%s/current has %d bytes that are neither version %d nor the next", w.dir, len(got), w.version)
}

// TestCrashKill kills the server of a mount under load; what was synced is there
// for the kernel and for ext4box, and e2fsck finds nothing to repair.
func TestCrashKill(t *testing.T) {
	requireMounting(t)
	rounds := 3
	if n, err := strconv.Atoi(os.Getenv(killsEnv)); err == nil {
		rounds = n
	}
	configs := [][]string{{"-t", "ext4"}, {"-t", "ext4", "-b", "1024"}, {"-t", "ext3"}}
	synced, lost := 0, 0
	for round := range rounds {
		t.Run(fmt.Sprint(round), func(t *testing.T) {
			img := &testimage.Image{Path: filepath.Join(t.TempDir(), "img")}
			if err := testimage.Mke2fs(img.Path, 64<<20, configs[round%len(configs)]...); err != nil {
				t.Fatal(err)
			}
			dir := mountRW(t, img.Path)
			writers := make([]*killedWriter, 3)
			var wg sync.WaitGroup
			for i := range writers {
				writers[i] = &killedWriter{dir: fmt.Sprintf("writer-%d", i), acked: map[int]bool{}}
				wg.Go(func() {
					if err := writers[i].work(dir); errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EROFS) {
						t.Errorf("writer %d: %v", i, err)
					}
				})
			}
			time.Sleep(time.Duration(200+rand.IntN(800)) * time.Millisecond) // any instant will do
			for _, pid := range servers(t, img.Path) {
				_ = unix.Kill(pid, unix.SIGKILL)
			}
			wg.Wait()
			umount(t, dir)
			eventually(t, "the image to be free", func() bool { return unlocked(t, img.Path) })
			failed := func(what string, err error) {
				if err != nil {
					lost++
					t.Errorf("%s: %v", what, err)
				}
			}
			judge := copyImage(t, img, ".kernel")
			m := testimage.MountRW(t, judge, "")
			for _, w := range writers {
				synced += len(w.acked)
				failed("recovered by the kernel", w.verify(func(name string) ([]byte, error) {
					return os.ReadFile(filepath.Join(m.Dir, name))
				}))
			}
			if err := m.Unmount(); err != nil {
				t.Fatal(err)
			}
			failed("after the kernel", testimage.Run("e2fsck", "-fn", judge.Path))

			dev, err := blockdev.Open(img.Path, blockdev.Options{})
			if err != nil {
				t.Fatal(err)
			}
			fs, err := ext4.Open(dev, ext4.Options{})
			if err != nil {
				t.Fatal(err)
			}
			for _, w := range writers {
				failed("recovered by ext4box", w.verify(fs.FS().ReadFile))
			}
			failed("closing", fs.Close())
			failed("after ext4box", testimage.Run("e2fsck", "-fn", img.Path))
		})
	}
	t.Logf("%d mounts killed, %d synced files looked for, %d lost", rounds, synced, lost)
}
