package server_test

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ext4box/blockdev"
	"ext4box/ext4"
	"ext4box/fuse"
	"ext4box/fuse/fusetest/vfs"
	"ext4box/iomap"
)

// What operations cost is why the kernel moves data itself. These tests count each request that the modelled
// kernel sends, those included that do not concern data, and what the engine makes of them.

// counted is a mount whose engine does nothing by itself, so that its counters tell what requests do.
func counted(t *testing.T, c modelConfig) *mounted {
	t.Helper()
	c.open.CommitInterval = time.Hour
	return mountModelWith(t, c)
}

// cost is what was sent and done while do ran.
type cost struct {
	requests map[fuse.Opcode]int
	ext4.Counters
}

func (m *mounted) cost(do func()) cost {
	m.ResetTrace()
	before := m.fs.Counters()
	do()
	after := m.fs.Counters()
	return cost{m.Counts(), ext4.Counters{
		Handles: after.Handles - before.Handles, Commits: after.Commits - before.Commits,
		LoggedBlocks: after.LoggedBlocks - before.LoggedBlocks, Conversions: after.Conversions - before.Conversions,
	}}
}

// want compares the requests with what is expected. The first write to a file asks once whether there
// are capabilities to be removed.
func (c cost) want(t *testing.T, what string, want map[fuse.Opcode]int) {
	t.Helper()
	if !maps.Equal(c.requests, want) {
		t.Errorf("%s: %v, want %v", what, c.requests, want)
	}
}

