package ext4_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"ext4box/blockdev/blocktest"
	"ext4box/ext4"
	"ext4box/iomap"
)

// clusterShapes are filesystems whose clusters have several blocks.
var clusterShapes = []struct {
	name           string
	args           string
	block, cluster uint64
}{
	{"4k of 64k", "-t ext4 -b 4096 -O bigalloc -C 65536", 4 << 10, 64 << 10},
	{"1k of 4k", "-t ext4 -b 1024 -O bigalloc -C 4096 -J size=1", 1 << 10, 4 << 10},
	{"1k of 16k", "-t ext4 -b 1024 -O bigalloc,^64bit,^metadata_csum -C 16384 -J size=1", 1 << 10, 16 << 10},
	{"no journal", "-t ext4 -b 1024 -O bigalloc,^has_journal -C 8192", 1 << 10, 8 << 10},
}

// clusterRig is a filesystem with clusters, and what its files should hold.
type clusterRig struct {
	t              *testing.T
	img            string
	dev            *blocktest.Mem
	fs             *ext4.FS
	rng            *rand.Rand
	block, cluster uint64
	total          uint64 // sectors that are free or somebody's
	files          map[string][]byte
	writing        []clusterWrite
	done           []string
}

// clusterWrite is a write that has begun and not ended.
type clusterWrite struct {
	name   string
	m      iomap.Mapping
	off, n uint64
}

func newClusterRig(t *testing.T, args string, block, cluster, seed uint64) *clusterRig {
	t.Helper()
	r := &clusterRig{t: t, img: filepath.Join(t.TempDir(), "img"), rng: rand.New(rand.NewPCG(seed, 5)), block: block, cluster: cluster, files: map[string][]byte{}}
	mke2fs(t, r.img, 48<<20, strings.Fields(args)...)
	var err error
	if r.dev, err = blocktest.LoadMem(r.img); err != nil {
		t.Fatal(err)
	}
	r.open()
	r.total = r.account()
	return r
}

func (r *clusterRig) open() {
	r.t.Helper()
	var err error
	r.fs, err = ext4.Open(r.dev, ext4.Options{})
	r.must(err)
	if why := r.fs.ReadOnlyReason(); why != "" {
		r.t.Fatalf("opened read-only because %s", why)
	}
}

func (r *clusterRig) must(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatalf("%v\nafter %s", err, strings.Join(r.done[max(len(r.done)-30, 0):], "\n"))
	}
}

func (r *clusterRig) ino(name string) ext4.Ino {
	r.t.Helper()
	ino, err := r.fs.Resolve(name)
	r.must(err)
	return ino
}

// account is the sectors that are free and those that belong to inodes: their
// sum does not change unless a cluster is lost or counted twice.
func (r *clusterRig) account() uint64 {
	r.t.Helper()
	st, err := r.fs.Statfs()
	r.must(err)
	sum := st.BlocksFree * r.block / 512
	var walk func(dir ext4.Ino)
	walk = func(dir ext4.Ino) {
		s, err := r.fs.Stat(dir)
		r.must(err)
		sum += s.Blocks
		if !s.IsDir() {
			return
		}
		var children []ext4.Ino
		r.must(r.fs.ReadDir(dir, 0, func(e ext4.Dirent) bool {
			if n := string(e.Name); n != "." && n != ".." {
				children = append(children, e.Ino)
			}
			return true
		}))
		for _, c := range children {
			walk(c)
		}
	}
	walk(ext4.RootIno)
	return sum
}

// count sees that no cluster is lost or counted twice.
func (r *clusterRig) count() {
	r.t.Helper()
	if got := r.account(); got != r.total {
		r.must(fmt.Errorf("%d sectors are free or used, there were %d", got, r.total))
	}
}

// check compares all files and counts the clusters.
func (r *clusterRig) check() {
	r.t.Helper()
	r.count()
	for name, want := range r.files {
		got := make([]byte, len(want)+1)
		n, err := r.fs.ReadAt(r.ino(name), got, 0)
		if err != nil && err != io.EOF {
			r.must(err)
		}
		if !bytes.Equal(got[:n], want) {
			r.must(fmt.Errorf("%s differs: %d bytes, want %d", name, n, len(want)))
		}
	}
}

