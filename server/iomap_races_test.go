package server_test

import (
	"bytes"
	"fmt"
	"slices"
	"syscall"
	"testing"
	"time"

	"ext4box/ext4"
	"ext4box/fuse"
	"ext4box/fuse/fusetest/vfs"
)

// TestRaces stops the writeback of what was written to a hole, and of what was appended, at each of its points, and
// does something else to the file meanwhile.
func TestRaces(t *testing.T) {
	const n = 16384
	zeros := func(n int) []byte { return make([]byte, n) }
	ys := bytes.Repeat([]byte{'y'}, n)
	points := map[string]func(*vfs.Event) bool{
		"before the data":  vfs.At(vfs.DeviceWrite),
		"behind the data":  vfs.At(vfs.DeviceDone),
		"before the IOEND": vfs.RequestOf(fuse.OpIomapIoend),
		"behind the IOEND": vfs.ReplyTo(fuse.OpIomapIoend),
	}
	others := map[string]struct {
		do   func(m *mounted, f *vfs.File) error
		want func(tail []byte) []byte // the file in the end, of which tail is what is behind the write
	}{
		"overwrite": {
			func(_ *mounted, f *vfs.File) error { _, err := f.WriteAt(ys, 0); return err },
			func(tail []byte) []byte { return slices.Concat(ys, tail) },
		},
		"truncate": {
			func(_ *mounted, f *vfs.File) error { return f.Truncate(5000) },
			func([]byte) []byte { return xs(5000) },
		},
		"extend": {
			func(_ *mounted, f *vfs.File) error { return f.Truncate(100000) },
			func([]byte) []byte { return slices.Concat(xs(n), zeros(100000-n)) },
		},
		"punch": {
			func(_ *mounted, f *vfs.File) error {
				return f.Fallocate(ext4.FallocPunchHole|ext4.FallocKeepSize, 2048, 8192)
			},
			func(tail []byte) []byte { return slices.Concat(xs(2048), zeros(8192), xs(n-2048-8192), tail) },
		},
		"preallocate": {
			func(_ *mounted, f *vfs.File) error { return f.Fallocate(0, 0, 100000) },
			func([]byte) []byte { return slices.Concat(xs(n), zeros(100000-n)) },
		},
		"append": {
			func(_ *mounted, f *vfs.File) error {
				if _, err := f.Append(ys[:100]); err != nil {
					return err
				}
				return f.Fsync()
			},
			func(tail []byte) []byte { return slices.Concat(xs(n), tail, ys[:100]) },
		},
		"read": {
			func(_ *mounted, f *vfs.File) error {
				got := make([]byte, n)
				if _, err := f.ReadAt(got, 0); err != nil || !bytes.Equal(got, xs(n)) {
					return fmt.Errorf("reads as something else: %v", err)
				}
				return nil
			},
			func(tail []byte) []byte { return slices.Concat(xs(n), tail) },
		},
		"direct": {
			func(m *mounted, _ *vfs.File) error {
				d, err := m.Open("f", syscall.O_RDWR|syscall.O_DIRECT, 0)
				if err != nil {
					return err
				}
				defer d.Close()
				_, err = d.WriteAt(ys[:4096], 4096)
				return err
			},
			func(tail []byte) []byte { return slices.Concat(xs(4096), ys[:4096], xs(n-8192), tail) },
		},
		"unlink": {func(m *mounted, _ *vfs.File) error { return m.Unlink("f") }, nil},
	}
	for _, size := range []int{0, 40000} { // of the file before
		for point, match := range points {
			for name, other := range others {
				t.Run(fmt.Sprintf("%d/%s/%s", size, name, point), func(t *testing.T) {
					generations(t, func(t *testing.T, g vfs.Generation) {
						m := mountModelWith(t, modelConfig{Config: vfs.Config{Generation: g}, size: 8 << 20, prepare: func(fs *ext4.FS) { file(t, fs, "f", nil, uint64(size)) }})
						f := m.open(t, "f", syscall.O_RDWR)
						write(t, f, xs(n), 0)
						trap := m.Hold(match)
						synced, done := make(chan error, 1), make(chan error, 1)
						go func() { synced <- f.Fsync() }()
						trap.Wait()
						go func() { done <- other.do(m, f) }()
						// It may have to wait for the end of writeback, or not.
						select {
						case err := <-done:
							done <- err
						case <-time.After(5 * time.Millisecond):
						}
						trap.Release()
						for _, c := range []chan error{synced, done} {
							if err := <-c; err != nil {
								t.Error(err)
							}
						}
						if err := f.Close(); err != nil {
							t.Error(err)
						}
						if other.want != nil {
							m.content(t, "f", other.want(zeros(max(0, size-n))))
						}
					})
				})
			}
		}
	}
}
