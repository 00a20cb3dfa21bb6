package test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"ext4box/blockdev"
	"ext4box/ext4"
	"ext4box/internal/testimage"
)

// damageSeed makes the random part of the damage; it is printed, so that a
// failure can be had again.
const damageSeed = 20

// heapLimit is far above what a small image needs, and far below what a size
// from a damaged field would ask for.
const heapLimit = 512 << 20

// TestDamage damages every metadata block of small rich images in several ways,
// and cuts the images off at every 4 KiB. Whatever is left is opened and read
// from end to end: that must end, within bounded memory, in data or in errors
// that carry an errno. Where checksums are off the damage gets as far as the
// parsers behind them.
func TestDamage(t *testing.T) {
	shapes := []struct {
		name string
		args []string
	}{
		{"modern", []string{"-t", "ext4", "-b", "1024", "-I", "256", "-J", "size=1", "-O", "inline_data,ea_inode,orphan_file,mmp,large_dir"}},
		{"nocsum", []string{"-t", "ext4", "-b", "1024", "-J", "size=1", "-O", "^metadata_csum,^64bit,mmp"}},
		{"nocsum-inline", []string{"-t", "ext4", "-b", "1024", "-O", "^has_journal,^metadata_csum,inline_data,ea_inode,bigalloc", "-C", "2048"}},
		{"ext2", []string{"-t", "ext2", "-b", "1024"}},
	}
	for _, s := range shapes {
		t.Run(s.name, func(t *testing.T) {
			if testing.Short() && s.name != "nocsum" {
				t.Skip("one shape is enough with -short")
			}
			img := testimage.Build(t, t.TempDir(), testimage.Config{
				Name: s.name, Size: 12 << 20, Args: s.args, Level: testimage.Small})
			data, err := os.ReadFile(img.Path)
			if err != nil {
				t.Fatal(err)
			}
			blocks := metadataBlocks(t, img, data)
			t.Logf("seed %d, %d metadata blocks", damageSeed, len(blocks))
			if len(blocks) < 100 {
				t.Fatalf("only %d metadata blocks", len(blocks))
			}
			sum, err := exercise(context.Background(), &damaged{data: data, size: int64(len(data))})
			if err != nil || sum.errors > 0 {
				t.Fatalf("the sound image gives %d errors, the first is %q (%v)", sum.errors, sum.first, err)
			}
			damageAll(t, data, blocks, sum)
		})
	}
}

// metadataBlocks are the blocks of 1 KiB that are neither all zero nor the
// content of a regular file.
func metadataBlocks(t *testing.T, img *testimage.Image, data []byte) []int64 {
	t.Helper()
	content, err := testimage.ContentBlocks(img.Path, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	var list []int64
	zero := make([]byte, 1024)
	for b := range int64(len(data) / 1024) {
		if !content[b] && !bytes.Equal(data[b*1024:][:1024], zero) {
			list = append(list, b)
		}
	}
	return list
}

// A job is one way to damage one image.
type job struct {
	what  string
	block int64 // damaged block, -1 for none
	patch [1024]byte
	size  int64 // of the image
}

func damageAll(t *testing.T, data []byte, blocks []int64, sound summary) {
	stop := watchMemory(t)
	defer stop()
	jobs := make(chan job)
	var wg sync.WaitGroup
	var done, wrong atomic.Int64
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for j := range jobs {
				sum, ok := runJob(t, data, j)
				if !ok {
					return
				}
				done.Add(1)
				if sum != sound {
					wrong.Add(1)
				}
			}
		})
	}
	flips := 6
	if testing.Short() {
		flips = 1
	}
	makeJobs(data, blocks, flips, func(j job) bool {
		if t.Failed() {
			return false
		}
		jobs <- j
		return true
	})
	close(jobs)
	wg.Wait()
	t.Logf("%d damaged images, %d of them gave another result", done.Load(), wrong.Load())
	if wrong.Load() == 0 {
		t.Error("no damage made any difference, so this tests nothing")
	}
}

