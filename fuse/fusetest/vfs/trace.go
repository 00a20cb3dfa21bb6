package vfs

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"ext4box/fuse"
	"ext4box/iomap"
)

// trace is the record of messages.
type trace struct {
	mu      sync.Mutex
	lines   []*traceLine
	counts  map[fuse.Opcode]int
	notices map[int32]int
}

type traceLine struct{ what, reply string }

// begin adds a line for a request.
func (t *trace) begin(op fuse.Opcode, what string) *traceLine {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.counts == nil {
		t.counts = map[fuse.Opcode]int{}
	}
	t.counts[op]++
	return t.add(what)
}

// notified adds a line for a notification.
func (t *trace) notified(code int32, what string) *traceLine {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.notices == nil {
		t.notices = map[int32]int{}
	}
	t.notices[code]++
	return t.add(what)
}

// note adds a line for anything else.
func (t *trace) note(what string) *traceLine {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.add(what)
}

func (t *trace) add(what string) *traceLine {
	l := &traceLine{what: what}
	t.lines = append(t.lines, l)
	return l
}

// end completes a line.
func (t *trace) end(l *traceLine, errno syscall.Errno, outcome string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case errno != 0:
		l.reply = errnoName(errno)
	case outcome != "":
		l.reply = outcome
	}
}

// Trace returns one line for each request, notification and ioctl since the mount, or since the last
// ResetTrace, in the order in which they were sent. What a reply says stands behind "->".
func (fs *FS) Trace() []string {
	fs.trace.mu.Lock()
	defer fs.trace.mu.Unlock()
	var out []string
	for _, l := range fs.trace.lines {
		s := l.what
		if l.reply != "" {
			s += " -> " + l.reply
		}
		out = append(out, s)
	}
	return out
}

// ResetTrace forgets what was traced and counted.
func (fs *FS) ResetTrace() {
	fs.trace.mu.Lock()
	defer fs.trace.mu.Unlock()
	fs.trace.lines, fs.trace.counts, fs.trace.notices = nil, nil, nil
}

// Count returns how many requests of a kind were sent since the last ResetTrace.
func (fs *FS) Count(op fuse.Opcode) int {
	fs.trace.mu.Lock()
	defer fs.trace.mu.Unlock()
	return fs.trace.counts[op]
}

// Counts returns that for all operations.
func (fs *FS) Counts() map[fuse.Opcode]int {
	fs.trace.mu.Lock()
	defer fs.trace.mu.Unlock()
	return maps.Clone(fs.trace.counts)
}

// Notifications returns how many notifications with a code came since the last ResetTrace.
func (fs *FS) Notifications(code int32) int {
	fs.trace.mu.Lock()
	defer fs.trace.mu.Unlock()
	return fs.trace.notices[code]
}

// errnoName is the symbol of an errno.
func errnoName(errno syscall.Errno) string {
	if errno == 0 {
		return "ok"
	}
	if name := unix.ErrnoName(errno); name != "" {
		return name
	}
	return fmt.Sprintf("errno %d", int(errno))
}

