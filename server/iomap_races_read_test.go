package server_test

import (
	"bytes"
	"fmt"
	"syscall"
	"testing"
	"time"

	"ext4box/ext4"
	"ext4box/fuse/fusetest/vfs"
)

// TestRacesOfReaders stops somebody who reads a file between finding out where the data is and reading it, and has the
// blocks taken away meanwhile and given to another file, whose data nobody else may see.
func TestRacesOfReaders(t *testing.T) {
	const n = 64 << 10
	readers := map[string]int{"buffered": syscall.O_RDWR, "direct": syscall.O_RDWR | syscall.O_DIRECT}
	points := map[string]vfs.Stage{"mapped": vfs.MappingFound, "on its way": vfs.DeviceRead}
	others := map[string]func(f *vfs.File) error{
		"punch": func(f *vfs.File) error {
			return f.Fallocate(ext4.FallocPunchHole|ext4.FallocKeepSize, 4096, n-8192)
		},
		"zero": func(f *vfs.File) error {
			return f.Fallocate(ext4.FallocZeroRange|ext4.FallocKeepSize, 4096, n-8192)
		},
		"truncate": func(f *vfs.File) error {
			if err := f.Truncate(4096); err != nil {
				return err
			}
			return f.Truncate(n)
		},
	}
	for reader, flags := range readers {
		for point, stage := range points {
			for name, other := range others {
				t.Run(fmt.Sprintf("%s/%s/%s", reader, point, name), func(t *testing.T) {
					generations(t, func(t *testing.T, g vfs.Generation) {
						m := mountModelWith(t, modelConfig{
							Config: vfs.Config{Generation: g}, size: 12 << 20, mke2fs: []string{"-t", "ext4", "-b", "4096", "-J", "size=4"},
							prepare: func(fs *ext4.FS) { file(t, fs, "f", xs(n), n) },
						})
						f, r := m.open(t, "f", syscall.O_RDWR), m.open(t, "f", flags)
						trap := m.Hold(func(e *vfs.Event) bool { return e.Stage == stage && e.NodeID == f.NodeID() })
						got := make([]byte, n)
						read, done := make(chan error, 1), make(chan error, 1)
						go func() { _, err := r.ReadAt(got, 0); read <- err }()
						trap.Wait()
						go func() {
							err := other(f)
							if err == nil {
								err = m.Sync() // what was freed can be used now
							}
							done <- err
						}()
						select {
						case err := <-done:
							done <- err
						case <-time.After(5 * time.Millisecond): // it has to wait
						}
						z, _ := m.fillUp(t, "z")
						trap.Release()
						for _, c := range []chan error{read, done} {
							if err := <-c; err != nil {
								t.Error(err)
							}
						}
						if i := bytes.IndexByte(got, 'z'); i >= 0 {
							t.Errorf("byte %d is from another file", i)
						}
						z2, _ := m.fillUp(t, "z2")
						again := make([]byte, n)
						if _, err := f.ReadAt(again, 0); err != nil || bytes.IndexByte(again, 'z') >= 0 || again[0] != 'x' || again[4096] != 0 {
							t.Errorf("afterwards the file has something else in it: %v", err)
						}
						for _, f := range []*vfs.File{f, r, z, z2} {
							if err := f.Close(); err != nil {
								t.Error(err)
							}
						}
					})
				})
			}
		}
	}
}