// makeJobs makes the damage of every block, then the cut off images.
func makeJobs(data []byte, blocks []int64, flips int, emit func(job) bool) {
	rng := rand.New(rand.NewPCG(damageSeed, damageSeed))
	size := int64(len(data))
	damage := func(b int64, what string, fn func(p []byte)) bool {
		j := job{what: fmt.Sprintf("block %d: %s", b, what), block: b, size: size}
		copy(j.patch[:], data[b*1024:])
		fn(j.patch[:])
		return emit(j)
	}
	for _, b := range blocks {
		ok := damage(b, "zeros", func(p []byte) { clear(p) }) &&
			damage(b, "ones", func(p []byte) {
				for i := range p {
					p[i] = 0xff
				}
			}) &&
			damage(b, "noise", func(p []byte) {
				for i := range p {
					p[i] = byte(rng.Uint32())
				}
			}) &&
			damage(b, "another metadata block", func(p []byte) {
				copy(p, data[blocks[rng.IntN(len(blocks))]*1024:][:1024])
			})
		for i := 0; ok && i < flips; i++ {
			bit := rng.IntN(8192)
			ok = damage(b, fmt.Sprintf("bit %d flipped", bit), func(p []byte) { p[bit/8] ^= 1 << (bit % 8) })
		}
		for i := 0; ok && i < flips; i++ {
			// Fields are at the front of blocks more often than not.
			at, v := rng.IntN(256)*4>>rng.IntN(5)&^3, extremes[rng.IntN(len(extremes))]
			ok = damage(b, fmt.Sprintf("word %#x is %#x", at, v), func(p []byte) { binary.LittleEndian.PutUint32(p[at:], v) })
		}
		if !ok {
			return
		}
	}
	for cut := int64(0); cut < size; cut += 4096 {
		if !emit(job{what: fmt.Sprintf("cut off at %d", cut), block: -1, size: cut}) {
			return
		}
	}
}

var extremes = []uint32{0, 1, 2, 0x7fffffff, 0x80000000, 0xffffffff, 0xfffffffe, 0xffff0000, 0x0000ffff, 0x10000000, 0x00080000}

// runJob exercises one damaged image and fails the test, naming it, when that
// panics or does not end.
func runJob(t *testing.T, data []byte, j job) (sum summary, ok bool) {
	ctx, cancel := context.WithTimeout(context.Background(), patience/4)
	defer cancel()
	dev := &damaged{data: data, size: j.size, block: j.block, patch: j.patch[:]}
	finished := make(chan error, 1)
	go func() {
		defer func() {
			if p := recover(); p != nil {
				finished <- fmt.Errorf("panic: %v\n%s", p, debug.Stack())
			}
		}()
		var err error
		sum, err = exercise(ctx, dev)
		finished <- err
	}()
	select {
	case err := <-finished:
		if err != nil {
			t.Errorf("seed %d, %s: %v", damageSeed, j.what, err)
			return sum, false
		}
		return sum, true
	case <-time.After(patience / 2):
		stacks := make([]byte, 64<<10)
		t.Errorf("seed %d, %s: does not end\n%s", damageSeed, j.what, stacks[:runtime.Stack(stacks, true)])
		return sum, false
	}
}

// watchMemory fails the test when the heap grows beyond the limit.
func watchMemory(t *testing.T) (stop func()) {
	quit, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			if m.HeapAlloc > heapLimit {
				t.Errorf("%d MiB of heap", m.HeapAlloc>>20)
				return
			}
			select {
			case <-quit:
				return
			case <-time.After(50 * time.Millisecond):
			}
		}
	}()
	return func() { close(quit); <-ended }
}

// A summary tells one reading of an image from another.
type summary struct {
	inodes, errors int
	bytes          int64
	first          string
}

