package ext4_test

import (
	"fmt"
	"sync"
	"syscall"
	"testing"
	"time"

	"ext4box/blockdev/blocktest"
	"ext4box/ext4"
)

// TestGroupsWhileTheyChange looks at descriptors and inodes while others of the
// same blocks change: nobody may see half of a change.
func TestGroupsWhileTheyChange(t *testing.T) {
	r := newCrashRig(t, crashConfigs[0])
	dev := blocktest.NewOverlay(r.dev, r.dev.Size())
	fs, err := ext4.Open(dev, ext4.Options{CommitInterval: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	defer fs.Close()
	var wg sync.WaitGroup
	for i := range 4 {
		dir, err := fs.Create(ext4.RootIno, fmt.Sprint(i), ext4.NewNode{Mode: syscall.S_IFDIR | 0o755})
		if err != nil {
			t.Fatal(err)
		}
		wg.Go(func() {
			for range 3000 {
				ino, err := fs.Create(dir, "f", ext4.NewNode{Mode: syscall.S_IFREG | 0o644})
				if err == nil {
					err = fs.SetAttr(ino, ext4.Attr{})
				}
				if err == nil {
					err = fs.Unlink(dir, "f")
				}
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}

// TestOverwritesTogether: a write to blocks that have data excludes nobody.
func TestOverwritesTogether(t *testing.T) {
	r := newCrashRig(t, crashConfigs[0])
	fs, err := ext4.Open(blocktest.NewOverlay(r.dev, r.dev.Size()), ext4.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer fs.Close()
	ino, err := fs.Create(ext4.RootIno, "f", ext4.NewNode{Mode: syscall.S_IFREG | 0o644})
	if err != nil {
		t.Fatal(err)
	}
	data := make([]byte, 16<<10)
	if _, err := fs.WriteBack(ino, data, 0); err != nil {
		t.Fatal(err)
	}
	unlock := fs.LockShared(ino)
	done := make(chan error)
	go func() {
		_, err := fs.WriteBack(ino, data, 0)
		done <- err
	}()
	select {
	case err = <-done:
		unlock()
	case <-time.After(10 * time.Second):
		unlock()
		t.Error("it waits for somebody who only looks")
		err = <-done
	}
	if err != nil {
		t.Error(err)
	}
}