// reopen has e2fsck look at the image.
func (r *clusterRig) reopen() {
	r.t.Helper()
	r.must(r.fs.Close())
	r.must(blocktest.Dump(r.dev, r.dev.Size(), r.img))
	r.must(runFsck(r.img, "-fn"))
	r.open()
	r.check()
}

// grown is the content of a file with at least n bytes.
func (r *clusterRig) grown(name string, n uint64) []byte {
	data := r.files[name]
	if uint64(len(data)) < n {
		data = append(data, make([]byte, n-uint64(len(data)))...)
		r.files[name] = data
	}
	return data
}

func (r *clusterRig) content(n uint64) []byte {
	p := make([]byte, n+7)
	for i := uint64(0); i < n; i += 8 {
		binary.LittleEndian.PutUint64(p[i:], r.rng.Uint64()|0x0101010101010101) // nowhere zero
	}
	return p[:n]
}

// note tells what is done, for when it goes wrong.
func (r *clusterRig) note(format string, args ...any) {
	r.done = append(r.done, fmt.Sprintf(format, args...))
}

func (r *clusterRig) write(name string, off, n uint64) {
	r.t.Helper()
	r.note("write %s %d+%d", name, off, n)
	p := r.content(n)
	got, err := r.fs.WriteAt(r.ino(name), p, int64(off))
	r.must(err)
	if uint64(got) != n {
		r.t.Fatalf("wrote %d of %d", got, n)
	}
	copy(r.grown(name, off+n)[off:], p)
}

// begin starts a write of whole blocks, as somebody who moves data himself does,
// and leaves it under way.
func (r *clusterRig) begin(name string, off, n uint64) {
	r.t.Helper()
	r.note("begin %s %d+%d", name, off, n)
	m, err := r.fs.Begin(r.ino(name), off, n, iomap.Write)
	r.must(err)
	if m.Offset > off || m.Offset+m.Length <= off || m.Addr%r.cluster != m.Offset%r.cluster {
		r.must(fmt.Errorf("block at %d is mapped by %+v", off, m))
	}
	n = min(n, m.Offset+m.Length-off)
	r.writing = append(r.writing, clusterWrite{name, m, off, n})
}

// end ends a write that is under way: with data, or without.
func (r *clusterRig) end(i int, data bool) {
	r.t.Helper()
	w := r.writing[i]
	r.writing = append(r.writing[:i], r.writing[i+1:]...)
	r.note("end %s %d+%d %v", w.name, w.off, w.n, data)
	if !data {
		r.must(r.fs.End(r.ino(w.name), w.off, w.n))
		return
	}
	p := r.content(w.n)
	_, err := r.dev.WriteAt(p, int64(w.m.Addr+w.off-w.m.Offset))
	r.must(err)
	r.must(r.fs.IOEnd(r.ino(w.name), w.off, w.n))
	copy(r.grown(w.name, w.off+w.n)[w.off:], p)
}

func (r *clusterRig) truncate(name string, size uint64) {
	r.t.Helper()
	r.note("truncate %s %d", name, size)
	r.must(r.fs.Truncate(r.ino(name), size))
	r.files[name] = r.grown(name, size)[:size:size]
}

func (r *clusterRig) fallocate(name string, mode uint32, off, n uint64) {
	r.t.Helper()
	r.note("fallocate %s %#x %d+%d", name, mode, off, n)
	err := r.fs.Fallocate(r.ino(name), mode, off, n)
	data := r.files[name]
	size := uint64(len(data))
	switch mode {
	case ext4.FallocCollapseRange, ext4.FallocInsertRange:
		bad := (off|n)%r.cluster != 0 || off >= size || mode == ext4.FallocCollapseRange && off+n >= size
		if bad {
			if !errors.Is(err, syscall.EINVAL) {
				r.must(fmt.Errorf("%w instead of EINVAL", err))
			}
			return
		}
		r.must(err)
		if mode == ext4.FallocCollapseRange {
			r.files[name] = append(append([]byte{}, data[:off]...), data[off+n:]...)
		} else {
			r.files[name] = append(append(append([]byte{}, data[:off]...), make([]byte, n)...), data[off:]...)
		}
		return
	}
	r.must(err)
	if mode&ext4.FallocKeepSize == 0 {
		data = r.grown(name, off+n)
	}
	if mode&(ext4.FallocPunchHole|ext4.FallocZeroRange) != 0 {
		clear(data[min(off, uint64(len(data))):min(off+n, uint64(len(data)))])
	}
}

