package vfs

import (
	"os"
	"sync"
	"syscall"

	"ext4box/fuse"
)

// File is an open file. Its methods are the system calls on it.
type File struct {
	*openFile
	by *Task // who makes the calls
}

// As is the same open file, for calls with other rights.
func (f *File) As(c Cred) *File { return &File{f.openFile, f.fs.As(c)} }

func (f *File) task() *Task { return f.by }

func (f *File) caller() caller { return f.by.caller() }

// openFile is what all who use an open file share.
type openFile struct {
	fs    *FS
	in    *inode
	flags int // O_*
	fh    uint64
	open  fuse.OpenFlags
	quiet bool     // OPEN was answered with ENOSYS: no RELEASE
	host  *os.File // behind a device or pipe

	mu     sync.Mutex
	closed bool
	wbSeen uint64 // the errors of writeback that were reported here
}

// openRequest opens a file or directory that exists. The reference to the inode is the file's from then on,
// if it succeeds.
func (t *Task) openRequest(in *inode, flags int) (*File, syscall.Errno) {
	fs, c := t.fs, t.caller()
	if in.isBad() {
		return nil, syscall.EIO
	}
	trunc := flags&syscall.O_TRUNC != 0 && in.regular()
	atomic := fs.flags&fuse.InitAtomicOTrunc != 0
	if trunc && in.isSwap() {
		return nil, syscall.ETXTBSY
	}
	if trunc && atomic {
		in.rwsem.Lock()
		defer in.rwsem.Unlock()
		in.invalidate.Lock()
		defer in.invalidate.Unlock()
		in.freeing.Add(1)
		defer in.freeing.Add(-1)
	}
	op, none := fuse.OpOpen, fuse.InitNoOpenSupport
	if in.typ == syscall.S_IFDIR {
		op, none = fuse.OpOpendir, fuse.InitNoOpendirSupport
	}
	out := fuse.OpenOut{OpenFlags: fuse.OpenKeepCache}
	quiet := fs.unsupported(op)
	if !quiet {
		sentFlags := flags &^ (syscall.O_CREAT | syscall.O_EXCL | syscall.O_NOCTTY)
		if !atomic {
			sentFlags &^= syscall.O_TRUNC
		}
		payload, errno := fs.request(c, op, in.nodeid, structure(&fuse.OpenIn{Flags: uint32(sentFlags)}))
		switch {
		case errno == syscall.ENOSYS && fs.flags&none != 0:
			fs.without(op)
			quiet = true
		case errno != 0:
			return nil, errno
		default:
			out = decode[fuse.OpenOut](payload)
		}
	}
	if trunc && atomic && quiet {
		fs.violate("OPEN with O_TRUNC of node %d is not sent, as OPEN was answered with ENOSYS, but ATOMIC_O_TRUNC was asked for", in.nodeid)
	}
	f := t.newFile(in, flags, &out, quiet)
	if errno := f.checkOpen(&out); errno != 0 {
		f.release()
		return nil, errno
	}
	switch {
	case trunc && atomic:
		in.truncated()
	case in.mapped() && out.OpenFlags&(fuse.OpenKeepCache|fuse.OpenDirectIO) == 0:
		_ = in.writePages(0, toEOF)
		in.dropPages(0, toEOF)
	}
	return f, 0
}

// newFile makes the file of an OPEN or CREATE that has succeeded. quiet says that the server does not
// want to hear of it again.
func (t *Task) newFile(in *inode, flags int, out *fuse.OpenOut, quiet bool) *File {
	t.fs.mu.Lock()
	t.fs.open++
	t.fs.mu.Unlock()
	return &File{&openFile{fs: t.fs, in: in, flags: flags, fh: out.Fh, open: out.OpenFlags, quiet: quiet, wbSeen: in.writeback.errors()}, t}
}

// checkOpen refuses what the reply to OPEN or CREATE must not say.
func (f *File) checkOpen(out *fuse.OpenOut) syscall.Errno {
	if bad := out.OpenFlags & (fuse.OpenPassthrough | fuse.OpenStream | fuse.OpenNonseekable); f.in.mapped() && bad != 0 {
		f.fs.violate("open of node %d with flags %#x, whose data goes by mappings", f.in.nodeid, uint32(bad))
		return syscall.EINVAL
	}
	return 0
}

// NodeID is that of the file.
func (f *File) NodeID() uint64 { return f.in.nodeid }

// Close writes back, tells the server, and gives the file back. Its error is that of FLUSH.
func (f *File) Close() error {
	f.mu.Lock()
	closed := f.closed
	f.closed = true
	f.mu.Unlock()
	if closed {
		return syscall.EBADF
	}
	if f.host != nil {
		_ = f.host.Close()
	}
	errno := f.flush()
	f.release()
	f.fs.iput(f.in)
	return fail(errno)
}

// flush is what close(2) does for each descriptor.
func (f *File) flush() syscall.Errno {
	if f.in.isBad() {
		return syscall.EIO
	}
	if !f.in.regular() {
		return 0
	}
	errno := f.in.writeInode()
	if f.in.mapped() || f.open&fuse.OpenNoflush == 0 {
		e := f.fs.optional(f.caller(), fuse.OpFlush, f.in.nodeid, structure(&fuse.FlushIn{Fh: f.fh, LockOwner: 1}))
		if errno == 0 {
			errno = e
		}
	}
	if e := f.writebackError(); errno == 0 {
		errno = e
	}
	return errno
}

// release ends the open file towards the server. Nobody waits for the reply if it is held.
func (f *File) release() {
	f.fs.mu.Lock()
	f.fs.open--
	f.fs.mu.Unlock()
	dir := f.in.typ == syscall.S_IFDIR
	if f.quiet || !dir && f.fs.unsupported(fuse.OpOpen) {
		return // also of what CREATE opened, once it is known
	}
	op := fuse.OpRelease
	if dir {
		op = fuse.OpReleasedir
	} else {
		_ = f.in.writeInode()
	}
	body := structure(&fuse.ReleaseIn{Fh: f.fh, Flags: uint32(f.flags)})
	nodeid := f.in.nodeid
	done := make(chan struct{})
	leave := sync.OnceFunc(func() { close(done) })
	f.fs.released.Go(func() {
		defer leave()
		_, _ = f.fs.send(kernelTask, op, nodeid, body, leave)
	})
	<-done
}

// startWrite enters what a frozen filesystem keeps out, and returns how to leave it.
func (fs *FS) startWrite() func() {
	fs.writers.RLock()
	return fs.writers.RUnlock
}

// isSwap tells whether the file is a swap file.
func (in *inode) isSwap() bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.swap
}
