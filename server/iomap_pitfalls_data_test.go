package server_test

import (
	"bytes"
	"slices"
	"sync"
	"syscall"

	"ext4box/blockdev"
	"ext4box/ext4"
	"ext4box/fuse"
	"ext4box/fuse/fusetest/vfs"
	"ext4box/iomap"
)

func ys(n int) []byte { return bytes.Repeat([]byte{'y'}, n) }

var dataPitfalls = []pitfall{{
	name:   "3 a size that is too large",
	tamper: edited(func(o *fuse.IomapIoendOut) { o.Newsize += 1 << 20 }, fuse.OpIomapIoend),
	use:    writeFile,
	found:  "newsize",
}, {
	name: "3 a size before the data is there",
	build: func(m *mounted, ops fuse.Operations) fuse.Operations {
		return &faulty{Operations: ops, begin: func(r *fuse.Request, in *fuse.IomapBeginIn, out *fuse.IomapBeginOut) syscall.Errno {
			if in.Op == iomap.Write {
				if err := m.fs.Truncate(ext4.Ino(r.NodeID), in.Pos+in.Count); err != nil {
					return syscall.EIO
				}
			}
			return ops.IomapBegin(r, in, out)
		}}
	},
	modelConfig: modelConfig{device: recorded},
	use: func(p *probe) {
		f := p.create("f", 0)
		defer f.Close()
		p.must(f.Fsync())
		p.write(f, xs(5000), 0)
		p.must(p.m.fs.Sync()) // a commit of the journal, before the data is written back
		p.crashed("f", nil)
	},
	found: "after a crash",
}, {
	name:        "4 FSYNC that commits nothing",
	modelConfig: modelConfig{device: recorded},
	build: func(_ *mounted, ops fuse.Operations) fuse.Operations {
		return &faulty{Operations: ops, fsync: func(*fuse.Request, *fuse.FsyncIn) syscall.Errno { return 0 }}
	},
	use:   syncedFile,
	found: "after a crash",
}, {
	name:        "4 FSYNC without a flush of the device",
	modelConfig: modelConfig{device: recorded},
	mount:       func(c *modelConfig) { c.open.NoBarrier = true },
	use:         syncedFile,
	found:       "after a crash",
}, {
	name:        "5 uncommitted blocks that are not DIRTY",
	modelConfig: modelConfig{device: recorded},
	tamper:      upserts(func(u *fuse.IomapUpsertMappings) { u.Read.Flags &^= iomap.Dirty }),
	use: func(p *probe) {
		f := p.create("f", syscall.O_DIRECT)
		p.write(f, xs(8192), 0)
		p.must(f.Close())
		f = p.open("f", syscall.O_RDWR|syscall.O_DIRECT|syscall.O_DSYNC)
		defer f.Close()
		p.write(f, ys(4096), 0)
		p.crashed("f", append(ys(4096), xs(4096)...))
	},
	found: "after a crash",
}, {
	name:        "6 zeroing behind the end of a file",
	modelConfig: modelConfig{prepare: holding("f", xs(100), 100)},
	build: func(m *mounted, ops fuse.Operations) fuse.Operations {
		return &faulty{Operations: ops, fallocate: func(r *fuse.Request, in *fuse.FallocateIn) syscall.Errno {
			size, err := m.fs.FileSize(ext4.Ino(r.NodeID))
			if err != nil {
				return syscall.EIO
			}
			last, err := m.fs.Begin(ext4.Ino(r.NodeID), size, 1, iomap.Report)
			if err != nil || last.Type != iomap.Mapped {
				return syscall.EIO
			}
			if _, err := m.dev.WriteAt(make([]byte, 4096-size%4096), int64(last.Addr+size-last.Offset)); err != nil {
				return syscall.EIO
			}
			return ops.Fallocate(r, in)
		}}
	},
	use: func(p *probe) {
		f := p.open("f", syscall.O_RDWR)
		defer f.Close()
		p.write(f, ys(12000), 100)
		// The data is on the device, which the server does not know yet.
		ioend := p.m.Hold(vfs.RequestOf(fuse.OpIomapIoend))
		var wg sync.WaitGroup
		wg.Go(p.m.WriteBack)
		ioend.Wait()
		reply := p.m.Hold(vfs.ReplyTo(fuse.OpFallocate))
		wg.Go(func() {
			if err := f.Fallocate(0, 0, 20000); err != nil {
				p.Errorf("fallocate: %v", err)
			}
		})
		reply.Wait()
		ioend.Release()
		reply.Release()
		wg.Wait()
		f.DontNeed()
		p.content(f, slices.Concat(xs(100), ys(12000), make([]byte, 7900)))
	},
	found: "the content is wrong",
}, {
	name: "18 metadata that goes through a page cache of the device, in blocks that are too large",
	mount: func(c *modelConfig) {
		c.engine = func(d blockdev.Device) blockdev.Device { return &aliased{Device: d} }
	},
	use: func(p *probe) {
		var files []*vfs.File
		for i := range 8 {
			dir := string(rune('a' + i))
			p.must(p.m.Mkdir(dir, 0o755))
			f := p.create(dir+"/f", 0)
			defer f.Close()
			files = append(files, f)
			p.write(f, xs(20000), 0)
			p.must(p.m.Freeze()) // everything goes home
			p.must(p.m.Thaw())
		}
		for i, f := range files {
			p.write(f, ys(20000), 0)
			p.must(f.Fsync())
			for _, n := range []string{"1", "2"} {
				p.must(p.m.Mkdir(string(rune('a'+i))+"/"+n, 0o755))
			}
			p.must(p.m.Freeze())
			p.must(p.m.Thaw())
		}
		for _, f := range files {
			f.DontNeed()
			p.content(f, ys(20000))
		}
	},
	found: "the content is wrong",
}, {
	name:        "21 inline data that is not padded",
	modelConfig: modelConfig{mke2fs: images["inline"]},
	build: func(m *mounted, ops fuse.Operations) fuse.Operations {
		return &faulty{Operations: ops, read: func(r *fuse.Request, in *fuse.ReadIn, buf []byte) (int, syscall.Errno) {
			n, errno := ops.Read(r, in, buf)
			size, err := m.fs.FileSize(ext4.Ino(r.NodeID))
			if errno != 0 || err != nil {
				return 0, syscall.EIO
			}
			return int(min(uint64(n), size-min(size, in.Offset))), 0
		}}
	},
	use:   inlineFile,
	found: "READ of inline data ends",
}, {
	name:        "21 inline data for open files only",
	modelConfig: modelConfig{mke2fs: images["inline"]},
	build: func(_ *mounted, ops fuse.Operations) fuse.Operations {
		return &faulty{Operations: ops, read: func(r *fuse.Request, in *fuse.ReadIn, buf []byte) (int, syscall.Errno) {
			if in.Fh == 0 {
				return 0, syscall.EBADF
			}
			return ops.Read(r, in, buf)
		}}
	},
	use:   inlineFile,
	found: "bad file descriptor",
}, {
	name:        "21 inline data that leaves the size to IOEND",
	modelConfig: modelConfig{mke2fs: images["inline"]},
	build: func(m *mounted, ops fuse.Operations) fuse.Operations {
		return &faulty{Operations: ops, write: func(r *fuse.Request, in *fuse.WriteIn, data []byte) (int, syscall.Errno) {
			size, err := m.fs.FileSize(ext4.Ino(r.NodeID))
			n, errno := ops.Write(r, in, data)
			if err != nil || m.fs.Truncate(ext4.Ino(r.NodeID), size) != nil {
				return 0, syscall.EIO
			}
			return n, errno
		}}
	},
	use:   inlineFile,
	found: "the content is wrong",
}, {
	name: "24 FALLOCATE that leaves the size to IOEND",
	build: func(_ *mounted, ops fuse.Operations) fuse.Operations {
		return &faulty{Operations: ops, fallocate: func(r *fuse.Request, in *fuse.FallocateIn) syscall.Errno {
			kept := *in
			kept.Mode |= ext4.FallocKeepSize
			return ops.Fallocate(r, &kept)
		}}
	},
	use: func(p *probe) {
		f := p.create("f", 0)
		p.must(f.Fallocate(0, 0, 100000))
		p.write(f, xs(10), 0)
		p.must(f.Close())
		p.m.DropCaches()
		f = p.open("f", syscall.O_RDWR)
		defer f.Close()
		p.content(f, append(xs(10), make([]byte, 99990)...))
	},
	found: "the content is wrong",
}, {
	name:        "25 IOEND with an error that converts",
	modelConfig: modelConfig{data: func(d blockdev.Device) blockdev.Device { return &secondHand{Device: d} }},
	build: func(_ *mounted, ops fuse.Operations) fuse.Operations {
		return &faulty{Operations: ops, ioend: func(r *fuse.Request, in *fuse.IomapIoendIn, out *fuse.IomapIoendOut) syscall.Errno {
			if in.Error == 0 {
				return ops.IomapIoend(r, in, out)
			}
			fine := *in
			fine.Error = 0
			if errno := ops.IomapIoend(r, &fine, out); errno != 0 {
				return errno
			}
			return syscall.Errno(-in.Error)
		}}
	},
	use: func(p *probe) {
		f := p.create("f", syscall.O_DIRECT)
		p.must(f.Fallocate(0, 0, 65536))
		p.write(f, xs(4096), 0)
		if _, err := f.WriteAt(bytes.Repeat([]byte{bad}, 4096), 4096); err != syscall.EIO {
			p.Errorf("a write that fails: %v", err)
		}
		p.must(f.Close())
		p.m.DropCaches()
		f = p.open("f", syscall.O_RDWR)
		defer f.Close()
		p.content(f, append(xs(4096), make([]byte, 61440)...))
	},
	found: "the content is wrong",
}}

