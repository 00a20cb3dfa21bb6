package server_test

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"ext4box/blockdev"
	"ext4box/blockdev/blocktest"
	"ext4box/ext4"
	"ext4box/fuse"
	"ext4box/fuse/fusetest"
	"ext4box/fuse/fusetest/vfs"
	"ext4box/internal/e2test"
)

// A pitfall is a mistake that servers of fuse-iomap are known to make. What each of them does is done twice: as
// it should be, which nobody may complain of, and with the mistake built in, of which somebody must:
// the modelled kernel, the program that uses the filesystem, e2fsck, or who looks at the disk after a crash.
// So every one of the checks can fail.
//
// The numbers are those of the protocol's list. What is not, or not all, in the tables:
//
//	14  requests before IOMAP_CONFIG: TestPitfallEarlyRequest; package fuse, TestIomapConfigIsFirst; package mount, TestSync
//	15  RELEASE beside DESTROY: package fuse, TestIomapDestroyIsLast and TestIomapDestroyTooEarly
//	16  memory reclaim: package fuse, TestIomapThreads
//	19  more than 32 bits of data: TestPitfallLongWrite
//	20  no space for nodes: package ext4, TestOutsideNodes
type pitfall struct {
	name string
	modelConfig
	// How the mistake is built in: into what the server does, or into what it says.
	build  func(*mounted, fuse.Operations) fuse.Operations
	tamper func(*vfs.Message) bool
	mount  func(*modelConfig) // or into how all is set up

	use   func(*probe)
	found string // a part of the complaint
}

// probe is a mount, and who is told of what goes wrong.
type probe struct {
	testing.TB
	m *mounted

	mu         sync.Mutex
	complaints []string
}

func (p *probe) Errorf(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.complaints = append(p.complaints, fmt.Sprintf(format, args...))
}

func (p *probe) Error(args ...any) { p.Errorf("%s", fmt.Sprint(args...)) }

func (p *probe) Fatalf(format string, args ...any) {
	p.Errorf(format, args...)
	runtime.Goexit()
}

func (p *probe) Fatal(args ...any) { p.Fatalf("%s", fmt.Sprint(args...)) }

// must ends the use if a system call fails.
func (p *probe) must(err error) {
	p.Helper()
	if err != nil {
		p.Fatalf("a system call fails: %v", err)
	}
}

func (p *probe) open(name string, flags int) *vfs.File {
	f, err := p.m.Open(name, flags, 0o644)
	p.must(err)
	return f
}

func (p *probe) create(name string, flags int) *vfs.File {
	return p.open(name, syscall.O_RDWR|syscall.O_CREAT|syscall.O_EXCL|flags)
}

func (p *probe) write(f *vfs.File, data []byte, off int64) {
	_, err := f.WriteAt(data, off)
	p.must(err)
}

// content compares what a program reads.
func (p *probe) content(f *vfs.File, want []byte) {
	p.Helper()
	got := make([]byte, len(want)+1)
	n, err := f.ReadAt(got, 0)
	if err != nil && err != io.EOF {
		p.must(err)
	}
	if !bytes.Equal(got[:n], want) {
		p.Errorf("the content is wrong: %d bytes, want %d", n, len(want))
	}
}

// crashed compares the content of a file with what a loss of power right now leaves: as little as possible.
func (p *probe) crashed(name string, want []byte) {
	h := p.m.dev.(*blocktest.Recording).History()
	for c := range h.At(h.End(), 2, 1) {
		fs, err := ext4.Open(c.Image(), ext4.Options{})
		p.must(err)
		got := make([]byte, len(want)+1)
		n := 0
		ino, err := fs.Lookup(ext4.RootIno, name)
		if err == nil {
			n, err = fs.ReadAt(ino, got, 0)
		}
		if err != nil && err != io.EOF || !bytes.Equal(got[:n], want) {
			p.Errorf("after a crash the content is wrong: %d bytes, %v", n, err)
		}
		p.must(fs.Close())
	}
}

// recorded has the device remember its writes, for crashed.
func recorded(m *blocktest.Mem) blockdev.Device { return blocktest.NewRecording(m, m.Size(), nil) }

// judge unmounts and looks at the image.
func (p *probe) judge() {
	if err := p.m.Unmount(); err != nil {
		p.Errorf("unmount: %v", err)
	}
	if err := blocktest.Dump(p.m.dev, p.m.dev.Size(), p.m.path); err != nil {
		p.Fatal(err)
	}
	if features := e2test.Dumpe2fs(p, p.m.path).Header["Filesystem features"]; strings.Contains(features, "needs_recovery") {
		p.Errorf("it is unmounted, but needs_recovery is set")
		p.m.fs.Close()
		return
	}
	e2test.Output(p, "e2fsck", "-fn", p.m.path)
}

