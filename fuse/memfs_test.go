package fuse_test

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"

	"ext4box/fuse"
)

// memfs is a small filesystem in memory: enough of one to be mounted.
type memfs struct {
	fuse.Unimplemented
	destroyed atomic.Int32
	inside    atomic.Int32  // READs being handled
	deepest   atomic.Int32  // most READs at the same time
	maxRead   atomic.Int64  // largest READ, bytes
	unique    atomic.Uint64 // of the last READ
	gate      chan struct{} // if set, READ waits until it is closed, or for a signal
	hung      chan struct{} // tells that a READ waits
	retrieved chan string   // what RETRIEVE brought

	mu      sync.Mutex
	nodes   map[uint64]*memnode
	last    uint64
	lookups map[uint64]uint64
}

type memnode struct {
	mode  uint32
	data  []byte
	names map[string]uint64
	order []string
}

// settleName is a file that can be looked up but is not listed, for fusetest.SettlePoll.
const (
	settleName = ".settle"
	settleID   = 2
)

func newMemfs() *memfs {
	return &memfs{
		nodes: map[uint64]*memnode{
			1:        {mode: unix.S_IFDIR | 0o755, names: map[string]uint64{settleName: settleID}},
			settleID: {mode: unix.S_IFREG | 0o644},
		},
		last:      settleID,
		lookups:   map[uint64]uint64{},
		retrieved: make(chan string, 1),
	}
}

// add puts a file into the root directory.
func (m *memfs) add(name string, mode uint32, data []byte) uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.insert(1, name, mode, data)
}

func (m *memfs) insert(dir uint64, name string, mode uint32, data []byte) uint64 {
	m.last++
	m.nodes[m.last] = &memnode{mode: mode, data: data, names: map[string]uint64{}}
	name = strings.Clone(name)
	m.nodes[dir].names[name] = m.last
	m.nodes[dir].order = append(m.nodes[dir].order, name)
	return m.last
}

func (m *memfs) Destroy() { m.destroyed.Add(1) }

func (m *memfs) attr(id uint64) fuse.Attr {
	n := m.nodes[id]
	return fuse.Attr{Ino: id, Size: uint64(len(n.data)), Mode: n.mode, Nlink: 1, Blksize: 4096}
}

func (m *memfs) entry(id uint64, out *fuse.EntryOut) {
	*out = fuse.EntryOut{NodeID: id, Generation: 1, Attr: m.attr(id)}
	out.SetEntryValid(fuse.Forever)
	out.SetAttrValid(fuse.Forever)
	m.lookups[id]++
}

func (m *memfs) Lookup(r *fuse.Request, name string, out *fuse.EntryOut) syscall.Errno {
	m.mu.Lock()
	defer m.mu.Unlock()
	id, ok := m.nodes[r.NodeID].names[name]
	if !ok {
		return syscall.ENOENT
	}
	m.entry(id, out)
	return 0
}

func (m *memfs) Forget(nodeid, n uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.lookups[nodeid] -= n
}

func (m *memfs) Getattr(r *fuse.Request, in *fuse.GetattrIn, out *fuse.AttrOut) syscall.Errno {
	m.mu.Lock()
	defer m.mu.Unlock()
	out.Attr = m.attr(r.NodeID)
	out.SetAttrValid(fuse.Forever)
	return 0
}

func (m *memfs) Setattr(r *fuse.Request, in *fuse.SetattrIn, out *fuse.AttrOut) syscall.Errno {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := m.nodes[r.NodeID]
	if in.Valid&fuse.SetattrSize != 0 {
		n.data = append(n.data, make([]byte, max(0, int(in.Size)-len(n.data)))...)[:in.Size]
	}
	if in.Valid&fuse.SetattrMode != 0 {
		n.mode = in.Mode
	}
	out.Attr = m.attr(r.NodeID)
	return 0
}

func (m *memfs) Create(r *fuse.Request, in *fuse.CreateIn, name string, out *fuse.EntryOut, open *fuse.OpenOut) syscall.Errno {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.entry(m.insert(r.NodeID, name, in.Mode, nil), out)
	return 0
}

func (m *memfs) Mkdir(r *fuse.Request, in *fuse.MkdirIn, name string, out *fuse.EntryOut) syscall.Errno {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.entry(m.insert(r.NodeID, name, unix.S_IFDIR|in.Mode, nil), out)
	return 0
}

