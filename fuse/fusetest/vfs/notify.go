package vfs

import (
	"fmt"
	"syscall"
	"unsafe"

	"ext4box/fuse"
)

// Codes of the classic notifications that concern data.
const (
	notifyInvalInode = 2
	notifyStore      = 4
	notifyRetrieve   = 5
	notifyPrune      = 9
)

// notified carries a notification out; what it returns is what the server gets from write(2). It
// takes no lock that is held while a request is under way, except that INVAL_INODE locks folios.
func (fs *FS) notified(code int32, b []byte) syscall.Errno {
	if fs.dead.Load() {
		return syscall.ENOTCONN
	}
	line := fs.trace.notified(code, describeNotification(code, b))
	e := &Event{Stage: Notified, Code: code, NodeID: notifiedNode(code, b)}
	fs.hold(e, nil)
	if !fs.tamper(&Message{Code: code, NodeID: e.NodeID, Payload: b}) {
		return 0
	}
	errno := fs.carryOut(code, b)
	fs.trace.end(line, errno, "")
	return errno
}

func (fs *FS) carryOut(code int32, b []byte) syscall.Errno {
	switch code {
	case fuse.NotifyIomapUpsertMappings:
		return fs.upsert(b)
	case fuse.NotifyIomapInvalMappings:
		return fs.invalMappings(b)
	case fuse.NotifyIomapDevInval:
		return fs.invalDevice(b)
	case notifyInvalInode:
		return fs.invalInode(b)
	case notifyPrune:
		return fs.prune(b)
	case notifyStore, notifyRetrieve:
		if in := fs.ilookup(notifiedNode(code, b)); in != nil {
			defer fs.iput(in)
			if in.mapped() {
				fs.violate("STORE or RETRIEVE of node %d, whose data goes by mappings", in.nodeid)
				return syscall.EOPNOTSUPP
			}
			return 0
		}
		return syscall.ENOENT
	}
	return fs.notifiedName(code, b)
}

// notifiedNode is the inode that a notification is about.
func notifiedNode(code int32, b []byte) uint64 {
	switch code {
	case fuse.NotifyIomapUpsertMappings, fuse.NotifyIomapInvalMappings, notifyInvalInode, notifyStore:
		return decode[uint64](b)
	case notifyRetrieve:
		return decode[[2]uint64](b)[1]
	}
	return 0
}

func describeNotification(code int32, b []byte) string {
	switch code {
	case fuse.NotifyIomapUpsertMappings:
		m := decode[fuse.IomapUpsertMappings](b)
		return fmt.Sprintf("notify UPSERT_MAPPINGS %d read=%s write=%s", m.NodeID, ioString(m.Read), ioString(m.Write))
	case fuse.NotifyIomapInvalMappings:
		m := decode[fuse.IomapInvalMappings](b)
		return fmt.Sprintf("notify INVAL_MAPPINGS %d read=%s write=%s", m.NodeID, rangeString(m.Read), rangeString(m.Write))
	case fuse.NotifyIomapDevInval:
		m := decode[fuse.IomapDevInval](b)
		return fmt.Sprintf("notify DEV_INVAL %d %s", m.Dev, rangeString(m.Range))
	}
	if code == notifyPrune {
		return fmt.Sprintf("notify PRUNE %v", pruned(b))
	}
	return fmt.Sprintf("notify %d %d", code, notifiedNode(code, b))
}

func rangeString(r fuse.IomapRange) string {
	if r.Length == fuse.IomapInvalToEOF {
		return fmt.Sprintf("%d+EOF", r.Offset)
	}
	return fmt.Sprintf("%d+%d", r.Offset, r.Length)
}

// target finds the inode of a notification about mappings. Only ESTALE can happen to a server that does
// everything right.
func (fs *FS) target(what string, size int, b []byte, nodeid, ino uint64) (*inode, syscall.Errno) {
	if len(b) != size {
		fs.violate("%s has %d bytes, want %d", what, len(b), size)
		return nil, syscall.EINVAL
	}
	if !fs.iomap {
		fs.violate("%s without fuse-iomap", what)
		return nil, syscall.EINVAL
	}
	in := fs.ilookup(nodeid)
	if in == nil {
		return nil, syscall.ESTALE
	}
	errno := syscall.Errno(0)
	switch {
	case in.isBad():
		errno = syscall.EIO
	case in.number() != ino:
		fs.violate("%s: node %d is inode %d, not %d", what, nodeid, in.number(), ino)
		errno = syscall.EINVAL
	case !in.mapped():
		// The seventh posting does not look, and corrupts its memory; nothing is gained by doing so.
		fs.violate("%s: the data of node %d does not go by mappings", what, nodeid)
		errno = syscall.EINVAL
	}
	if errno != 0 {
		fs.iput(in)
		return nil, errno
	}
	return in, 0
}