// try does what the pitfall is about and returns what was complained of.
func (f *pitfall) try(t *testing.T, g vfs.Generation, built bool) []string {
	c := f.modelConfig
	p := &probe{TB: t}
	c.Generation, c.lenient, c.tb = g, true, p
	c.open.CommitInterval, c.size = time.Hour, 16<<20
	if built {
		c.wrap, c.Tamper = f.build, f.tamper
		if f.mount != nil {
			f.mount(&c)
		}
	}
	p.m = mountModelWith(t, c)
	for _, step := range []func(){func() { f.use(p) }, p.judge} {
		var wg sync.WaitGroup
		wg.Go(step) // which may end in the middle
		wg.Wait()
	}
	return p.complaints
}

// number is the place in the protocol's list, with which the name begins.
func (f *pitfall) number() (n int) {
	if _, err := fmt.Sscan(f.name, &n); err != nil {
		panic(err)
	}
	return n
}

// TestPitfallsComplete: none of the list is forgotten.
func TestPitfallsComplete(t *testing.T) {
	elsewhere := []int{14, 16, 19, 20}
	var have []int
	for _, f := range slices.Concat(negotiationPitfalls, mappingPitfalls, dataPitfalls, attributePitfalls) {
		have = append(have, f.number())
	}
	for n := 1; n <= 27; n++ {
		if slices.Contains(have, n) == slices.Contains(elsewhere, n) {
			t.Errorf("pitfall %d: in the tables %t, elsewhere %t", n, slices.Contains(have, n), slices.Contains(elsewhere, n))
		}
	}
}

func TestPitfalls(t *testing.T) {
	list := slices.Concat(negotiationPitfalls, mappingPitfalls, dataPitfalls, attributePitfalls)
	slices.SortStableFunc(list, func(a, b pitfall) int { return cmp.Compare(a.number(), b.number()) })
	for _, f := range list {
		t.Run(f.name, func(t *testing.T) {
			generations(t, func(t *testing.T, g vfs.Generation) {
				if c := f.try(t, g, false); len(c) > 0 {
					t.Errorf("without the mistake: %q", c)
				}
				c := f.try(t, g, true)
				t.Logf("%q", c)
				if !slices.ContainsFunc(c, func(s string) bool { return strings.Contains(s, f.found) }) {
					t.Errorf("with the mistake, nobody complains of %q: %q", f.found, c)
				}
			})
		})
	}
}

// TestPitfallLongWrite (19): more than 4 GiB can be written in one piece.
func TestPitfallLongWrite(t *testing.T) {
	const pos, written = 1 << 20, 5 << 30
	for _, built := range []bool{false, true} {
		c := bareConfig{prepare: someFiles}
		if built {
			c.wrap = func(ops fuse.Operations) fuse.Operations {
				return &faulty{Operations: ops, ioend: func(r *fuse.Request, in *fuse.IomapIoendIn, out *fuse.IomapIoendOut) syscall.Errno {
					short := *in
					short.Written = uint64(uint32(in.Written))
					return ops.IomapIoend(r, &short, out)
				}}
			}
		}
		b := serveBare(t, c)
		size := b.ioend(b.node("sparse").NodeID, pos, written, fuse.IoendUnwritten|fuse.IoendAppend|fuse.IoendWriteback)
		if right := size == pos+written; right == built {
			t.Errorf("with the mistake built in: %t, the size is %d", built, size)
		}
		b.finish(t)
	}
}

// TestPitfallEarlyRequest (14): what is asked before IOMAP_CONFIG was answered must wait, for the answer would be
// that of a server that does not know yet which way data goes, and the kernel would keep to it.
func TestPitfallEarlyRequest(t *testing.T) {
	for _, built := range []bool{false, true} {
		b := serveBare(t, bareConfig{prepare: someFiles, early: true})
		var e fuse.EntryOut
		if built {
			// Past the session, which makes requests wait.
			if errno := b.srv.Lookup(&fuse.Request{InHeader: fuse.InHeader{NodeID: 1}}, "file", &e); errno != 0 {
				t.Fatal(errno)
			}
		}
		early := b.Go(fuse.OpLookup, 1, fusetest.CString("file"))
		var err error
		if b.cfg, err = b.IomapConfig(fuse.IomapConfigIn{Flags: 1<<7 - 1, Maxbytes: 1<<63 - 1}); err != nil {
			t.Fatal(err)
		}
		r := early.Wait()
		if r.Err() != nil {
			t.Fatal(r.Err())
		}
		if !built {
			e = fusetest.Value[fuse.EntryOut](r.Payload)
		}
		if right := e.Attr.Flags&fuse.AttrIomap != 0; right == built {
			t.Errorf("with the mistake built in: %t, the flags are %#x", built, e.Attr.Flags)
		}
		b.finish(t)
	}
}

// edited changes the replies to some operations that have, or begin with, a T.
func edited[T any](change func(*T), ops ...fuse.Opcode) func(*vfs.Message) bool {
	return func(m *vfs.Message) bool {
		if m.Errno == 0 && slices.Contains(ops, m.Op) {
			v := fusetest.Value[T](m.Payload)
			change(&v)
			copy(m.Payload, fusetest.Bytes(&v))
		}
		return true
	}
}

