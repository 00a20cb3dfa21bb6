package server_test

import (
	"bytes"
	"errors"
	"fmt"
	"syscall"
	"testing"

	"ext4box/fuse"
	"ext4box/fuse/fusetest/vfs"
)

// smallModel is the configuration of a small filesystem of which nothing is kept back for root.
func smallModel(c vfs.Config) modelConfig {
	return modelConfig{Config: c, size: 64 << 20, mke2fs: []string{"-t", "ext4", "-b", "4096", "-J", "size=4", "-m", "0"}}
}

// streamed makes a file by small writes, which has blocks ahead of its end then, and returns it open.
func (m *mounted) streamed(t *testing.T, name string, blocks int) *vfs.File {
	t.Helper()
	f := m.created(t, name, 0)
	for i := range blocks {
		write(t, f, xs(4096), int64(i)*4096)
	}
	if err := f.Fsync(); err != nil {
		t.Fatal(err)
	}
	return f
}

// fillUp writes to a new file until there is no space, also when nothing is kept any more for what its map
// may need, and has the data on the device.
func (m *mounted) fillUp(t *testing.T, name string) (f *vfs.File, size int) {
	t.Helper()
	f = m.created(t, name, 0)
	piece := bytes.Repeat([]byte{'z'}, 64<<10)
	for full := false; ; {
		n, err := f.WriteAt(piece, int64(size))
		size += n
		switch {
		case errors.Is(err, syscall.ENOSPC) && full && n == 0:
			return f, size
		case errors.Is(err, syscall.ENOSPC):
			full = true
			err = f.Fsync()
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// TestModelDirectInFlight: a direct write is on its way to blocks ahead, which it found in the cache, where a
// buffered write had left them. Nobody was told of it when space gets short.
func TestModelDirectInFlight(t *testing.T) {
	for _, image := range []string{"extents", "indirect", "clusters"} {
		t.Run(image, func(t *testing.T) {
			generations(t, func(t *testing.T, g vfs.Generation) {
				c := smallModel(vfs.Config{Generation: g})
				c.size, c.mke2fs = 32<<20, images[image]
				testDirectInFlight(t, mountModelWith(t, c))
			})
		})
	}
}

func testDirectInFlight(t *testing.T, m *mounted) {
	f := m.streamed(t, "f", 5)
	d := m.open(t, "f", syscall.O_RDWR|syscall.O_DIRECT)
	trap := m.Hold(func(e *vfs.Event) bool { return e.Stage == vfs.DeviceWrite && e.NodeID == f.NodeID() })
	m.ResetTrace()
	done := make(chan error, 1)
	go func() {
		_, err := d.WriteAt(bytes.Repeat([]byte{'d'}, 8192), 5*4096)
		done <- err
	}()
	trap.Wait()
	if m.Count(fuse.OpIomapBegin) != 0 {
		t.Fatalf("the direct write asked: %q", m.Trace())
	}
	z, size := m.fillUp(t, "z")
	trap.Release()
	if err := <-done; err != nil {
		t.Error(err)
	}
	z.DontNeed()
	m.content(t, "z", bytes.Repeat([]byte{'z'}, size))
	m.content(t, "f", append(xs(5*4096), bytes.Repeat([]byte{'d'}, 8192)...))
	for _, f := range []*vfs.File{z, d, f} {
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	}
}

// TestModelLeftovers: what files that nobody uses have left is there for others, to the last block.
func TestModelLeftovers(t *testing.T) {
	generations(t, func(t *testing.T, g vfs.Generation) {
		m := mountModelWith(t, smallModel(vfs.Config{Generation: g, Socket: true}))
		for i := range 30 {
			if err := m.streamed(t, fmt.Sprint("f", i), 20).Close(); err != nil {
				t.Error(err)
			}
		}
		before, err := m.Statfs()
		if err != nil {
			t.Fatal(err)
		}
		z, size := m.fillUp(t, "z")
		// But for what the map takes.
		if got := uint64(size) / 4096; got+4 < before.Bavail {
			t.Errorf("%d blocks could be written when %d were free", got, before.Bavail)
		}
		if m.Notifications(9) == 0 || m.Count(fuse.OpForget) == 0 {
			t.Error("nothing was asked for")
		}
		if err := z.Close(); err != nil {
			t.Error(err)
		}
		m.content(t, "z", bytes.Repeat([]byte{'z'}, size))
		for i := range 30 {
			m.content(t, fmt.Sprint("f", i), xs(20*4096))
		}
	})
}

// TestModelNoPrune: where the kernel cannot be asked the filesystem is full a little earlier, which it says.
func TestModelNoPrune(t *testing.T) {
	generations(t, func(t *testing.T, g vfs.Generation) {
		m := mountModelWith(t, smallModel(vfs.Config{Generation: g, NoPrune: true}))
		for i := range 3 {
			if err := m.streamed(t, fmt.Sprint("f", i), 20).Close(); err != nil {
				t.Error(err)
			}
		}
		z, _ := m.fillUp(t, "z")
		for range 2 {
			if _, err := z.Append(xs(4096)); !errors.Is(err, syscall.ENOSPC) {
				t.Errorf("a full filesystem: %v", err)
			}
		}
		if n := m.Notifications(9); n != 1 {
			t.Errorf("asked %d times", n)
		}
		if st, err := m.Statfs(); err != nil || st.Bavail > 8 {
			t.Errorf("%d blocks are free on a full filesystem, %v", st.Bavail, err)
		}
		if err := z.Close(); err != nil {
			t.Error(err)
		}
		// When the kernel forgets them all the same there is space.
		m.DropCaches()
		f := m.streamed(t, "more", 20)
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	})
}
