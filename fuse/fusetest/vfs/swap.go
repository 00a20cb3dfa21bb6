package vfs

import (
	"slices"
	"syscall"

	"ext4box/fuse"
	"ext4box/iomap"
)

// SwapOn makes the file a swap file and returns the extents that swap space would use.
func (f *File) SwapOn() ([]Extent, error) {
	in, c := f.in, f.caller()
	if !in.mapped() {
		return nil, syscall.EINVAL
	}
	// What is mapped has to be committed: nobody will ask the server for it again.
	if errno := f.fsync(true); errno != 0 {
		return nil, errno
	}
	in.rwsem.Lock()
	defer in.rwsem.Unlock()
	if in.isSwap() {
		return nil, syscall.EBUSY
	}
	var list []Extent
	size := roundDown(in.size(), f.fs.blocksize)
	_, errno := in.iterate(c, 0, size, iomap.Report|iomap.SwapFile, func(m *found, pos, n uint64) (uint64, syscall.Errno) {
		t := &m.target
		usable := (t.typ == iomap.Mapped || t.typ == iomap.Unwritten) && t.flags&(iomap.Shared|iomap.Dirty) == 0 &&
			!slices.ContainsFunc(list, func(e Extent) bool { return e.Dev != t.dev })
		if !usable {
			return 0, syscall.EINVAL
		}
		list = append(list, Extent{Offset: pos, Length: n, Addr: t.addr + pos - t.offset, Dev: t.dev, Type: t.typ})
		return n, 0
	})
	if errno == 0 && size == 0 {
		errno = syscall.EINVAL
	}
	if errno != 0 {
		in.swapEnd(c)
		return nil, errno
	}
	in.mu.Lock()
	in.swap = true
	in.mu.Unlock()
	return list, nil
}

// SwapOff makes it an ordinary file again.
func (f *File) SwapOff() error {
	in := f.in
	in.mu.Lock()
	was := in.swap
	in.swap = false
	in.mu.Unlock()
	if !was {
		return syscall.EINVAL
	}
	return fail(in.swapEnd(f.caller()))
}

// swapEnd tells the server that the file is not, or could not become, swap space.
func (in *inode) swapEnd(c caller) syscall.Errno {
	return in.ioend(c, &ioend{flags: fuse.IoendSwapoff})
}
