package vfs

import (
	"strings"
	"sync"
	"syscall"
	"time"

	"ext4box/fuse"
)

// walkFlags say how a path is resolved.
type walkFlags int

const (
	follow    walkFlags = 1 << iota // a link at its end
	directory                       // it must lead to a directory
)

const (
	maxPath  = 4096
	maxName  = 1024 // of FUSE; servers have shorter ones
	maxLinks = 40   // symbolic links in a path
)

// dentries are the names that the kernel remembers. mu is a leaf.
type dentries struct {
	mu   sync.Mutex
	dirs map[*inode]map[string]dentry
}

// dentry is a name in a directory. It holds a reference to its inode; without one the name is known to
// be absent.
type dentry struct {
	in      *inode
	expires time.Time
}

// cached returns what is known of a name, with a reference to its inode.
func (fs *FS) cached(dir *inode, name string) (dentry, bool) {
	fs.names.mu.Lock()
	defer fs.names.mu.Unlock()
	d, ok := fs.names.dirs[dir][name]
	if !ok || !time.Now().Before(d.expires) {
		return dentry{}, false
	}
	if d.in != nil {
		fs.igrab(d.in)
	}
	return d, true
}

// remember notes a name; in keeps its reference, and the dentry gets one of its own.
func (fs *FS) remember(dir *inode, name string, in *inode, expires time.Time) {
	if in != nil {
		fs.igrab(in)
	}
	fs.replace(dir, name, &dentry{in, expires})
}

// forgetName lets go of a name, which gives a reference back.
func (fs *FS) forgetName(dir *inode, name string) { fs.replace(dir, name, nil) }

func (fs *FS) replace(dir *inode, name string, d *dentry) {
	fs.names.mu.Lock()
	old := fs.names.dirs[dir][name]
	if d == nil {
		delete(fs.names.dirs[dir], name)
	} else {
		if fs.names.dirs == nil {
			fs.names.dirs = map[*inode]map[string]dentry{}
		}
		if fs.names.dirs[dir] == nil {
			fs.names.dirs[dir] = map[string]dentry{}
		}
		fs.names.dirs[dir][name] = *d
	}
	fs.names.mu.Unlock()
	if old.in != nil {
		fs.iput(old.in)
	}
}

// forgetChildren lets go of all names in a directory.
func (fs *FS) forgetChildren(dir *inode) {
	fs.names.mu.Lock()
	names := fs.names.dirs[dir]
	delete(fs.names.dirs, dir)
	fs.names.mu.Unlock()
	for _, d := range names {
		if d.in != nil {
			fs.iput(d.in)
		}
	}
}

// releaseNames lets go of the inodes that names hold.
func (fs *FS) releaseNames() {
	fs.names.mu.Lock()
	dirs := fs.names.dirs
	fs.names.dirs = nil
	fs.names.mu.Unlock()
	for _, names := range dirs {
		for _, d := range names {
			if d.in != nil {
				fs.iput(d.in)
			}
		}
	}
}

// releaseUnused lets go of the names of an inode to which the caller has a reference, if nobody but him
// and they have one, and tells whether that was so. A directory with names in it is in use.
func (fs *FS) releaseUnused(in *inode) bool {
	type place struct {
		dir  *inode
		name string
	}
	var places []place
	fs.names.mu.Lock()
	defer fs.names.mu.Unlock()
	for dir, names := range fs.names.dirs {
		for name, d := range names {
			if d.in == in {
				places = append(places, place{dir, name})
			}
		}
	}
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if in == fs.root || in.refs != len(places)+1 || len(fs.names.dirs[in]) > 0 {
		return false
	}
	for _, p := range places {
		delete(fs.names.dirs[p.dir], p.name)
		in.refs--
	}
	return true
}

