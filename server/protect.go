package server

import (
	"bytes"
	"cmp"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"ext4box/ext4"
	"ext4box/fuse"
)

// protection is what is left to do about files that are immutable, or only grow, where nobody asks
// before they are opened: the kernel takes data for them into its cache, and finds out when it writes
// back. What it has to be refused then it is to forget.
type protection struct {
	mu sync.Mutex
	// floors are, of files that only grow, the length below which nothing changes. Without an entry it is
	// the length that the file has. There is one from the first write until all that was written with
	// it must have arrived: the kernel writes back in any order, and what comes late can be
	// before the end that the file has by then.
	floors map[uint64]*floor
	// refused are nodes of which the kernel has what it was refused to write, until it forgets them.
	refused map[uint64]struct{}
	any     atomic.Bool // of the latter, ever
}

// floor is what is known of a file that grows.
type floor struct {
	size   int64 // nothing below changes
	writes uint64
}

const (
	// settleDelay is how long what was added to a file can still be changed, from when it was written back.
	settleDelay = 500 * time.Millisecond
	// What the kernel was refused it is told to forget after forgetDelay, and again at longer and longer
	// intervals, as it cannot while the file is open.
	forgetDelay, longestForgetDelay = 50 * time.Millisecond, time.Minute
)

// mayWrite tells whether the flags of a node let a write at off through, by somebody who is told at once.
//
// What may be written makes the file longer, with which its new end is not the one that counts for what
// the kernel has yet to write back.
func (s *Server) mayWrite(r *fuse.Request, nodeid uint64, off int64) syscall.Errno {
	if s.asked {
		return 0 // when it was opened
	}
	flags, size, err := s.fs.Protection(s.inode(nodeid))
	switch {
	case err != nil:
		return s.errno(r, err)
	case flags&(ext4.FlagImmutable|ext4.FlagVerity) != 0, flags&ext4.FlagAppend != 0 && off < size:
		s.refuse(r, nodeid)
		return syscall.EPERM
	case flags&ext4.FlagAppend != 0:
		s.growing(r, nodeid, size)
	}
	return 0
}

// immutable tells whether nothing can have been written to a file that the kernel has opened by itself: what it had
// when it became immutable was written back before.
func (s *Server) immutable(ino ext4.Ino) bool {
	if s.asked {
		return false
	}
	flags, _, err := s.fs.Protection(ino)
	return err == nil && flags&ext4.FlagImmutable != 0
}

// mayWriteBack tells how much at the beginning of data the flags of the file do not let through. Of a file that
// only grows that is what is in front of its end, and no more than the kernel was told, unless the answer is EPERM:
// with each addition it writes the whole page anew.
func (s *Server) mayWriteBack(r *fuse.Request, data []byte, off int64) (skip int, errno syscall.Errno) {
	if s.asked {
		return 0, 0
	}
	ino := s.inode(r.NodeID)
	flags, size, err := s.fs.Protection(ino)
	switch {
	case err != nil:
		return len(data), s.errno(r, err)
	case flags&(ext4.FlagImmutable|ext4.FlagVerity) != 0:
		s.refuse(r, r.NodeID)
		return len(data), syscall.EPERM
	case flags&ext4.FlagAppend == 0:
		return 0, 0
	}
	low := s.growing(r, r.NodeID, size)
	if off >= low {
		return 0, 0
	}
	skip = int(min(int64(len(data)), low-off))
	old := make([]byte, skip)
	if n, err := s.fs.ReadAt(ino, old, off); n < skip {
		return skip, s.errno(r, cmp.Or(err, error(syscall.EIO)))
	}
	if !bytes.Equal(old, data[:skip]) {
		s.refuse(r, r.NodeID)
		return skip, syscall.EPERM
	}
	return skip, 0
}

// growing notes that a file that only grows, and has size bytes, is about to, and returns the length
// below which nothing changes.
func (s *Server) growing(r *fuse.Request, nodeid uint64, size int64) int64 {
	p := &s.protection
	p.mu.Lock()
	defer p.mu.Unlock()
	f := p.floors[nodeid]
	if f == nil {
		if p.floors == nil {
			p.floors = make(map[uint64]*floor)
		}
		f = &floor{size: size}
		p.floors[nodeid] = f
		session := r.Session()
		time.AfterFunc(settleDelay, func() { s.settleGrown(session, nodeid) })
	}
	f.writes++
	return f.size
}

// settleGrown makes all that a file has got so far unchangeable: the kernel writes back what it has of it,
// and what it gets from now on is behind that, or not to be written.
func (s *Server) settleGrown(session *fuse.Session, nodeid uint64) {
	p := &s.protection
	p.mu.Lock()
	writes := p.floors[nodeid].writes
	p.mu.Unlock()
	_, size, err := s.fs.Protection(s.inode(nodeid))
	if err == nil && session.NotifyInvalInode(nodeid, 0, 0) != nil {
		return // the connection is gone
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	f := p.floors[nodeid]
	if err != nil || f.writes == writes {
		delete(p.floors, nodeid)
		return
	}
	f.size = max(f.size, size)
	time.AfterFunc(settleDelay, func() { s.settleGrown(session, nodeid) })
}

// refuse has the kernel forget what it has of a file and was refused to write: data, time and size. The
// latter two it only forgets with the inode, when nobody uses it.
func (s *Server) refuse(r *fuse.Request, nodeid uint64) {
	p := &s.protection
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, ok := p.refused[nodeid]; ok {
		return
	}
	if p.refused == nil {
		p.refused = make(map[uint64]struct{})
	}
	p.refused[nodeid] = struct{}{}
	p.any.Store(true)
	s.forgetRefused(r.Session(), nodeid, forgetDelay)
}

func (s *Server) forgetRefused(session *fuse.Session, nodeid uint64, after time.Duration) {
	time.AfterFunc(after, func() {
		if !s.protection.wasRefused(nodeid) || session.NotifyInvalInode(nodeid, 0, 0) != nil {
			return
		}
		_ = session.NotifyPrune([]uint64{nodeid}) // before 7.45 it is forgotten when the kernel needs room
		s.forgetRefused(session, nodeid, min(2*after, longestForgetDelay))
	})
}

// wasRefused tells whether the kernel has something of the file that it was refused to write.
func (p *protection) wasRefused(nodeid uint64) bool {
	if !p.any.Load() {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	_, ok := p.refused[nodeid]
	return ok
}

// forgotten says that the kernel has forgotten the node.
func (p *protection) forgotten(nodeid uint64) {
	if !p.any.Load() {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.refused, nodeid)
}

// protects tells whether flags protect a file from writes that those it has do not, so that what the
// kernel has accepted until now has to be written before.
func (s *Server) protects(ino ext4.Ino, flags uint32) bool {
	if flags&(ext4.FlagImmutable|ext4.FlagAppend) == 0 {
		return false
	}
	st, err := s.fs.Stat(ino)
	return err == nil && st.IsRegular() && flags&^st.Flags&(ext4.FlagImmutable|ext4.FlagAppend) != 0
}
