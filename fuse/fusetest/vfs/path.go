package vfs

import (
	"strings"
	"syscall"

	"ext4box/fuse"
)

// walk resolves a path to an inode with a reference.
func (fs *FS) walk(path string) (*inode, syscall.Errno) {
	in := fs.igrab(fs.root)
	for _, name := range split(path) {
		next, errno := fs.lookup(in, name)
		fs.iput(in)
		if errno != 0 {
			return nil, errno
		}
		in = next
	}
	return in, 0
}

func split(path string) []string {
	return strings.FieldsFunc(path, func(r rune) bool { return r == '/' })
}

// lookup asks for a name in a directory.
func (fs *FS) lookup(dir *inode, name string) (*inode, syscall.Errno) {
	payload, errno := fs.request(fs.caller(), fuse.OpLookup, dir.nodeid, append([]byte(name), 0))
	if errno != 0 {
		return nil, errno
	}
	e := decode[fuse.EntryOut](payload)
	if e.NodeID == 0 {
		return nil, syscall.ENOENT
	}
	return fs.iget(&e, nil)
}

// Open opens a file as open(2) does.
func (fs *FS) Open(path string, flags int) (*File, error) {
	in, errno := fs.walk(path)
	if errno != 0 {
		return nil, errno
	}
	f, errno := fs.openInode(fs.caller(), in, flags)
	if errno != 0 {
		return nil, errno
	}
	return f, nil
}

// Create makes a file in the root directory and opens it.
func (fs *FS) Create(path string, mode uint32) (*File, error) {
	names := split(path)
	in := fuse.CreateIn{Flags: syscall.O_RDWR | syscall.O_CREAT | syscall.O_EXCL, Mode: mode | syscall.S_IFREG}
	payload, errno := fs.request(fs.caller(), fuse.OpCreate, fs.root.nodeid, structure(&in), append([]byte(names[len(names)-1]), 0))
	if errno != 0 {
		return nil, errno
	}
	e := decode[fuse.EntryOut](payload)
	out := decode[fuse.OpenOut](payload[128:])
	node, errno := fs.iget(&e, nil)
	if errno != 0 {
		return nil, errno
	}
	return fs.newFile(node, int(in.Flags), &out, false), nil
}

// releaseNames lets go of the inodes that cached names hold.
func (fs *FS) releaseNames() {}

// notifiedName carries out the notifications that concern names.
func (fs *FS) notifiedName(code int32, b []byte) syscall.Errno { return 0 }