// lookup returns the inode of a name, with a reference, or nil if there is none. A LOOKUP is sent with
// the directory locked shared, unless the caller has locked it.
func (t *Task) lookup(dir *inode, name string, locked bool) (*inode, syscall.Errno) {
	if len(name) > maxName {
		return nil, syscall.ENAMETOOLONG
	}
	if d, ok := t.fs.cached(dir, name); ok {
		return d.in, 0
	}
	if !locked {
		dir.rwsem.RLock()
		defer dir.rwsem.RUnlock()
		if d, ok := t.fs.cached(dir, name); ok {
			return d.in, 0
		}
	}
	before := t.fs.sizes.Load()
	payload, errno := t.fs.request(t.caller(), fuse.OpLookup, dir.nodeid, cstr(name))
	if errno == syscall.ENOENT {
		t.fs.forgetName(dir, name)
		return nil, 0
	}
	if errno != 0 {
		return nil, errno
	}
	e := decode[fuse.EntryOut](payload)
	expires := expiry(e.EntryValid, e.EntryValidNsec)
	if e.NodeID == 0 {
		t.fs.remember(dir, name, nil, expires)
		return nil, 0
	}
	in, errno := t.fs.iget(&e, t.fs.sentBefore(before, e.NodeID))
	if errno != 0 {
		return nil, errno
	}
	t.fs.remember(dir, name, in, expires)
	return in, 0
}

// peek returns an inode without a reference, for a look at its sizes.
func (fs *FS) peek(nodeid uint64) *inode {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	return fs.inodes[nodeid]
}

// trail is a path that is being walked: the directories from the root on, each with a reference.
type trail struct {
	t     *Task
	dirs  []*inode
	links int
}

func (t *Task) trail() *trail {
	return &trail{t: t, dirs: []*inode{t.fs.igrab(t.fs.root)}}
}

func (tr *trail) at() *inode { return tr.dirs[len(tr.dirs)-1] }

func (tr *trail) done() {
	for _, d := range tr.dirs {
		tr.t.fs.iput(d)
	}
	tr.dirs = nil
}

// up is "..".
func (tr *trail) up() {
	if n := len(tr.dirs); n > 1 {
		tr.t.fs.iput(tr.dirs[n-1])
		tr.dirs = tr.dirs[:n-1]
	}
}

// has tells whether a directory is on the way.
func (tr *trail) has(in *inode) bool {
	for _, d := range tr.dirs {
		if d == in {
			return true
		}
	}
	return false
}

// last is the end of a path: a name, or one of "", "." and "..".
type last struct {
	name  string
	slash bool // something that is a directory is meant
}

// special tells whether there is no name.
func (l last) special() bool { return l.name == "" || l.name == "." || l.name == ".." }

// parent walks to the directory of the last name of a path.
func (tr *trail) parent(path string) (last, syscall.Errno) {
	if len(path) >= maxPath {
		return last{}, syscall.ENAMETOOLONG
	}
	rest := strings.TrimLeft(path, "/")
	for {
		name, more, found := strings.Cut(rest, "/")
		more = strings.TrimLeft(more, "/")
		if more == "" {
			if errno := tr.enterable(); errno != 0 {
				return last{}, errno
			}
			return last{name: name, slash: found}, 0
		}
		if errno := tr.step(name); errno != 0 {
			return last{}, errno
		}
		rest = more
	}
}

// enterable tells whether names can be looked up where the trail is.
func (tr *trail) enterable() syscall.Errno {
	if tr.at().typ != syscall.S_IFDIR {
		return syscall.ENOTDIR
	}
	return tr.t.permission(tr.at(), mayExec)
}

// step walks through a name that is not the last one.
func (tr *trail) step(name string) syscall.Errno {
	if errno := tr.enterable(); errno != 0 {
		return errno
	}
	switch name {
	case ".":
		return 0
	case "..":
		tr.up()
		return 0
	}
	in, errno := tr.t.lookup(tr.at(), name, false)
	switch {
	case errno != 0:
		return errno
	case in == nil:
		return syscall.ENOENT
	case in.typ == syscall.S_IFLNK:
		errno := tr.through(in, "")
		return errno
	case in.typ != syscall.S_IFDIR:
		tr.t.fs.iput(in)
		return syscall.ENOTDIR
	}
	tr.dirs = append(tr.dirs, in)
	return 0
}

