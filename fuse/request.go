package fuse

import (
	"iter"
	"syscall"
)

// Request is the context of a call to one of the Operations: who asks, about what, and on which
// terms. It belongs to the session and is valid only during the call.
type Request struct {
	InHeader
	// Protocol holds the terms of the connection.
	Protocol *Protocol

	w   *Worker
	ext []byte // checked by splitExtensions
}

// Interrupted reports whether the caller was interrupted by a signal and would rather have EINTR than
// wait longer. It is cheap. An operation that is nearly done may ignore it.
func (r *Request) Interrupted() bool { return r.w.interrupted.Load() == r.Unique&^uniqueResend }

// Done returns a channel that is closed when the caller is interrupted. Asking for it costs an
// allocation, so do it only before waiting.
func (r *Request) Done() <-chan struct{} { return r.w.done() }

// Session is the session that the request belongs to. It outlives the request.
func (r *Request) Session() *Session { return r.w.s }

// InvalAttr makes the kernel ask again for the attributes of the inode r.NodeID, which the caller must
// have open: the kernel waits for inodes that it is about to drop.
func (r *Request) InvalAttr() error { return r.w.s.NotifyInvalInode(r.NodeID, -1, 0) }

// InvalData makes the kernel write back what it has cached of the file r.NodeID, and drop it, and waits
// for that: other workers must be free to handle the writes, and the request must be one for which the
// kernel holds no pages, such as LSEEK.
func (r *Request) InvalData() error {
	if r.w.lone {
		return syscall.EDEADLK
	}
	return r.w.s.NotifyInvalInode(r.NodeID, 0, 0)
}

// SecurityContexts returns the names (such as "security.selinux") and values of the security
// attributes that the new inode must get (InitSecurityCtx). Both alias the request buffer.
func (r *Request) SecurityContexts() iter.Seq2[string, []byte] {
	return func(yield func(string, []byte) bool) { eachSecctx(r.ext, yield) }
}

// SupplementaryGroups returns the groups that the kernel sent along (InitCreateSuppGroup): the group
// of the parent directory, if the caller is a member without it being his GID.
func (r *Request) SupplementaryGroups() iter.Seq[uint32] {
	return func(yield func(uint32) bool) { eachGroup(r.ext, yield) }
}