// syncedFile writes a file that a crash must not take away any more.
func syncedFile(p *probe) {
	f := p.create("f", 0)
	defer f.Close()
	p.write(f, xs(10000), 0)
	p.must(f.Fsync())
	p.crashed("f", xs(10000))
}

// inlineFile writes a file that is small enough for its inode, and reads it again.
func inlineFile(p *probe) {
	f := p.create("f", 0)
	p.write(f, xs(40), 0)
	p.write(f, ys(10), 35)
	p.must(f.Close())
	p.m.DropCaches()
	f = p.open("f", syscall.O_RDWR)
	defer f.Close()
	p.content(f, append(xs(35), ys(10)...))
}

// aliased is a device behind a page cache with pages that are larger than the blocks of the filesystem: who
// writes one block writes its neighbours with it, as they once were.
type aliased struct {
	blockdev.Device
	mu    sync.Mutex
	pages map[int64][]byte
}

const aliasedPage = 64 << 10

// page returns the page at an offset, and what is behind the offset in it.
func (a *aliased) page(off int64) (page, from []byte, err error) {
	i := off / aliasedPage
	if a.pages == nil {
		a.pages = map[int64][]byte{}
	}
	page = a.pages[i]
	if page == nil {
		page = make([]byte, aliasedPage)
		if _, err := a.Device.ReadAt(page, i*aliasedPage); err != nil {
			return nil, nil, err
		}
		a.pages[i] = page
	}
	return page, page[off%aliasedPage:], nil
}