func (fs *FS) upsert(b []byte) syscall.Errno {
	m := decode[fuse.IomapUpsertMappings](b)
	in, errno := fs.target("UPSERT_MAPPINGS", int(unsafe.Sizeof(m)), b, m.NodeID, m.Ino)
	if errno != 0 {
		return errno
	}
	defer fs.iput(in)
	for i, io := range []fuse.IomapIO{m.Read, m.Write} {
		if why, errno := in.checkUpsert(slot(i), io); errno != 0 {
			fs.violate("UPSERT_MAPPINGS of node %d, %v slot: %s", in.nodeid, slot(i), why)
			return errno
		}
	}
	in.mappings.upsert(m.Read, m.Write, fs.cacheLimit.Load())
	in.checkOwner(m.Read)
	in.checkOwner(m.Write)
	return 0
}

func (fs *FS) invalMappings(b []byte) syscall.Errno {
	m := decode[fuse.IomapInvalMappings](b)
	in, errno := fs.target("INVAL_MAPPINGS", int(unsafe.Sizeof(m)), b, m.NodeID, m.Ino)
	if errno != 0 {
		return errno
	}
	defer fs.iput(in)
	for _, r := range []fuse.IomapRange{m.Read, m.Write} {
		if r.Length == 0 {
			continue
		}
		if r.Offset%fs.blocksize != 0 || r.Length != fuse.IomapInvalToEOF && r.Length%fs.blocksize != 0 || r.Offset >= fs.maxbytes {
			fs.violate("INVAL_MAPPINGS of node %d: range %s", in.nodeid, rangeString(r))
			return syscall.EINVAL
		}
	}
	in.mappings.invalidateForks(m.Read.Offset, m.Read.Length, m.Write.Offset, m.Write.Length)
	return 0
}

// invalDevice checks DEV_INVAL; there is no page cache of the device here that it could drop.
func (fs *FS) invalDevice(b []byte) syscall.Errno {
	m := decode[fuse.IomapDevInval](b)
	if len(b) != 24 || !fs.iomap || m.Dev == 0 || decode[uint32](b[min(4, len(b)):]) != 0 {
		fs.violate("DEV_INVAL: malformed")
		return syscall.EINVAL
	}
	d := fs.backing(m.Dev)
	if d == nil {
		fs.violate("DEV_INVAL of device %d, which is not registered", m.Dev)
		return syscall.ENODEV
	}
	zero := m.Range.Length == 0 && fs.cfg.Generation == V7
	if m.Range.Offset >= uint64(d.dev.Size()) || m.Range.Length != toEOF && m.Range.Offset+m.Range.Length < m.Range.Offset || zero {
		fs.violate("DEV_INVAL of device %d: range %s", m.Dev, rangeString(m.Range))
		return syscall.EINVAL
	}
	return 0
}

// invalInode drops cached attributes and data.
func (fs *FS) invalInode(b []byte) syscall.Errno {
	type invalInode struct {
		NodeID   uint64
		Off, Len int64
	}
	m := decode[invalInode](b)
	in := fs.ilookup(m.NodeID)
	if in == nil {
		return syscall.ENOENT
	}
	defer fs.iput(in)
	in.invalidateAttr()
	if m.Off >= 0 && in.mapped() {
		n := toEOF
		if m.Len > 0 {
			n = uint64(m.Len)
		}
		_ = in.writePages(uint64(m.Off), n)
		in.dropPages(uint64(m.Off), n)
	}
	return 0
}

// pruned lists the nodes that PRUNE names, nil if the message is malformed: a head of 16 bytes with their
// number comes first.
func pruned(b []byte) []uint64 {
	const head = 16
	if len(b) < head || len(b)-head != 8*int(decode[uint32](b)) {
		return nil
	}
	ids := make([]uint64, decode[uint32](b))
	for i := range ids {
		ids[i] = decode[uint64](b[head+8*i:])
	}
	return ids
}

// prune evicts the named inodes that nobody uses: only names hold them, and they have no pages that are
// mapped. It waits until what is dirty has been written.
func (fs *FS) prune(b []byte) syscall.Errno {
	if fs.cfg.NoPrune {
		return syscall.EINVAL
	}
	ids := pruned(b)
	if ids == nil {
		fs.violate("PRUNE of %d bytes is malformed", len(b))
		return syscall.EINVAL
	}
	for _, id := range ids {
		in := fs.ilookup(id)
		if in == nil {
			continue
		}
		if fs.releaseUnused(in) {
			_ = in.writeInode()
			in.dropPages(0, toEOF)
			fs.iput(in)
			fs.reclaim(in)
			continue
		}
		fs.iput(in)
	}
	return 0
}