// exercise reads everything an image has to give, within limits that no sound
// small image reaches. Errors of the image are counted; what is returned is an
// error that no image may cause.
func exercise(ctx context.Context, dev blockdev.Device) (sum summary, bad error) {
	note := func(what string, err error) {
		if err == nil || errors.Is(err, io.EOF) {
			return
		}
		if sum.errors++; sum.first == "" {
			sum.first = what + ": " + err.Error()
		}
		var errno syscall.Errno
		if !errors.As(err, &errno) {
			bad = errors.Join(bad, fmt.Errorf("%s: an error without errno: %w", what, err))
		}
	}
	fs, err := ext4.Open(dev, ext4.Options{ReadOnly: true})
	note("open", err)
	if err != nil {
		return sum, bad
	}
	defer func() { note("close", fs.Close()) }()
	_ = fs.Info()
	_, err = fs.Statfs()
	note("statfs", err)
	for _, err := range fs.Groups() {
		if note("groups", err); err != nil || ctx.Err() != nil {
			break
		}
	}
	seen := map[ext4.Ino]bool{ext4.RootIno: true}
	todo := []ext4.Ino{ext4.RootIno}
	for len(todo) > 0 && len(seen) < maxInodes && ctx.Err() == nil {
		ino := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		sum.inodes++
		st, err := fs.Stat(ino)
		note("stat", err)
		if err != nil {
			continue
		}
		readXattrs(fs, ino, note)
		switch {
		case st.IsDir():
			n := 0
			note("readdir", fs.ReadDir(ino, 0, func(e ext4.Dirent) bool {
				if n++; !seen[e.Ino] {
					seen[e.Ino] = true
					todo = append(todo, e.Ino)
				}
				return n < maxEntries
			}))
			_, err := fs.Lookup(ino, "hello")
			if !errors.Is(err, syscall.ENOENT) {
				note("lookup", err)
			}
		case st.IsSymlink():
			target, err := fs.Readlink(ino)
			note("readlink", err)
			sum.bytes += int64(len(target))
		case st.IsRegular():
			sum.bytes += readFile(ctx, fs, ino, st.Size, note)
		}
	}
	// Inodes that nothing leads to are reached over NFS.
	for ino := range ext4.Ino(600) {
		_, _ = fs.Stat(ino) // deleted ones need not make sense
	}
	return sum, errors.Join(bad, ctx.Err())
}

const (
	maxInodes  = 20_000
	maxEntries = 100_000
	maxPieces  = 3000
)

func readXattrs(fs *ext4.FS, ino ext4.Ino, note func(string, error)) {
	names, err := fs.Listxattr(ino)
	note("listxattr", err)
	for _, name := range names {
		_, err := fs.Getxattr(ino, name)
		if !errors.Is(err, syscall.ENODATA) {
			note("getxattr", err)
		}
	}
}

var readBuffers = sync.Pool{New: func() any { return new([64 << 10]byte) }}

// readFile reads the data of a file as far as SEEK_DATA finds some, its start
// and its end.
func readFile(ctx context.Context, fs *ext4.FS, ino ext4.Ino, size int64, note func(string, error)) (total int64) {
	buf := readBuffers.Get().(*[64 << 10]byte)
	defer readBuffers.Put(buf)
	for _, off := range []int64{0, size - 1, size, size + 1, size / 2} {
		_, err := fs.ReadAt(ino, buf[:1000], max(off, 0))
		note("read", err)
	}
	off := int64(0)
	for range maxPieces {
		data, err := fs.Seek(ino, off, 3)
		if errors.Is(err, syscall.ENXIO) || ctx.Err() != nil {
			return total
		}
		if note("SEEK_DATA", err); err != nil {
			return total
		}
		hole, err := fs.Seek(ino, data, 4)
		if note("SEEK_HOLE", err); err != nil {
			return total
		}
		n, err := fs.ReadAt(ino, buf[:min(int64(len(buf)), hole-data)], data)
		note("read", err)
		total += int64(n)
		if off = data + max(int64(n), 1); err != nil {
			off = hole
		}
	}
	return total
}

// damaged is an image in memory with one block replaced and a size of its own.
type damaged struct {
	data  []byte
	size  int64
	block int64
	patch []byte
}

func (d *damaged) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, syscall.EINVAL
	}
	if off >= d.size {
		return 0, io.EOF
	}
	n := copy(p, d.data[off:d.size])
	if at := d.block * 1024; d.patch != nil && d.block >= 0 && at < off+int64(n) && at+1024 > off {
		if at >= off {
			copy(p[at-off:n], d.patch)
		} else {
			copy(p[:n], d.patch[off-at:])
		}
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (d *damaged) WriteAt([]byte, int64) (int, error) { return 0, syscall.EROFS }
func (d *damaged) Size() int64                        { return d.size }
func (d *damaged) Alignment() int                     { return 1 }
func (d *damaged) ReadOnly() bool                     { return true }
func (d *damaged) Flush() error                       { return nil }
func (d *damaged) Discard(int64, int64) error         { return syscall.EROFS }
func (d *damaged) Close() error                       { return nil }