// through walks to where a link, whose reference is given back, leads to, which must be a directory.
func (tr *trail) through(link *inode, rest string) syscall.Errno {
	target, errno := tr.target(link)
	if errno != 0 {
		return errno
	}
	l, errno := tr.parent(target + rest)
	if errno != 0 {
		return errno
	}
	switch l.name {
	case "", ".":
		return 0
	}
	return tr.step(l.name)
}

// target reads a link that is to be followed, and gives its reference back.
func (tr *trail) target(link *inode) (string, syscall.Errno) {
	defer tr.t.fs.iput(link)
	if tr.links++; tr.links > maxLinks {
		return "", syscall.ELOOP
	}
	if !tr.t.mayFollow(tr.at(), link) {
		return "", syscall.EACCES
	}
	target, errno := tr.t.readlink(link)
	if errno != 0 {
		return "", errno
	}
	if strings.HasPrefix(target, "/") {
		return "", syscall.EXDEV // leads out of the model
	}
	return target, 0
}

// end resolves the last name of a path, whose directory the trail is at.
func (tr *trail) end(l last, flags walkFlags) (*inode, syscall.Errno) {
	if l.slash {
		flags |= follow | directory
	}
	switch l.name {
	case "", ".":
		return tr.t.fs.igrab(tr.at()), 0
	case "..":
		tr.up()
		return tr.t.fs.igrab(tr.at()), 0
	}
	in, errno := tr.t.lookup(tr.at(), l.name, false)
	if errno == 0 && in == nil {
		errno = syscall.ENOENT
	}
	if errno != 0 {
		return nil, errno
	}
	if in.typ == syscall.S_IFLNK && flags&follow != 0 {
		target, errno := tr.target(in)
		if errno != 0 {
			return nil, errno
		}
		next, errno := tr.parent(target)
		if errno != 0 {
			return nil, errno
		}
		return tr.end(next, flags)
	}
	if flags&directory != 0 && in.typ != syscall.S_IFDIR {
		tr.t.fs.iput(in)
		return nil, syscall.ENOTDIR
	}
	return in, 0
}

// walk resolves a path to an inode with a reference.
func (t *Task) walk(path string, flags walkFlags) (*inode, syscall.Errno) {
	tr := t.trail()
	defer tr.done()
	l, errno := tr.parent(path)
	if errno != 0 {
		return nil, errno
	}
	return tr.end(l, flags)
}

// readlink returns where a link leads to; the kernel keeps that.
func (t *Task) readlink(in *inode) (string, syscall.Errno) {
	in.mu.Lock()
	target := in.target
	in.mu.Unlock()
	if target != "" {
		return target, 0
	}
	payload, errno := t.fs.request(t.caller(), fuse.OpReadlink, in.nodeid)
	if errno != 0 {
		return "", errno
	}
	if strings.IndexByte(string(payload), 0) >= 0 || len(payload) == 0 {
		t.fs.violate("READLINK of node %d: a target of %d bytes", in.nodeid, len(payload))
		return "", syscall.EIO
	}
	if t.fs.flags&fuse.InitCacheSymlinks != 0 {
		in.mu.Lock()
		in.target = string(payload)
		in.mu.Unlock()
	}
	return string(payload), 0
}

// Codes of the notifications that concern names.
const (
	notifyInvalEntry = 3
	notifyDelete     = 6
)

// notifiedName carries out the notifications that concern names; the name follows a head.
func (fs *FS) notifiedName(code int32, b []byte) syscall.Errno {
	head := 16
	switch code {
	case notifyInvalEntry:
	case notifyDelete:
		head = 24
	default:
		return syscall.EINVAL
	}
	if len(b) <= head || b[len(b)-1] != 0 {
		return syscall.EINVAL
	}
	dir := fs.ilookup(decode[uint64](b))
	if dir == nil {
		return syscall.ENOENT
	}
	defer fs.iput(dir)
	fs.forgetName(dir, string(b[head:len(b)-1]))
	return 0
}
