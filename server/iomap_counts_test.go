package server_test

import (
	"math/rand/v2"
	"syscall"
	"testing"

	"ext4box/ext4"
	"ext4box/fuse"
	"ext4box/fuse/fusetest/vfs"
	"ext4box/iomap"
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

// TestCountLargeFile: for a file of 1 GiB that is written in one go there is at most a question in 64 MiB. No data
// is moved: the test asks where the kernel would, behind the mapping that it has, and reports a bit later.
func TestCountLargeFile(t *testing.T) {
	b := serveBare(t, bareConfig{size: 2 << 30, prepare: someFiles})
	const size, chunk = 1 << 30, 1 << 20
	nodeid := b.node("empty").NodeID
	asked, mapped, done := 0, uint64(0), uint64(0)
	for pos := uint64(0); pos < size; {
		if pos >= mapped {
			m, cached, err := b.begin(nodeid, pos, chunk, iomap.Write)
			if err != nil || !cached || m.Type != iomap.Unwritten {
				t.Fatalf("%+v, kept %t, %v", m, cached, err)
			}
			asked, mapped = asked+1, m.Offset+m.Length
		}
		pos = min(pos+chunk, mapped)
		if pos-done >= 32<<20 {
			b.ioend(nodeid, done, pos-done, fuse.IoendUnwritten|fuse.IoendAppend|fuse.IoendWriteback)
			done = pos
		}
	}
	if got := b.ioend(nodeid, done, size-done, fuse.IoendUnwritten|fuse.IoendAppend|fuse.IoendWriteback); got != size {
		t.Errorf("the size is %d", got)
	}
	if asked > size/(64<<20) {
		t.Errorf("%d questions", asked)
	}
	b.finish(t)
}
