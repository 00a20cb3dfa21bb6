package server_test

import (
	"bytes"
	"math/rand/v2"
	"syscall"
	"testing"

	"ext4box/ext4"
	"ext4box/fuse"
	"ext4box/fuse/fusetest/vfs"
)

// counted mounts an empty filesystem with a file, opened with flags.
func counted(t *testing.T, g vfs.Generation, flags int, prepare func(*ext4.FS, ext4.Ino) error) (*mounted, *vfs.File) {
	t.Helper()
	m := mountModelWith(t, modelConfig{Config: vfs.Config{Generation: g}, size: 512 << 20, prepare: func(fs *ext4.FS) {
		file(t, fs, "f", nil, 0)
		ino, err := fs.Lookup(ext4.RootIno, "f")
		if err == nil && prepare != nil {
			err = prepare(fs, ino)
		}
		if err != nil {
			t.Fatal(err)
		}
	}})
	return m, m.open(t, "f", syscall.O_RDWR|flags)
}

// atMost checks how many requests of a kind there were.
func (m *mounted) atMost(t *testing.T, op fuse.Opcode, n int) {
	t.Helper()
	if got := m.Count(op); got > n {
		t.Errorf("%d %v, at most %d are allowed", got, op, n)
	}
}

// TestCountBufferedAppends: 1,024 writes of a block are what 4 questions, and 2 reports, are for.
func TestCountBufferedAppends(t *testing.T) {
	generations(t, func(t *testing.T, g vfs.Generation) {
		m, f := counted(t, g, 0, nil)
		for i := range int64(1024) {
			write(t, f, xs(4096), 4096*i)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		m.atMost(t, fuse.OpIomapBegin, 4)
		m.atMost(t, fuse.OpIomapEnd, 1) // which is answered with ENOSYS
		m.atMost(t, fuse.OpIomapIoend, 2)
		m.content(t, "f", xs(4<<20))
	})
}

// TestCountDirectAppends: each write is reported, for only then it counts.
func TestCountDirectAppends(t *testing.T) {
	generations(t, func(t *testing.T, g vfs.Generation) {
		m, f := counted(t, g, syscall.O_DIRECT, nil)
		for i := range int64(1024) {
			write(t, f, xs(4096), 4096*i)
		}
		m.atMost(t, fuse.OpIomapBegin, 4)
		m.atMost(t, fuse.OpIomapEnd, 1)
		if got := m.Count(fuse.OpIomapIoend); got != 1024 {
			t.Errorf("%d IOEND", got)
		}
		f.Close()
		m.content(t, "f", xs(4<<20))
	})
}

// TestCountPreallocated: where there are blocks nobody asks.
func TestCountPreallocated(t *testing.T) {
	generations(t, func(t *testing.T, g vfs.Generation) {
		m, f := counted(t, g, syscall.O_DIRECT, nil)
		if err := f.Fallocate(0, 0, 4<<20); err != nil {
			t.Fatal(err)
		}
		p := make([]byte, 4096)
		if _, err := f.ReadAt(p, 0); err != nil {
			t.Fatal(err)
		}
		m.ResetTrace()
		for i := range int64(256) {
			write(t, f, xs(4096), 16384*i+8192)
		}
		m.atMost(t, fuse.OpIomapBegin, 0)
		f.Close()
	})
}

// TestCountRandomDirect: a block in a hole costs a question and a report.
func TestCountRandomDirect(t *testing.T) {
	generations(t, func(t *testing.T, g vfs.Generation) {
		m, f := counted(t, g, syscall.O_DIRECT, func(fs *ext4.FS, ino ext4.Ino) error { return fs.Truncate(ino, 32<<20) })
		rng := rand.New(rand.NewPCG(4, 2))
		want := make([]byte, 32<<20)
		for range 50 {
			m.ResetTrace()
			at := 4096 * rng.Int64N(8192)
			hole := want[at] == 0
			write(t, f, xs(4096), at)
			copy(want[at:], xs(4096))
			m.atMost(t, fuse.OpIomapBegin, 1)
			if hole && m.Count(fuse.OpIomapIoend) != 1 || !hole && m.Count(fuse.OpIomapIoend) != 0 {
				t.Errorf("at %d, hole %t: %d IOEND", at, hole, m.Count(fuse.OpIomapIoend))
			}
		}
		f.Close()
		m.content(t, "f", want)
	})
}

// TestCountLargeFile: a file that is written in one go asks once in 64 MiB. It is a quarter of what the rule is for,
// and so stricter: the first questions get less.
func TestCountLargeFile(t *testing.T) {
	generations(t, func(t *testing.T, g vfs.Generation) {
		const size, chunk = 256 << 20, 1 << 20
		m := mountModelWith(t, modelConfig{Config: vfs.Config{Generation: g}, size: 4 << 30})
		f, err := m.Open("f", syscall.O_RDWR|syscall.O_CREAT, 0o644)
		if err != nil {
			t.Fatal(err)
		}
		m.ResetTrace()
		for off := int64(0); off < size; off += chunk {
			write(t, f, xs(chunk), off)
			if off%(32<<20) == 0 {
				m.WriteBack() // as a timer would
			}
		}
		if err := f.Fsync(); err != nil {
			t.Fatal(err)
		}
		m.atMost(t, fuse.OpIomapBegin, size/(64<<20))
		m.atMost(t, fuse.OpIomapEnd, 1)
		p := make([]byte, chunk)
		if n, err := f.ReadAt(p, size-chunk); n != chunk || err != nil || !bytes.Equal(p, xs(chunk)) {
			t.Errorf("read: %d, %v", n, err)
		}
		f.Close()
	})
}
