package server_test

import (
	"bytes"
	"errors"
	"syscall"
	"testing"

	"ext4box/fuse"
	"ext4box/fuse/fusetest/vfs"
)

// reclaimed is a small filesystem with a file that has blocks ahead of its end, for buffered writes.
func reclaimed(t *testing.T, c modelConfig) (*mounted, *vfs.File) {
	t.Helper()
	c.size, c.mke2fs = 32<<20, []string{"-t", "ext4", "-b", "4096", "-J", "size=4"}
	m := mountModelWith(t, c)
	f := m.created(t, "f", 0)
	for off := 0; off < 5; off++ {
		write(t, f, xs(4096), int64(off)*4096)
	}
	if err := f.Fsync(); err != nil {
		t.Fatal(err)
	}
	return m, f
}

// fill writes to a new file until there is no space, and has the data on the device.
func (m *mounted) fill(t *testing.T, name string) (f *vfs.File, size int64) {
	t.Helper()
	f = m.created(t, name, 0)
	piece := bytes.Repeat([]byte{'z'}, 64<<10)
	for {
		n, err := f.WriteAt(piece, size)
		size += int64(n)
		if errors.Is(err, syscall.ENOSPC) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Fsync(); err != nil {
		t.Error(err)
	}
	return f, size
}

// TestReclaimFromDirectWrite: a direct write that uses what a buffered one left in the cache is on its way, which
// nobody is told of, when space gets short.
func TestReclaimFromDirectWrite(t *testing.T) {
	generations(t, func(t *testing.T, g vfs.Generation) {
		m, f := reclaimed(t, modelConfig{Config: vfs.Config{Generation: g}})
		d := m.open(t, "f", syscall.O_RDWR|syscall.O_DIRECT)
		ds := bytes.Repeat([]byte{'d'}, 4096)
		write(t, d, ds, 5*4096)
		trap := m.Hold(func(e *vfs.Event) bool { return e.Stage == vfs.DeviceWrite && e.NodeID == f.NodeID() })
		done := make(chan error, 1)
		go func() {
			_, err := d.WriteAt(ds, 6*4096)
			done <- err
		}()
		trap.Wait()
		if n := m.Counts()[fuse.OpIomapBegin]; n > 0 {
			t.Errorf("direct writes asked %d times", n)
		}
		z, size := m.fill(t, "z")
		trap.Release()
		if err := <-done; err != nil {
			t.Error(err)
		}
		z.DontNeed()
		got := make([]byte, size)
		if _, err := z.ReadAt(got, 0); err != nil || !bytes.Equal(got, bytes.Repeat([]byte{'z'}, int(size))) {
			t.Errorf("the other file has something else in it: %v", err)
		}
		if err := z.Close(); err != nil {
			t.Error(err)
		}
		for _, x := range []*vfs.File{d, f} {
			if err := x.Close(); err != nil {
				t.Error(err)
			}
		}
		m.content(t, "f", append(xs(5*4096), append(ds, ds...)...))
	})
}