// place is an offset near the edges of blocks and clusters, or anywhere.
func (r *clusterRig) place(limit uint64) uint64 {
	at := r.rng.Uint64N(limit + 1)
	switch r.rng.IntN(4) {
	case 0:
		at -= at % r.cluster
	case 1:
		at -= at % r.block
	case 2:
		at = at - at%r.block + r.rng.Uint64N(3)
	}
	return at
}

// random does one random operation.
func (r *clusterRig) random() {
	r.t.Helper()
	name := fmt.Sprint("f", r.rng.IntN(3))
	limit := 20 * r.cluster
	off, n := r.place(limit), 1+r.place(3*r.cluster)
	switch k := r.rng.IntN(20); k {
	case 0, 1, 2:
		r.write(name, off, n)
	case 3: // many extents
		for i := range 30 + r.rng.Uint64N(400) {
			r.write(name, off-off%r.block+2*i*r.block, r.block)
		}
	case 4, 5, 6:
		r.fallocate(name, ext4.FallocPunchHole|ext4.FallocKeepSize, off, n)
	case 7:
		r.fallocate(name, ext4.FallocZeroRange|ext4.FallocKeepSize*uint32(r.rng.IntN(2)), off, n)
	case 8:
		r.fallocate(name, ext4.FallocKeepSize*uint32(r.rng.IntN(2)), off, n)
	case 9, 10:
		r.truncate(name, off)
	case 11, 12:
		off, n := off-off%r.cluster, r.cluster*(1+r.rng.Uint64N(3))
		if r.rng.IntN(4) == 0 {
			off += r.block * r.rng.Uint64N(2)
			n += r.block * r.rng.Uint64N(2)
		}
		if mode := uint32(ext4.FallocInsertRange); len(r.files[name]) > int(limit) || r.rng.IntN(2) == 0 {
			r.fallocate(name, ext4.FallocCollapseRange, off, n)
		} else {
			r.fallocate(name, mode, off, n)
		}
	case 13:
		r.note("setxattr %s", name)
		r.must(r.fs.Setxattr(r.ino(name), "user.a", r.content(1+r.rng.Uint64N(700)), 0))
	case 14:
		if err := r.fs.Removexattr(r.ino(name), "user.a"); !errors.Is(err, syscall.ENODATA) {
			r.must(err)
		}
	case 15:
		r.note("names")
		d, err := r.fs.Create(ext4.RootIno, "d", ext4.NewNode{Mode: syscall.S_IFDIR | 0o755})
		r.must(err)
		count := r.rng.IntN(200) // several blocks, and clusters
		for i := range count {
			_, err := r.fs.Create(d, fmt.Sprintf("%0200d", i), ext4.NewNode{Mode: syscall.S_IFLNK | 0o777, Target: strings.Repeat("t", 50+i)})
			r.must(err)
		}
		r.count()
		for i := range count {
			r.must(r.fs.Unlink(d, fmt.Sprintf("%0200d", i)))
		}
		r.must(r.fs.Rmdir(ext4.RootIno, "d"))
	default:
		r.several(name, off, r.block*(1+r.rng.Uint64N(2*r.cluster/r.block)))
	}
}

// several has writes to the same clusters under way at once, of which some fail.
// What is discarded meanwhile must be nobody's.
func (r *clusterRig) several(name string, off, n uint64) {
	r.t.Helper()
	off -= off % r.block
	// None of them overlap, for then nobody could say what is there afterwards.
	for range 2 + r.rng.IntN(5) {
		r.begin(name, off, n)
		w := r.writing[len(r.writing)-1]
		off = w.off + w.n + r.block*r.rng.Uint64N(3)
	}
	if r.rng.IntN(3) == 0 {
		r.note("trim")
		_, err := r.fs.Trim(0, 1<<40, 0, nil)
		r.must(err)
	}
	for len(r.writing) > 0 {
		r.end(r.rng.IntN(len(r.writing)), r.rng.IntN(3) > 0)
	}
}

