package blocktest

import (
	"sync"
	"syscall"

	"ext4box/blockdev"
)

// Op is a kind of request, or a set of kinds.
type Op uint8

// The kinds of request.
const (
	Read Op = 1 << iota
	Write
	Flush
	Discard

	AnyOp = Read | Write | Flush | Discard
)

func (o Op) String() string {
	switch o {
	case Read:
		return "read"
	case Write:
		return "write"
	case Flush:
		return "flush"
	case Discard:
		return "discard"
	}
	return "request"
}

// Rule says which requests fail, and how.
type Rule struct {
	Ops Op // the kinds of request it is about

	// Off and Len narrow it to requests that touch this range of bytes. A Len
	// of 0 means anywhere. Flushes are never narrowed by it.
	Off, Len int64

	// Skip is how many such requests pass before the first one fails, Times how
	// many fail then; 0 means all from then on.
	Skip, Times int

	// Partial is how many bytes of a read or write are carried out before it
	// fails.
	Partial int

	// Err is the cause of the error; nil means EIO. It is wrapped in a
	// *blockdev.Error.
	Err error
}

// Failing fails chosen requests to a device.
type Failing struct {
	blockdev.Device

	mu    sync.Mutex
	rules []*rule
	fired int
}

type rule struct {
	Rule
	seen int
}

// NewFailing returns a device that passes everything on to dev until rules are
// added.
func NewFailing(dev blockdev.Device) *Failing { return &Failing{Device: dev} }

// Add adds a rule. It begins to count now; the first rule that applies to a
// request decides.
func (f *Failing) Add(r Rule) {
	if r.Err == nil {
		r.Err = syscall.EIO
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.rules = append(f.rules, &rule{Rule: r})
}

// FailNth makes the n-th request from now of the given kinds, counted from 1,
// fail with err.
func (f *Failing) FailNth(ops Op, n int, err error) {
	f.Add(Rule{Ops: ops, Skip: n - 1, Times: 1, Err: err})
}

// FailRange makes every read, write and discard that touches the range fail
// with err.
func (f *Failing) FailRange(off, n int64, err error) {
	f.Add(Rule{Ops: Read | Write | Discard, Off: off, Len: n, Err: err})
}

// Clear removes all rules.
func (f *Failing) Clear() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.rules = nil
}

// Fired returns how many requests have been made to fail, so that a test can
// see that it tested something.
func (f *Failing) Fired() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.fired
}

// match returns the rule that makes the request fail, or nil.
func (f *Failing) match(op Op, off, n int64) *rule {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, r := range f.rules {
		if r.Ops&op == 0 {
			continue
		}
		if r.Len > 0 && op != Flush && (off >= r.Off+r.Len || off+n <= r.Off) {
			continue
		}
		r.seen++
		if r.seen > r.Skip && (r.Times == 0 || r.seen <= r.Skip+r.Times) {
			f.fired++
			return r
		}
	}
	return nil
}

func (f *Failing) fail(r *rule, op Op, off, n int64) error {
	return &blockdev.Error{Op: op.String(), Name: blockdev.Name(f.Device), Off: off, Len: n, Err: r.Err}
}

// ReadAt implements blockdev.Device.
func (f *Failing) ReadAt(p []byte, off int64) (int, error) {
	r := f.match(Read, off, int64(len(p)))
	if r == nil {
		return f.Device.ReadAt(p, off)
	}
	n, err := f.Device.ReadAt(p[:min(r.Partial, len(p))], off)
	if err == nil {
		err = f.fail(r, Read, off, int64(len(p)))
	}
	return n, err
}

// WriteAt implements blockdev.Device.
func (f *Failing) WriteAt(p []byte, off int64) (int, error) {
	r := f.match(Write, off, int64(len(p)))
	if r == nil {
		return f.Device.WriteAt(p, off)
	}
	n, err := 0, error(nil)
	if part := p[:min(r.Partial, len(p))]; len(part) > 0 {
		n, err = f.Device.WriteAt(part, off)
	}
	if err == nil {
		err = f.fail(r, Write, off, int64(len(p)))
	}
	return n, err
}

// Flush implements blockdev.Device.
func (f *Failing) Flush() error {
	if r := f.match(Flush, 0, 0); r != nil {
		return f.fail(r, Flush, 0, 0)
	}
	return f.Device.Flush()
}

// Discard implements blockdev.Device.
func (f *Failing) Discard(off, n int64) error {
	if r := f.match(Discard, off, n); r != nil {
		return f.fail(r, Discard, off, n)
	}
	return f.Device.Discard(off, n)
}

// SectorSize implements blockdev.Sectored.
func (f *Failing) SectorSize() int { return blockdev.SectorSize(f.Device) }

// Name implements blockdev.Named.
func (f *Failing) Name() string { return blockdev.Name(f.Device) }