// upserts changes the mappings that are handed out.
func upserts(change func(*fuse.IomapUpsertMappings)) func(*vfs.Message) bool {
	return func(m *vfs.Message) bool {
		if m.Code == fuse.NotifyIomapUpsertMappings {
			v := fusetest.Value[fuse.IomapUpsertMappings](m.Payload)
			change(&v)
			copy(m.Payload, fusetest.Bytes(&v))
		}
		return true
	}
}

// faulty is a server with a mistake. What is nil is as it should be.
type faulty struct {
	fuse.Operations
	begin     func(*fuse.Request, *fuse.IomapBeginIn, *fuse.IomapBeginOut) syscall.Errno
	ioend     func(*fuse.Request, *fuse.IomapIoendIn, *fuse.IomapIoendOut) syscall.Errno
	fallocate func(*fuse.Request, *fuse.FallocateIn) syscall.Errno
	fsync     func(*fuse.Request, *fuse.FsyncIn) syscall.Errno
	read      func(*fuse.Request, *fuse.ReadIn, []byte) (int, syscall.Errno)
	write     func(*fuse.Request, *fuse.WriteIn, []byte) (int, syscall.Errno)
	create    func(*fuse.Request, *fuse.CreateIn, string, *fuse.EntryOut, *fuse.OpenOut) syscall.Errno
	statx     func(*fuse.Request, *fuse.StatxIn, *fuse.StatxOut) syscall.Errno
	readdir   func(*fuse.Request)
	freeze    func(*fuse.Request, *fuse.FreezeFSIn) syscall.Errno
	destroy   func()
}

func (f *faulty) IomapBegin(r *fuse.Request, in *fuse.IomapBeginIn, out *fuse.IomapBeginOut) syscall.Errno {
	if f.begin != nil {
		return f.begin(r, in, out)
	}
	return f.Operations.IomapBegin(r, in, out)
}

func (f *faulty) IomapIoend(r *fuse.Request, in *fuse.IomapIoendIn, out *fuse.IomapIoendOut) syscall.Errno {
	if f.ioend != nil {
		return f.ioend(r, in, out)
	}
	return f.Operations.IomapIoend(r, in, out)
}

func (f *faulty) Fallocate(r *fuse.Request, in *fuse.FallocateIn) syscall.Errno {
	if f.fallocate != nil {
		return f.fallocate(r, in)
	}
	return f.Operations.Fallocate(r, in)
}

func (f *faulty) Fsync(r *fuse.Request, in *fuse.FsyncIn) syscall.Errno {
	if f.fsync != nil {
		return f.fsync(r, in)
	}
	return f.Operations.Fsync(r, in)
}

func (f *faulty) Read(r *fuse.Request, in *fuse.ReadIn, buf []byte) (int, syscall.Errno) {
	if f.read != nil {
		return f.read(r, in, buf)
	}
	return f.Operations.Read(r, in, buf)
}

func (f *faulty) Write(r *fuse.Request, in *fuse.WriteIn, data []byte) (int, syscall.Errno) {
	if f.write != nil {
		return f.write(r, in, data)
	}
	return f.Operations.Write(r, in, data)
}

func (f *faulty) Create(r *fuse.Request, in *fuse.CreateIn, name string, out *fuse.EntryOut, open *fuse.OpenOut) syscall.Errno {
	if f.create != nil {
		return f.create(r, in, name, out, open)
	}
	return f.Operations.Create(r, in, name, out, open)
}

func (f *faulty) Statx(r *fuse.Request, in *fuse.StatxIn, out *fuse.StatxOut) syscall.Errno {
	if f.statx != nil {
		return f.statx(r, in, out)
	}
	return f.Operations.Statx(r, in, out)
}

func (f *faulty) Readdir(r *fuse.Request, in *fuse.ReadIn, d *fuse.DirBuffer) syscall.Errno {
	if f.readdir != nil {
		f.readdir(r)
	}
	return f.Operations.Readdir(r, in, d)
}

func (f *faulty) Readdirplus(r *fuse.Request, in *fuse.ReadIn, d *fuse.DirBuffer) syscall.Errno {
	if f.readdir != nil {
		f.readdir(r)
	}
	return f.Operations.Readdirplus(r, in, d)
}

func (f *faulty) FreezeFS(r *fuse.Request, in *fuse.FreezeFSIn) syscall.Errno {
	if f.freeze != nil {
		return f.freeze(r, in)
	}
	return f.Operations.FreezeFS(r, in)
}

func (f *faulty) Destroy() {
	if f.destroy != nil {
		f.destroy()
		return
	}
	f.Operations.Destroy()
}

// holding makes a file for a mount to find.
func holding(name string, content []byte, size uint64) func(*ext4.FS) {
	return func(fs *ext4.FS) {
		ino, err := fs.Create(ext4.RootIno, name, ext4.NewNode{Mode: syscall.S_IFREG | 0o644})
		if err == nil && len(content) > 0 {
			_, err = fs.WriteAt(ino, content, 0)
		}
		if err == nil {
			err = fs.Truncate(ino, size)
		}
		if err != nil {
			panic(err)
		}
	}
}