// describe is the line of a request.
func describe(op fuse.Opcode, nodeid uint64, b []byte, root uint64) string {
	s := op.String()
	switch {
	case nodeid == root:
		s += " root"
	case nodeid != 0:
		s += fmt.Sprintf(" %d", nodeid)
	}
	switch op {
	case fuse.OpLookup, fuse.OpUnlink, fuse.OpRmdir, fuse.OpRemovexattr:
		s += fmt.Sprintf(" %q", cstring(b))
	case fuse.OpSymlink:
		s += fmt.Sprintf(" %q", cstring(b))
	case fuse.OpCreate, fuse.OpTmpfile, fuse.OpMknod, fuse.OpRename2:
		s += named(b, 16)
		if op != fuse.OpRename2 {
			s += fmt.Sprintf(" mode=%o", decode[[2]uint32](b)[modeWord(op)])
		}
	case fuse.OpMkdir, fuse.OpRename, fuse.OpLink, fuse.OpGetxattr:
		s += named(b, 8)
	case fuse.OpSetxattr:
		if i := slices.Index(b[min(8, len(b)):], 0); i > 0 {
			s += named(b, 8)
		} else {
			s += named(b, 16)
		}
	case fuse.OpOpen:
		s += openFlags(decode[fuse.OpenIn](b).Flags)
	case fuse.OpSetattr:
		s += describeSetattr(decode[fuse.SetattrIn](b))
	case fuse.OpRead:
		in := decode[fuse.ReadIn](b)
		s += fmt.Sprintf(" pos=%d count=%d", in.Offset, in.Size)
	case fuse.OpWrite:
		in := decode[fuse.WriteIn](b)
		s += fmt.Sprintf(" pos=%d count=%d", in.Offset, in.Size)
	case fuse.OpFallocate:
		in := decode[fuse.FallocateIn](b)
		s += fmt.Sprintf(" mode=%#x pos=%d count=%d", in.Mode, in.Offset, in.Length)
	case fuse.OpLseek:
		in := decode[fuse.LseekIn](b)
		s += fmt.Sprintf(" pos=%d whence=%d", in.Offset, in.Whence)
	case fuse.OpForget:
		s += fmt.Sprintf(" n=%d", decode[fuse.ForgetIn](b).Nlookup)
	case fuse.OpFreezeFS:
		s += fmt.Sprintf(" unlinked=%d", decode[fuse.FreezeFSIn](b).Unlinked)
	case fuse.OpFsync, fuse.OpFsyncdir:
		if decode[fuse.FsyncIn](b).Flags&fuse.FsyncDatasync != 0 {
			s += " datasync"
		}
	case fuse.OpIomapBegin:
		in := decode[fuse.IomapBeginIn](b)
		s += fmt.Sprintf(" op=%s pos=%d count=%d", opString(in.Op), in.Pos, in.Count)
	case fuse.OpIomapEnd:
		in := decode[fuse.IomapEndIn](b)
		s += fmt.Sprintf(" op=%s pos=%d count=%d written=%d map=%s", opString(in.Op), in.Pos, in.Count, in.Written, ioString(in.Map))
	case fuse.OpIomapIoend:
		in := decode[fuse.IomapIoendIn](b)
		s += fmt.Sprintf(" flags=%s pos=%d written=%d dev=%d", ioendString(in.Flags), in.Pos, in.Written, in.Dev)
		if in.Error != 0 {
			s += " error=" + errnoName(syscall.Errno(-in.Error))
		}
	}
	return s
}

func modeWord(op fuse.Opcode) int {
	if op == fuse.OpMknod {
		return 0
	}
	return 1
}

func named(b []byte, skip int) string { return fmt.Sprintf(" %q", cstring(b[min(skip, len(b)):])) }

func cstring(b []byte) string {
	if i := slices.Index(b, 0); i >= 0 {
		b = b[:i]
	}
	return string(b)
}

func openFlags(f uint32) string {
	s := " " + [...]string{"O_RDONLY", "O_WRONLY", "O_RDWR", "O_ACCMODE"}[f&syscall.O_ACCMODE]
	for _, x := range []struct {
		bit  uint32
		name string
	}{{syscall.O_TRUNC, "O_TRUNC"}, {syscall.O_APPEND, "O_APPEND"}, {syscall.O_DIRECT, "O_DIRECT"}, {syscall.O_SYNC, "O_SYNC"}} {
		if f&x.bit == x.bit {
			s += "|" + x.name
		}
	}
	return s
}

