package vfs

import (
	"syscall"

	"ext4box/fuse"
	"ext4box/fuse/fusetest"
)

// Dirent is an entry of a directory.
type Dirent struct {
	Name string
	Type uint8 // DT_*
	Ino  uint64
}

// ReadDir lists a directory, "." and ".." included, in the order of the server.
func (t *Task) ReadDir(path string) ([]Dirent, error) {
	f, err := t.Open(path, syscall.O_RDONLY|syscall.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return f.ReadDir()
}

// ReadDir lists the directory from its beginning.
func (f *File) ReadDir() ([]Dirent, error) {
	if f.in.typ != syscall.S_IFDIR {
		return nil, syscall.ENOTDIR
	}
	f.in.rwsem.RLock()
	defer f.in.rwsem.RUnlock()
	var list []Dirent
	for pos := uint64(0); ; {
		part, errno := f.readDirPart(pos)
		if errno != 0 {
			return nil, errno
		}
		if len(part) == 0 {
			return list, nil
		}
		for _, e := range part {
			list = append(list, Dirent{e.Name, uint8(e.Type), e.Ino})
			pos = e.Next
		}
	}
}

// readDirPart sends one request, with attributes where the server can give them.
func (f *File) readDirPart(pos uint64) ([]fusetest.Dirent, syscall.Errno) {
	const room = 4096
	plus := f.fs.flags&fuse.InitDoReaddirplus != 0 && (pos == 0 || f.fs.flags&fuse.InitReaddirplusAuto == 0)
	op := fuse.OpReaddir
	if plus {
		op = fuse.OpReaddirplus
	}
	s := fuse.ReadIn{Fh: f.fh, Offset: pos, Size: room, Flags: uint32(f.flags)}
	before := f.fs.sizes.Load()
	payload, errno := f.fs.request(f.task().caller(), op, f.in.nodeid, structure(&s))
	if errno != 0 {
		return nil, errno
	}
	if len(payload) > room {
		f.fs.violate("%v of node %d: %d bytes for room of %d", op, f.in.nodeid, len(payload), room)
		return nil, syscall.EIO
	}
	list, err := fusetest.ParseDirents(payload, plus)
	if err != nil {
		f.fs.violate("%v of node %d: %v", op, f.in.nodeid, err)
		return nil, syscall.EIO
	}
	for i := range list {
		f.task().introduceEntry(f.in, &list[i], before)
	}
	return list, 0
}

// introduceEntry takes over an inode that came with the entries of a directory. before is FS.sizes when they
// were asked for.
func (t *Task) introduceEntry(dir *inode, d *fusetest.Dirent, before uint64) {
	e := &d.Entry
	if e.NodeID == 0 {
		return
	}
	if d.Name == "." || d.Name == ".." {
		t.fs.violate("READDIRPLUS of node %d has attributes of %q, whose lookup nobody takes back", dir.nodeid, d.Name)
		return
	}
	in, errno := t.fs.iget(e, t.fs.sentBefore(before, e.NodeID))
	if errno != 0 {
		return
	}
	t.fs.remember(dir, d.Name, in, expiry(e.EntryValid, e.EntryValidNsec))
	t.fs.iput(in)
}
