package server_test

import (
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ext4box/blockdev"
	"ext4box/ext4"
	"ext4box/fuse"
	"ext4box/internal/testimage"
	"ext4box/server"
)

// What requests cost in server and engine, without a kernel and a transport. The time of
// CPUs includes commits, and a checkpoint at the end. To see whether costs grow with the
// number of files: -benchtime 1000x, 10000x, 100000x.

// bench is a filesystem and the server that answers the requests of the benchmark.
type bench struct {
	b  *testing.B
	s  *server.Server
	fs *ext4.FS
	p  fuse.Protocol
}

func newBench(b *testing.B) *bench {
	b.Helper()
	img := filepath.Join(b.TempDir(), "a.img")
	args := []string{"-t", "ext4"}
	if b.N > 200_000 {
		args = append(args, "-N", fmt.Sprint(b.N*5/4))
	}
	if err := testimage.Mke2fs(img, 4<<30, args...); err != nil {
		b.Skip(err)
	}
	dev, err := blockdev.Open(img, blockdev.Options{})
	if err != nil {
		b.Fatal(err)
	}
	fs, err := ext4.Open(dev, ext4.Options{})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := fs.Close(); err != nil {
			b.Error(err)
		}
	})
	r := &bench{b: b, fs: fs, s: server.New(fs, server.Options{})}
	r.p.Params = r.s.Params()
	return r
}