func (m *memfs) Symlink(r *fuse.Request, name, target string, out *fuse.EntryOut) syscall.Errno {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.entry(m.insert(r.NodeID, name, unix.S_IFLNK|0o777, []byte(target)), out)
	return 0
}

func (m *memfs) Readlink(r *fuse.Request, buf []byte) (int, syscall.Errno) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return copy(buf, m.nodes[r.NodeID].data), 0
}

func (m *memfs) Unlink(r *fuse.Request, name string) syscall.Errno {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := m.nodes[r.NodeID]
	delete(n.names, name)
	n.order = slices.DeleteFunc(n.order, func(s string) bool { return s == name })
	return 0
}

func (m *memfs) Open(r *fuse.Request, in *fuse.OpenIn, out *fuse.OpenOut) syscall.Errno {
	if in.Flags&unix.O_DIRECT != 0 {
		out.OpenFlags = fuse.OpenDirectIO
	} else {
		out.OpenFlags = fuse.OpenKeepCache
	}
	return 0
}

func (m *memfs) Read(r *fuse.Request, in *fuse.ReadIn, buf []byte) (int, syscall.Errno) {
	m.unique.Store(r.Unique)
	n := m.inside.Add(1)
	defer m.inside.Add(-1)
	for old := m.deepest.Load(); n > old && !m.deepest.CompareAndSwap(old, n); old = m.deepest.Load() {
	}
	if m.gate != nil {
		m.hung <- struct{}{}
		select {
		case <-m.gate:
		case <-r.Done():
			return 0, syscall.EINTR
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	data := m.nodes[r.NodeID].data
	m.maxRead.Store(max(m.maxRead.Load(), int64(len(buf))))
	if in.Offset >= uint64(len(data)) {
		return 0, 0
	}
	return copy(buf, data[in.Offset:]), 0
}

func (m *memfs) Write(r *fuse.Request, in *fuse.WriteIn, data []byte) (int, syscall.Errno) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := m.nodes[r.NodeID]
	end := int(in.Offset) + len(data)
	n.data = append(n.data, make([]byte, max(0, end-len(n.data)))...)
	return copy(n.data[in.Offset:], data), 0
}

func (m *memfs) NotifyReply(r *fuse.Request, in *fuse.NotifyRetrieveIn, data []byte) {
	m.retrieved <- fmt.Sprintf("%d %d %s", r.Unique, in.Offset, data)
}

func (m *memfs) Statfs(r *fuse.Request, out *fuse.StatfsOut) syscall.Errno {
	out.Blocks, out.Bsize, out.Frsize, out.Namelen = 100, 4096, 4096, 255
	return 0
}

func (m *memfs) Getxattr(r *fuse.Request, name string, buf []byte) (int, syscall.Errno) {
	if name != "user.big" {
		return 0, syscall.ENODATA
	}
	value := strings.Repeat("x", 60000)
	copy(buf, value)
	return len(value), 0
}

// each lists a directory from a position on, with "." and "..".
func (m *memfs) each(dir, pos uint64, yield func(id, next uint64, typ uint32, name string) bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := m.nodes[dir]
	for i := pos; i < uint64(len(n.order))+2; i++ {
		id, name := dir, "."
		switch {
		case i == 1:
			name = ".."
		case i > 1:
			name = n.order[i-2]
			id = n.names[name]
		}
		if !yield(id, i+1, m.nodes[id].mode>>12, name) {
			return
		}
	}
}

func (m *memfs) Readdir(r *fuse.Request, in *fuse.ReadIn, d *fuse.DirBuffer) syscall.Errno {
	m.each(r.NodeID, in.Offset, func(id, next uint64, typ uint32, name string) bool {
		return d.Append(id, next, typ, []byte(name))
	})
	return 0
}

func (m *memfs) Readdirplus(r *fuse.Request, in *fuse.ReadIn, d *fuse.DirBuffer) syscall.Errno {
	m.each(r.NodeID, in.Offset, func(id, next uint64, typ uint32, name string) bool {
		out := d.AppendPlus(id, next, typ, []byte(name))
		if out == nil {
			return false
		}
		if name != "." && name != ".." {
			m.entry(id, out)
		}
		return true
	})
	return 0
}