// TestClusters does random things to files with clusters and sees each time that
// the files hold what they should and that no cluster is lost or freed early.
func TestClusters(t *testing.T) {
	for _, s := range clusterShapes {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			for seed := range uint64(2) {
				r := newClusterRig(t, s.args, s.block, s.cluster, seed)
				for i := range 3 {
					name := fmt.Sprint("f", i)
					_, err := r.fs.Create(ext4.RootIno, name, ext4.NewNode{Mode: syscall.S_IFREG | 0o644})
					r.must(err)
					r.files[name] = nil
				}
				for i := range 300 {
					r.random()
					r.count()
					switch {
					case i%60 == 59:
						r.reopen()
					case i%6 == 5:
						r.check()
					}
				}
				for name := range r.files {
					r.must(r.fs.Unlink(ext4.RootIno, name))
				}
				r.files = nil
				r.reopen()
				r.must(r.fs.Close())
			}
		})
	}
}

// TestClustersDamaged edits the map of a file such that it cannot be told which
// clusters are whose: that is an error, and not one that costs other files.
func TestClustersDamaged(t *testing.T) {
	for name, edit := range map[string]func(start uint32) []string{
		"at another place in the cluster": func(start uint32) []string { return []string{fmt.Sprint("sif f block[5] ", start+1)} },
		"a block map": func(start uint32) []string {
			return []string{"sif f flags 0", fmt.Sprint("sif f block[0] ", start), "sif f block[1] 0", "sif f block[2] 0", "sif f block[3] 0", "sif f block[4] 0", "sif f block[5] 0"}
		},
		"a cluster twice": func(start uint32) []string {
			return []string{"sif f block[0] 0x2f30a", "sif f block[6] 16", "sif f block[7] 2", fmt.Sprint("sif f block[8] ", start)}
		},
		"two clusters for one": func(start uint32) []string {
			return []string{"sif f block[0] 0x2f30a", "sif f block[6] 8", "sif f block[7] 2", fmt.Sprint("sif f block[8] ", start+32+8)}
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newClusterRig(t, "-t ext4 -b 1024 -O bigalloc,^64bit,^metadata_csum -C 16384 -J size=1", 1<<10, 16<<10, 1)
			for _, name := range []string{"f", "g"} {
				_, err := r.fs.Create(ext4.RootIno, name, ext4.NewNode{Mode: syscall.S_IFREG | 0o644})
				r.must(err)
				r.write(name, 0, 4*r.block)
			}
			r.write("g", 0, 20*r.cluster) // all around
			m, err := r.fs.Begin(r.ino("f"), 0, 1, iomap.Read)
			r.must(err)
			r.must(r.fs.Close())
			r.must(blocktest.Dump(r.dev, r.dev.Size(), r.img))
			for _, request := range append(edit(uint32(m.Addr/r.block)), "sif f size 40000") {
				if out, err := exec.Command("debugfs", "-w", "-R", request, r.img).CombinedOutput(); err != nil {
					t.Fatalf("debugfs %q: %v\n%s", request, err, out)
				}
			}
			if runFsck(r.img, "-fn") == nil && name != "a cluster twice" { // in one file, which e2fsck does not see
				t.Fatal("e2fsck finds nothing wrong")
			}
			r.dev, err = blocktest.LoadMem(r.img)
			r.must(err)
			r.open()
			f := r.ino("f")
			if _, err := r.fs.ReadAt(f, make([]byte, 40000), 0); err != nil && err != io.EOF {
				t.Errorf("read: %v", err)
			}
			bad := 0
			for i, do := range []func() error{
				func() error { _, err := r.fs.WriteAt(f, make([]byte, r.block), int64(5*r.block)); return err },
				func() error { return r.fs.Fallocate(f, 0, 4*r.block, 10*r.block) },
				func() error {
					return r.fs.Fallocate(f, ext4.FallocPunchHole|ext4.FallocKeepSize, 2*r.block, r.block)
				},
				func() error { return r.fs.Truncate(f, r.block) },
				func() error { return r.fs.Unlink(ext4.RootIno, "f") },
			} {
				switch err := do(); {
				case errors.Is(err, syscall.EUCLEAN):
					bad++
				case err != nil && !errors.Is(err, syscall.EOPNOTSUPP) && !errors.Is(err, syscall.EROFS) && !errors.Is(err, syscall.ESTALE):
					t.Errorf("%d: %v", i, err)
				}
			}
			if bad == 0 && name != "two clusters for one" {
				t.Error("nobody noticed")
			}
			got := make([]byte, len(r.files["g"]))
			if _, err := r.fs.ReadAt(r.ino("g"), got, 0); err != nil || !bytes.Equal(got, r.files["g"]) {
				t.Errorf("another file suffered: %v", err)
			}
			_ = r.fs.Close() // which may have much to say
		})
	}
}
