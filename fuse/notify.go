package fuse

import (
	"errors"
	"fmt"
	"slices"
	"syscall"
	"unsafe"
)

// Codes of notifications.
const (
	notifyPoll       = 1
	notifyInvalInode = 2
	notifyInvalEntry = 3
	notifyStore      = 4
	notifyRetrieve   = 5
	notifyDelete     = 6
	notifyResend     = 7
	notifyIncEpoch   = 8
	notifyPrune      = 9
)

// invalEntryExpireOnly is the flag FUSE_EXPIRE_ONLY.
const invalEntryExpireOnly = 1 << 0

// maxPruneIDs bounds one PRUNE message; the kernel wants it to fit a request.
const maxPruneIDs = 512

// NotifyInvalInode makes the kernel drop what it has cached of an inode: its attributes and, if off is
// not negative, the data from off on for n bytes; n <= 0 means to the end of the file.
//
// It waits for pages under writeback or being read, so it must not be called from an operation on the
// same inode, nor with a lock held that READ or WRITE of the inode takes; with fuse-iomap, BEGIN or IOEND.
func (s *Session) NotifyInvalInode(nodeid uint64, off, n int64) error {
	m := notifyInvalInodeOut{NodeID: nodeid, Off: off, Len: n}
	return s.tolerate(s.notify("INVAL_INODE", notifyInvalInode, s.since(12), raw(&m)))
}

// NotifyInvalEntry makes the kernel forget a name, or that there is no such name, in a directory.
//
// It takes the lock of the directory, so it must not be called from an operation on the directory,
// nor with a lock held that such an operation takes.
func (s *Session) NotifyInvalEntry(parent uint64, name string) error {
	return s.invalEntry("INVAL_ENTRY", parent, name, 0, s.since(12))
}

// NotifyExpireEntry makes the kernel look the name up again before it next uses it, without
// disturbing who has it open or mounted on. It needs InitHasExpireOnly. Locking is as with
// NotifyInvalEntry.
func (s *Session) NotifyExpireEntry(parent uint64, name string) error {
	return s.invalEntry("INVAL_ENTRY(EXPIRE_ONLY)", parent, name, invalEntryExpireOnly,
		s.since(38) && s.Protocol().Has(InitHasExpireOnly))
}

func (s *Session) invalEntry(what string, parent uint64, name string, flags uint32, known bool) error {
	m := notifyInvalEntryOut{Parent: parent, Namelen: uint32(len(name)), Flags: flags}
	return s.tolerate(s.notify(what, notifyInvalEntry, known, raw(&m), cString(name)))
}

// NotifyDelete is NotifyInvalEntry for a name that is gone: the kernel tells watchers of it, if the
// name still stands for child. Locking is as with NotifyInvalEntry.
func (s *Session) NotifyDelete(parent, child uint64, name string) error {
	m := notifyDeleteOut{Parent: parent, Child: child, Namelen: uint32(len(name))}
	return s.tolerate(s.notify("DELETE", notifyDelete, s.since(18), raw(&m), cString(name)))
}

// NotifyStore puts data into the page cache. Data may be more than one request has room for.
//
// It locks pages, so it must not be called from an operation that the kernel may be waiting for with
// the same pages locked: READ of that range, or WRITE from the page cache. Files whose data goes by
// mappings have EOPNOTSUPP.
func (s *Session) NotifyStore(nodeid, off uint64, data []byte) error {
	for len(data) > 0 {
		n := min(len(data), s.PayloadSize())
		m := notifyStoreOut{NodeID: nodeid, Offset: off, Size: uint32(n)}
		if err := s.tolerate(s.notify("STORE", notifyStore, s.since(15), raw(&m), data[:n])); err != nil {
			return err
		}
		data, off = data[n:], off+uint64(n)
	}
	return nil
}

// NotifyRetrieve asks for what the page cache holds of a range. The answer comes as
// Operations.NotifyReply, whose request has the given unique; it may be shorter than size. An error
// that is ENOENT means that the kernel does not know the inode, and no answer will come; files whose
// data goes by mappings have EOPNOTSUPP.
func (s *Session) NotifyRetrieve(unique, nodeid, off uint64, size uint32) error {
	m := notifyRetrieveOut{NotifyUnique: unique, NodeID: nodeid, Offset: off, Size: size}
	return s.notify("RETRIEVE", notifyRetrieve, s.since(15), raw(&m))
}

// NotifyIncEpoch makes the kernel look up every cached name again before it next uses it (7.44).
func (s *Session) NotifyIncEpoch() error {
	return s.notify("INC_EPOCH", notifyIncEpoch, s.since(44))
}

// NotifyPrune makes the kernel drop the inodes if nobody uses them (7.45).
//
// It may send FORGET, and wait for writeback; it must not be called with a lock held that these take.
func (s *Session) NotifyPrune(nodeids []uint64) error {
	for chunk := range slices.Chunk(nodeids, maxPruneIDs) {
		m := notifyPruneOut{Count: uint32(len(chunk))}
		ids := unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(chunk))), 8*len(chunk))
		if err := s.tolerate(s.notify("PRUNE", notifyPrune, s.since(45), raw(&m), ids)); err != nil {
			return err
		}
	}
	return nil
}

// NotifyResend makes the kernel send again all requests that it still waits for (7.40). It needs
// InitHasResend. It is for a server that took over the connection from one that died.
func (s *Session) NotifyResend() error {
	return s.notify("RESEND", notifyResend, s.since(40) && s.Protocol().Has(InitHasResend))
}

// NotifyPollWakeup tells the kernel that the state of a file changed that was polled with
// PollScheduleNotify; kh is PollIn.Kh.
func (s *Session) NotifyPollWakeup(kh uint64) error {
	m := notifyPollWakeupOut{Kh: kh}
	return s.tolerate(s.notify("POLL", notifyPoll, s.since(11), raw(&m)))
}

// since reports whether the connection speaks minor, or a later one.
func (s *Session) since(minor uint32) bool {
	p := s.Protocol()
	return p != nil && p.Minor >= minor
}

// notify sends a notification: its code stands in the place of the error.
func (s *Session) notify(what string, code int32, known bool, parts ...[]byte) error {
	if !known {
		return fmt.Errorf("notify %s: not part of the negotiated protocol: %w", what, syscall.ENOSYS)
	}
	h := OutHeader{Len: OutHeaderSize, Error: code}
	for _, p := range parts {
		h.Len += uint32(len(p))
	}
	if err := s.t.Notify(append([][]byte{raw(&h)}, parts...)...); err != nil {
		return fmt.Errorf("notify %s: %w", what, err)
	}
	return nil
}

// tolerate takes ENOENT as success: the kernel holds nothing of what it was told to drop.
func (s *Session) tolerate(err error) error {
	if errors.Is(err, syscall.ENOENT) {
		return nil
	}
	return err
}

func cString(s string) []byte { return append([]byte(s), 0) }
