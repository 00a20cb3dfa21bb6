package vfs

import (
	"sync"
	"syscall"

	"ext4box/fuse"
	"ext4box/iomap"
)

// Stage is a point at which the model can be stopped.
type Stage int

// The stages of requests, notifications and I/O.
const (
	Sent         Stage = iota // a request is about to be sent
	Replied                   // its reply is about to be given to who waits for it
	Notified                  // a notification is about to take effect
	DeviceRead                // data is about to be read from a device
	DeviceWrite               // data is about to be written to a device
	DeviceDone                // a write to a device is over, but nobody knows yet
	MappingFound              // a mapping was found in the cache, or came, and is about to be used
)

// Event is something that is about to happen.
type Event struct {
	Stage  Stage
	Op     fuse.Opcode // of Sent, Replied
	Code   int32       // of Notified
	NodeID uint64      // of the inode

	// Pos and Count are the range in the file that IOMAP_BEGIN, IOMAP_END, IOMAP_IOEND, READ, WRITE,
	// FALLOCATE, MappingFound and the device stages are about; of SETATTR Pos is the size.
	Pos, Count uint64
	Iomap      iomap.Op        // of IOMAP_BEGIN, IOMAP_END, MappingFound
	Ioend      fuse.IoendFlags // of IOMAP_IOEND
	Error      syscall.Errno   // of IOMAP_IOEND: that of the I/O
	Errno      syscall.Errno   // of Replied, DeviceDone
	Valid      fuse.SetattrValid
	Dev        uint32 // of the device stages
	Addr       uint64 // of the device stages
}

// decode fills in what the body of a request says.
func (e *Event) decode(b []byte) {
	switch e.Op {
	case fuse.OpIomapBegin:
		in := decode[fuse.IomapBeginIn](b)
		e.Iomap, e.Pos, e.Count = in.Op, in.Pos, in.Count
	case fuse.OpIomapEnd:
		in := decode[fuse.IomapEndIn](b)
		e.Iomap, e.Pos, e.Count = in.Op, in.Pos, in.Count
	case fuse.OpIomapIoend:
		in := decode[fuse.IomapIoendIn](b)
		e.Ioend, e.Pos, e.Count, e.Error = in.Flags, in.Pos, in.Written, syscall.Errno(-in.Error)
	case fuse.OpSetattr:
		in := decode[fuse.SetattrIn](b)
		e.Valid, e.Pos = in.Valid, in.Size
	case fuse.OpFallocate:
		in := decode[fuse.FallocateIn](b)
		e.Pos, e.Count = in.Offset, in.Length
	case fuse.OpRead:
		in := decode[fuse.ReadIn](b)
		e.Pos, e.Count = in.Offset, uint64(in.Size)
	case fuse.OpWrite:
		in := decode[fuse.WriteIn](b)
		e.Pos, e.Count = in.Offset, uint64(in.Size)
	}
}

// Held is a trap for one event.
type Held struct {
	match   func(*Event) bool
	caught  chan struct{} // closed when it has caught something
	release chan struct{} // closed by Release
	once    sync.Once
	taken   bool // under holds.mu
	event   *Event
}

// Wait waits until an event was caught and returns it. It stays where it is until Release.
func (h *Held) Wait() *Event {
	<-h.caught
	return h.event
}

// Release lets the event happen. Before one was caught, it takes the trap away.
func (h *Held) Release() { h.once.Do(func() { close(h.release) }) }

// holds are the traps that are set.
type holds struct {
	mu     sync.Mutex
	list   []*Held // that have caught nothing yet
	caught []*Held
}

// Hold stops the next event for which match says so, until it is released: one event only, others
// pass. match is called with no lock that matters, from the goroutine to be stopped. What is still
// held when the test ends is released.
func (fs *FS) Hold(match func(*Event) bool) *Held {
	h := &Held{match: match, caught: make(chan struct{}), release: make(chan struct{})}
	fs.holds.mu.Lock()
	defer fs.holds.mu.Unlock()
	fs.holds.list = append(fs.holds.list, h)
	return h
}

// hold stops here if a trap was set for the event. detached is called when it was caught.
func (fs *FS) hold(e *Event, detached func()) {
	h := fs.holds.take(e)
	if h == nil {
		return
	}
	h.event = e
	close(h.caught)
	if detached != nil {
		detached()
	}
	<-h.release
}

func (hs *holds) take(e *Event) *Held {
	hs.mu.Lock()
	list := append([]*Held(nil), hs.list...)
	hs.mu.Unlock()
	for _, h := range list {
		select {
		case <-h.release:
			continue
		default:
		}
		if h.match(e) && hs.claim(h) {
			return h
		}
	}
	return nil
}

// claim takes a trap off the list, which only one event can do.
func (hs *holds) claim(h *Held) bool {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	if h.taken {
		return false
	}
	h.taken = true
	hs.caught = append(hs.caught, h)
	for i, x := range hs.list {
		if x == h {
			hs.list = append(hs.list[:i:i], hs.list[i+1:]...)
			break
		}
	}
	return true
}

// releaseAll lets everything go that is held, for the end of a test.
func (hs *holds) releaseAll() {
	hs.mu.Lock()
	list := append(hs.caught, hs.list...)
	hs.list, hs.caught = nil, nil
	hs.mu.Unlock()
	for _, h := range list {
		h.Release()
	}
}

// RequestOf matches a request with the given opcode on any inode, before it is sent.
func RequestOf(op fuse.Opcode) func(*Event) bool {
	return func(e *Event) bool { return e.Stage == Sent && e.Op == op }
}

// ReplyTo matches the reply to a request with the given opcode.
func ReplyTo(op fuse.Opcode) func(*Event) bool {
	return func(e *Event) bool { return e.Stage == Replied && e.Op == op }
}

// At matches the first event of a stage.
func At(s Stage) func(*Event) bool {
	return func(e *Event) bool { return e.Stage == s }
}