// describeSetattr names the fields; times are left out, so that traces can be compared.
func describeSetattr(in fuse.SetattrIn) string {
	var names []string
	for _, x := range []struct {
		bit  fuse.SetattrValid
		text string
	}{
		{fuse.SetattrMode, fmt.Sprintf("MODE=%o", in.Mode&07777)}, {fuse.SetattrUID, fmt.Sprintf("UID=%d", in.UID)},
		{fuse.SetattrGID, fmt.Sprintf("GID=%d", in.GID)}, {fuse.SetattrSize, fmt.Sprintf("SIZE=%d", in.Size)},
		{fuse.SetattrAtime, "ATIME"}, {fuse.SetattrMtime, "MTIME"}, {fuse.SetattrCtime, "CTIME"}, {fuse.SetattrAtimeNow, "ATIME_NOW"},
		{fuse.SetattrMtimeNow, "MTIME_NOW"}, {fuse.SetattrKillSuidgid, "KILL_SUIDGID"},
	} {
		if in.Valid&x.bit != 0 {
			names = append(names, x.text)
		}
	}
	return " " + strings.Join(names, "|")
}

// outcome is what a reply says, as far as it matters.
func outcome(op fuse.Opcode, b []byte) string {
	switch op {
	case fuse.OpLookup, fuse.OpCreate, fuse.OpMknod, fuse.OpMkdir, fuse.OpSymlink, fuse.OpTmpfile:
		return fmt.Sprint(decode[fuse.EntryOut](b).NodeID)
	case fuse.OpIomapBegin:
		out := decode[fuse.IomapBeginOut](b)
		return fmt.Sprintf("read=%s write=%s", ioString(out.Read), ioString(out.Write))
	case fuse.OpIomapIoend:
		return fmt.Sprintf("newsize=%d", decode[fuse.IomapIoendOut](b).Newsize)
	case fuse.OpSetattr, fuse.OpGetattr:
		return fmt.Sprintf("size=%d", decode[fuse.AttrOut](b).Attr.Size)
	}
	return ""
}

// ioString is a mapping in one word.
func ioString(m fuse.IomapIO) string {
	s := fmt.Sprintf("%d+%d:%s", m.Offset, m.Length, typeString(m.Type))
	if m.Flags != 0 {
		s += "|" + flagsString(m.Flags)
	}
	if m.Addr != fuse.IomapNullAddr || m.Dev != 0 {
		s += fmt.Sprintf("@%d:%d", m.Dev, m.Addr)
	}
	return s
}

func typeString(t iomap.Type) string {
	switch t {
	case iomap.Hole:
		return "HOLE"
	case iomap.Delalloc:
		return "DELALLOC"
	case iomap.Mapped:
		return "MAPPED"
	case iomap.Unwritten:
		return "UNWRITTEN"
	case iomap.Inline:
		return "INLINE"
	case fuse.IomapNoCache:
		return "NOCACHE"
	case fuse.IomapRetryCache:
		return "RETRY_CACHE"
	case fuse.IomapPureOverwrite:
		return "PURE_OVERWRITE"
	}
	return fmt.Sprintf("TYPE_%d", t)
}

func flagsString(f iomap.Flags) string {
	return bits(uint32(f), "NEW", "DIRTY", "SHARED", "MERGED", "BOUNDARY", "ANON_WRITE", "ATOMIC_BIO", "WANT_END", "SIZE_CHANGED", "STALE")
}

func opString(op iomap.Op) string {
	if op == 0 {
		return "READ"
	}
	names := make([]string, 32)
	copy(names, []string{"WRITE", "ZERO", "REPORT", "FAULT", "DIRECT", "NOWAIT", "OVERWRITE_ONLY", "UNSHARE", "DAX", "ATOMIC", "DONTCACHE"})
	names[30], names[31] = "SWAPFILE", "WRITEBACK"
	return bits(uint32(op), names...)
}

func ioendString(f fuse.IoendFlags) string {
	if f == 0 {
		return "0"
	}
	return bits(uint32(f), "SHARED", "UNWRITTEN", "BOUNDARY", "DIRECT", "APPEND", "WRITEBACK", "SWAPOFF")
}

// bits names the bits of v.
func bits(v uint32, names ...string) string {
	var out []string
	for i := range 32 {
		if v&(1<<i) == 0 {
			continue
		}
		if i < len(names) && names[i] != "" {
			out = append(out, names[i])
		} else {
			out = append(out, fmt.Sprintf("BIT_%d", i))
		}
	}
	return strings.Join(out, "|")
}