// created makes a file by the mount, with what comes only at first left behind.
func (m *mounted) created(t *testing.T, name string, flags int) *vfs.File {
	t.Helper()
	f, err := m.Open(name, syscall.O_RDWR|syscall.O_CREAT|syscall.O_EXCL|flags, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// mapped looks at the whole map of a file on the disk, and complains of anything but written blocks.
func (m *mounted) mapped(t *testing.T, f *vfs.File, size uint64) (extents int) {
	t.Helper()
	list, err := f.Fiemap(0, size, false)
	if err != nil {
		t.Fatal(err)
	}
	at := uint64(0)
	for _, e := range list {
		if e.Offset != at || e.Type != iomap.Mapped {
			t.Errorf("extent %+v, want written blocks from %d on", e, at)
		}
		at = e.Offset + e.Length
	}
	if at < size {
		t.Errorf("written up to %d of %d", at, size)
	}
	return len(list)
}

func TestCountRead(t *testing.T) {
	generations(t, func(t *testing.T, g vfs.Generation) {
		const size = 16 << 20
		m := counted(t, modelConfig{Config: vfs.Config{Generation: g}, prepare: func(fs *ext4.FS) { file(t, fs, "f", xs(size), size) }})
		f := m.open(t, "f", syscall.O_RDWR)
		p := make([]byte, 1<<20)
		all := func() {
			for off := int64(0); off < size; off += int64(len(p)) {
				if _, err := f.ReadAt(p, off); err != nil {
					t.Fatal(err)
				}
			}
		}
		m.cost(all).want(t, "the first read of everything", map[fuse.Opcode]int{fuse.OpIomapBegin: 1})
		m.cost(all).want(t, "again, from the page cache", map[fuse.Opcode]int{})
		f.DontNeed()
		m.cost(all).want(t, "again, from the device", map[fuse.Opcode]int{})
		d := m.open(t, "f", syscall.O_RDWR|syscall.O_DIRECT)
		defer d.Close()
		f.DontNeed()
		m.cost(func() {
			for i := range int64(4096) {
				if _, err := d.ReadAt(p[:4096], i*7919%4096*4096); err != nil {
					t.Fatal(err)
				}
			}
		}).want(t, "4,096 direct reads", map[fuse.Opcode]int{})
		f.Close()
	})
}

func TestCountOverwrite(t *testing.T) {
	generations(t, func(t *testing.T, g vfs.Generation) {
		const size = 4 << 20
		m := counted(t, modelConfig{Config: vfs.Config{Generation: g}, prepare: func(fs *ext4.FS) { file(t, fs, "f", xs(size), size) }})
		for _, flags := range []int{0, syscall.O_DIRECT} {
			f := m.open(t, "f", syscall.O_RDWR|flags)
			write(t, f, xs(4096), 0) // the mapping comes, and GETXATTR
			c := m.cost(func() {
				// Each once, for the kernel forgets the mapping of what is on the device.
				for i := range int64(1023) {
					write(t, f, xs(4096), (1+i*7919%1023)*4096)
				}
			})
			c.want(t, "1,023 overwrites", map[fuse.Opcode]int{})
			c = m.cost(func() {
				if err := f.Fdatasync(); err != nil {
					t.Fatal(err)
				}
			})
			// The times are written with it, as there is no other time for that.
			c.want(t, "fdatasync", map[fuse.Opcode]int{fuse.OpFsync: 1, fuse.OpSetattr: 1})
			f.Close()
		}
	})
}

// forgetful takes the data that the kernel writes and keeps none of it. Metadata, which the engine writes
// past it, is there.
type forgetful struct{ blockdev.Device }

func (forgetful) WriteAt(p []byte, _ int64) (int, error) { return len(p), nil }

// TestCountSequentialWrite writes a new file of 1 GiB, in large and in small pieces, and writes it back from
// time to time.
func TestCountSequentialWrite(t *testing.T) {
	if testing.Short() {
		t.Skip("takes many seconds; TestCountLargeFile is much of it")
	}
	const size, each = 1 << 30, 8 << 20
	for _, piece := range []int{1 << 20, 4096} {
		t.Run(fmt.Sprint(piece), func(t *testing.T) {
			generations(t, func(t *testing.T, g vfs.Generation) {
				m := counted(t, modelConfig{
					Config: vfs.Config{Generation: g}, size: 2 << 30,
					data: func(d blockdev.Device) blockdev.Device { return forgetful{d} },
				})
				f := m.created(t, "f", 0)
				p := make([]byte, piece)
				c := m.cost(func() {
					for off := int64(0); off < size; off += int64(piece) {
						write(t, f, p, off)
						if (off+int64(piece))%each == 0 {
							m.WriteBack()
							f.DontNeed()
						}
					}
					if err := f.Fsync(); err != nil {
						t.Fatal(err)
					}
				})
				if n := c.requests[fuse.OpIomapBegin]; n > size/(64<<20) {
					t.Errorf("%d BEGIN", n)
				}
				if n := c.requests[fuse.OpIomapEnd]; n > 1 { // the first is answered with ENOSYS
					t.Errorf("%d END", n)
				}
				// One for each time that it is written back, and where blocks are not next to each other.
				if n := c.requests[fuse.OpIomapIoend]; n > size/each+16 {
					t.Errorf("%d IOEND", n)
				}
				if c.Conversions != 0 {
					t.Errorf("%d conversions of unwritten blocks", c.Conversions)
				}
				if n := m.mapped(t, f, size); n > 16 {
					t.Errorf("%d extents", n)
				}
				f.Close()
			})
		})
	}
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

// TestCountSmallWrites: pieces of a block to a new file, through the page cache and past it.
func TestCountSmallWrites(t *testing.T) {
	for _, image := range slices.Sorted(maps.Keys(images)) {
		if testing.Short() && image != "extents" {
			continue
		}
		for _, flags := range []int{0, syscall.O_DIRECT} {
			t.Run(fmt.Sprintf("%s/flags%#o", image, flags), func(t *testing.T) {
				generations(t, func(t *testing.T, g vfs.Generation) {
					// In a small one less is ahead than what this expects.
					m := counted(t, modelConfig{Config: vfs.Config{Generation: g}, size: 512 << 20, mke2fs: images[image]})
					// That there is no END is said once for a mount.
					before := m.created(t, "before", 0)
					write(t, before, xs(5000), 0)
					before.Close()
					f := m.created(t, "f", flags)
					c := m.cost(func() {
						for i := range 1024 {
							write(t, f, xs(4096), int64(i)*4096)
						}
						if err := f.Fsync(); err != nil {
							t.Fatal(err)
						}
					})
					// With their blocks in one place, those that were in the page cache are one piece; two would do.
					want := map[fuse.Opcode]int{fuse.OpGetxattr: 1, fuse.OpIomapBegin: 4, fuse.OpIomapIoend: 1, fuse.OpSetattr: 1, fuse.OpFsync: 1}
					if flags != 0 {
						want[fuse.OpIomapIoend] = 1024
					}
					c.want(t, "1,024 writes", want)
					if c.Conversions != 0 {
						t.Errorf("%d conversions of unwritten blocks", c.Conversions)
					}
					m.mapped(t, f, 1024*4096)
					f.Close()
					m.content(t, "f", xs(1024*4096))
				})
			})
		}
	}
}

// TestCountPreallocated: who has preallocated does not wait for anything but the end of a write. If that has made
// the file longer the kernel has asked for the blocks already, to zero them. Otherwise it asks once:
// there is no request behind FALLOCATE in which the mapping could be handed out, and what is handed out in
// FALLOCATE itself is dropped with all that the kernel knows of the range.
func TestCountPreallocated(t *testing.T) {
	for _, keep := range []bool{false, true} {
		t.Run(fmt.Sprintf("keep-%t", keep), func(t *testing.T) {
			generations(t, func(t *testing.T, g vfs.Generation) {
				m := counted(t, modelConfig{Config: vfs.Config{Generation: g}})
				f := m.created(t, "f", syscall.O_DIRECT)
				mode := uint32(0)
				want := map[fuse.Opcode]int{fuse.OpGetxattr: 1, fuse.OpFallocate: 1, fuse.OpIomapBegin: 1}
				if keep {
					mode = ext4.FallocKeepSize
					delete(want, fuse.OpIomapBegin)
				}
				c := m.cost(func() {
					if err := f.Fallocate(mode, 0, 4<<20); err != nil {
						t.Fatal(err)
					}
				})
				c.want(t, "fallocate", want)
				c = m.cost(func() {
					for i := range int64(1024) {
						write(t, f, xs(4096), i*7919%1024*4096)
					}
				})
				want = map[fuse.Opcode]int{fuse.OpIomapIoend: 1024}
				if keep {
					want[fuse.OpIomapBegin] = 1
				}
				c.want(t, "1,024 writes", want)
				if c.Conversions != 1024 {
					t.Errorf("%d conversions of unwritten blocks", c.Conversions)
				}
				f.Close()
				m.content(t, "f", xs(4<<20))
			})
		})
	}
}

// TestCountRandomWrite: a write into a hole is one question, one report, and one transaction to join.
func TestCountRandomWrite(t *testing.T) {
	generations(t, func(t *testing.T, g vfs.Generation) {
		m := counted(t, modelConfig{Config: vfs.Config{Generation: g}, prepare: func(fs *ext4.FS) { file(t, fs, "f", nil, 1<<30) }})
		f := m.open(t, "f", syscall.O_RDWR|syscall.O_DIRECT)
		write(t, f, xs(4096), 0)
		for i := range int64(200) {
			c := m.cost(func() { write(t, f, xs(4096), (i*7919%1000+1)*256*4096) })
			c.want(t, "a write", map[fuse.Opcode]int{fuse.OpIomapBegin: 1, fuse.OpIomapIoend: 1})
			if c.Handles != 1 || c.Conversions != 0 || c.Commits != 0 {
				t.Errorf("write %d: %+v", i, c.Counters)
			}
		}
		f.Close()
	})
}

// TestCountSmallFile: a new file, and looking at it afterwards.
func TestCountSmallFile(t *testing.T) {
	generations(t, func(t *testing.T, g vfs.Generation) {
		// Access is noted once after each change, which takes a clock by which one comes after the other.
		now := time.Now()
		clock := func() time.Time { now = now.Add(time.Second); return now }
		m := counted(t, modelConfig{Config: vfs.Config{Generation: g, Now: clock}})
		if err := m.Mkdir("d", 0o755); err != nil {
			t.Fatal(err)
		}
		// What nobody wants to hear of is said once for a mount.
		before := m.created(t, "before", 0)
		write(t, before, xs(1), 0)
		before.Close()
		m.open(t, "before", syscall.O_RDONLY).Close()
		for i := range 100 {
			name := fmt.Sprintf("d/f%d", i)
			c := m.cost(func() {
				f := m.created(t, name, 0)
				write(t, f, xs(1000), 0)
				if err := f.Close(); err != nil {
					t.Fatal(err)
				}
			})
			want := map[fuse.Opcode]int{
				fuse.OpLookup: 1, fuse.OpCreate: 1, fuse.OpGetxattr: 1, fuse.OpIomapBegin: 1, fuse.OpIomapIoend: 1, fuse.OpSetattr: 1,
			}
			if i == 0 {
				want[fuse.OpGetxattr] = 2 // the directory may have a default ACL
			}
			c.want(t, "a new file", want)
			for again := range 2 {
				var f *vfs.File
				m.cost(func() {
					st, err := m.Statx(name, unix.STATX_BASIC_STATS)
					if err != nil || st.Size != 1000 || st.Blocks == 0 {
						t.Fatalf("%+v, %v", st, err)
					}
					if f, err = m.Open(name, syscall.O_RDONLY, 0); err != nil {
						t.Fatal(err)
					}
					p := make([]byte, 2000)
					if n, err := f.ReadAt(p, 0); n != 1000 || err != nil && err != io.EOF {
						t.Fatal(n, err)
					}
				}).want(t, "stat, open and read", map[fuse.Opcode]int{})
				want := map[fuse.Opcode]int{}
				if again == 0 {
					want[fuse.OpSetattr] = 1 // it had not been read since it was written
				}
				m.cost(func() { f.Close() }).want(t, "close", want)
			}
		}
	})
}