// cpu is the time that the process has used.
func cpu() time.Duration {
	var u syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// measure runs fn for 0 to b.N-1, from several sides, and brings home what that changed.
func (r *bench) measure(sides int, fn func(i int)) {
	b := r.b
	if err := r.fs.Sync(); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	before := cpu()
	b.ResetTimer()
	if sides == 1 {
		for i := range b.N {
			fn(i)
		}
	} else {
		var next atomic.Int64
		var wg sync.WaitGroup
		for range sides {
			wg.Go(func() {
				for i := int(next.Add(1)) - 1; i < b.N; i = int(next.Add(1)) - 1 {
					fn(i)
				}
			})
		}
		wg.Wait()
	}
	// Freezing brings everything home.
	if err := r.fs.Freeze(0); err != nil {
		b.Fatal(err)
	}
	if err := r.fs.Thaw(); err != nil {
		b.Fatal(err)
	}
	b.StopTimer()
	b.ReportMetric(float64(cpu()-before)/float64(b.N), "cpu-ns/op")
}

func (r *bench) request(node uint64) *fuse.Request {
	q := &fuse.Request{Protocol: &r.p}
	q.NodeID = node
	return q
}

func (r *bench) check(what string, errno syscall.Errno) {
	if errno != 0 {
		r.b.Errorf("%s: %v", what, errno)
	}
}

func (r *bench) create(dir uint64, name string) uint64 {
	var out fuse.EntryOut
	var open fuse.OpenOut
	r.check("create", r.s.Create(r.request(dir), &fuse.CreateIn{Flags: unix.O_WRONLY, Mode: unix.S_IFREG | 0o644}, name, &out, &open))
	return out.NodeID
}

func (r *bench) release(node uint64) {
	r.check("release", r.s.Release(r.request(node), &fuse.ReleaseIn{Flags: unix.O_WRONLY}))
}

func (r *bench) mkdir(dir uint64, name string) uint64 {
	var out fuse.EntryOut
	r.check("mkdir", r.s.Mkdir(r.request(dir), &fuse.MkdirIn{Mode: 0o755}, name, &out))
	return out.NodeID
}

// write is the engine's part of a WRITE of what the kernel had in its cache.
func (r *bench) write(node uint64, data []byte) {
	n, err := r.fs.WriteBack(ext4.Ino(node), data, 0)
	if n != len(data) || err != nil {
		r.b.Errorf("wrote %d bytes: %v", n, err)
	}
}

func (r *bench) setattr(node uint64, valid fuse.SetattrValid) {
	var out fuse.AttrOut
	r.check("setattr", r.s.Setattr(r.request(node), &fuse.SetattrIn{Valid: valid, Mode: 0o640, Atime: 1e9, Mtime: 1e9, Ctime: 1e9}, &out))
}

func (r *bench) lookup(dir uint64, name string) uint64 {
	var out fuse.EntryOut
	r.check("lookup", r.s.Lookup(r.request(dir), name, &out))
	return out.NodeID
}

// perDir is how many files there are in each directory where there are many directories.
const perDir = 100

// files says where the files of a benchmark are.
type files struct {
	*bench
	dirs []uint64
	made []uint64
}

// newFiles makes the directories: one, or many.
func newFiles(b *testing.B, many bool) *files {
	f := &files{bench: newBench(b), made: make([]uint64, b.N)}
	if !many {
		f.dirs = []uint64{f.mkdir(1, "dir")}
		return f
	}
	for i := range (b.N + perDir - 1) / perDir {
		f.dirs = append(f.dirs, f.mkdir(1, fmt.Sprint("dir", i)))
	}
	return f
}

func (f *files) dir(i int) uint64 {
	if len(f.dirs) == 1 {
		return f.dirs[0]
	}
	return f.dirs[i/perDir]
}

func name(i int) string { return fmt.Sprintf("file%07d", i) }

func (f *files) make(i int) {
	f.made[i] = f.create(f.dir(i), name(i))
	f.release(f.made[i])
}

func (f *files) fill() *files {
	for i := range f.made {
		f.make(i)
	}
	return f
}

// written is fill with a block of data in each file.
func (f *files) written() *files {
	data := make([]byte, 4096)
	f.fill()
	for _, node := range f.made {
		f.write(node, data)
	}
	return f
}

func layouts(b *testing.B, fn func(b *testing.B, many bool)) {
	b.Run("dirs=1", func(b *testing.B) { fn(b, false) })
	b.Run("dirs=many", func(b *testing.B) { fn(b, true) })
}

func BenchmarkCreate(b *testing.B) {
	layouts(b, func(b *testing.B, many bool) {
		f := newFiles(b, many)
		f.measure(1, f.make)
	})
}

func BenchmarkCreateParallel(b *testing.B) {
	layouts(b, func(b *testing.B, many bool) {
		f := newFiles(b, many)
		f.measure(16, f.make)
	})
}

func BenchmarkMkdir(b *testing.B) {
	layouts(b, func(b *testing.B, many bool) {
		f := newFiles(b, many)
		f.measure(1, func(i int) { f.mkdir(f.dir(i), name(i)) })
	})
}

func BenchmarkLookup(b *testing.B) {
	layouts(b, func(b *testing.B, many bool) {
		f := newFiles(b, many).fill()
		f.measure(1, func(i int) { f.lookup(f.dir(i), name(i)) })
	})
}

func BenchmarkGetattr(b *testing.B) {
	f := newFiles(b, true).fill()
	f.measure(1, func(i int) {
		var out fuse.AttrOut
		f.check("getattr", f.s.Getattr(f.request(f.made[i]), &fuse.GetattrIn{}, &out))
	})
}

func BenchmarkGetxattr(b *testing.B) {
	f := newFiles(b, true).fill()
	f.measure(1, func(i int) {
		if _, errno := f.s.Getxattr(f.request(f.made[i]), "security.capability", nil); errno != syscall.ENODATA {
			b.Error(errno)
		}
	})
}

func BenchmarkSetattr(b *testing.B) {
	f := newFiles(b, true).fill()
	f.measure(1, func(i int) {
		f.setattr(f.made[i], fuse.SetattrAtime|fuse.SetattrMtime|fuse.SetattrCtime)
	})
}

func BenchmarkRename(b *testing.B) {
	layouts(b, func(b *testing.B, many bool) {
		f := newFiles(b, many).fill()
		f.measure(1, func(i int) {
			d := f.dir(i)
			f.check("rename", f.s.Rename(f.request(d), &fuse.RenameIn{NewDir: d}, name(i), fmt.Sprintf("renamed%07d", i)))
		})
	})
}

// BenchmarkUnlink includes that the kernel forgets the file.
func BenchmarkUnlink(b *testing.B) {
	layouts(b, func(b *testing.B, many bool) {
		f := newFiles(b, many).fill()
		f.measure(1, f.unlink)
	})
}

func (f *files) unlink(i int) {
	f.check("unlink", f.s.Unlink(f.request(f.dir(i)), name(i)))
	f.s.Forget(f.made[i], 1)
}

// BenchmarkUnlinkWritten is of files with a block.
func BenchmarkUnlinkWritten(b *testing.B) {
	layouts(b, func(b *testing.B, many bool) {
		f := newFiles(b, many).written()
		f.measure(1, f.unlink)
	})
}

// BenchmarkFirstWrite writes the first 4 KiB of new files, a device's work included.
func BenchmarkFirstWrite(b *testing.B) {
	f := newFiles(b, true).fill()
	data := make([]byte, 4096)
	f.measure(1, func(i int) { f.write(f.made[i], data) })
}

func BenchmarkUntar(b *testing.B)         { untar(b, 1) }
func BenchmarkUntarParallel(b *testing.B) { untar(b, 16) }

// untar sends what tar -x of small files comes down to.
func untar(b *testing.B, sides int) {
	f := newFiles(b, true)
	data := make([]byte, 16<<10)
	f.measure(sides, func(i int) {
		node := f.create(f.dir(i), name(i))
		if _, errno := f.s.Getxattr(f.request(node), "security.capability", nil); errno != syscall.ENODATA {
			b.Error(errno)
		}
		f.write(node, data[:4096*(1+i%4)])
		f.setattr(node, fuse.SetattrMtime|fuse.SetattrCtime)
		f.setattr(node, fuse.SetattrAtime|fuse.SetattrMtime|fuse.SetattrCtime)
		f.setattr(node, fuse.SetattrMode|fuse.SetattrCtime)
		f.release(node)
	})
}