func (a *aliased) ReadAt(p []byte, off int64) (int, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	done := 0
	for done < len(p) {
		_, from, err := a.page(off + int64(done))
		if err != nil {
			return done, err
		}
		done += copy(p[done:], from)
	}
	return done, nil
}

func (a *aliased) WriteAt(p []byte, off int64) (int, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	done := 0
	for done < len(p) {
		at := off + int64(done)
		page, from, err := a.page(at)
		if err != nil {
			return done, err
		}
		done += copy(from, p[done:])
		if _, err := a.Device.WriteAt(page, at/aliasedPage*aliasedPage); err != nil {
			return done, err
		}
	}
	return done, nil
}

// secondHand is a device on which there is something of its former owner wherever nobody has written, and
// that cannot write what begins with bad.
type secondHand struct {
	blockdev.Device
	mu      sync.Mutex
	written map[int64]bool
}

const bad = '!'

func (d *secondHand) ReadAt(p []byte, off int64) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	n, err := d.Device.ReadAt(p, off)
	for i := range p[:n] {
		if !d.written[(off+int64(i))/512] {
			p[i] = 'S'
		}
	}
	return n, err
}

func (d *secondHand) WriteAt(p []byte, off int64) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if p[0] == bad {
		return 0, syscall.EIO
	}
	if d.written == nil {
		d.written = map[int64]bool{}
	}
	for i := int64(0); i < int64(len(p)); i += 512 {
		d.written[(off+i)/512] = true
	}
	return d.Device.WriteAt(p, off)
}
