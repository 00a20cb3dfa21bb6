package testimage

import (
	"cmp"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Options say what Populate makes.
type Options struct {
	Level  Level
	Seed   uint64
	BigDir int // entries of the largest directory; 0 is 20,000 when Rich

	// Staging means that dir is not the filesystem under test but a tree
	// that mke2fs -d copies from: what it cannot copy is left out.
	Staging bool

	// BlockSize of the filesystem under test; 0 means that of dir.
	BlockSize int64
}

// Populate fills a directory, usually the root of a fresh filesystem, with
// every kind of file the format can express. What the filesystem, or the right
// of the caller, does not allow is left out and named in skipped; any other
// failure is an error.
func Populate(dir string, o Options) (skipped []string, err error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return nil, &os.PathError{Op: "statfs", Path: dir, Err: err}
	}
	if o.BigDir == 0 {
		o.BigDir = [...]int{Rich: 20_000, Small: 400, Tiny: 40}[o.Level]
	}
	p := &populator{root: dir, opt: o, block: cmp.Or(o.BlockSize, int64(st.Bsize))}
	copy(p.seed[:], fmt.Sprintf("ext4box test image %d", o.Seed))
	p.rng = rand.New(rand.NewChaCha8(p.seed))
	for _, part := range []func(){
		p.files, p.tiny, p.boundaries, p.sparse, p.extents, p.unwritten,
		p.special, p.symlinks, p.owners, p.xattrs, p.acls,
		p.directories, p.names, p.nesting, p.bigDirectory,
		p.times, p.flags, // last: later changes would undo or hit them
	} {
		if part(); p.err != nil {
			return p.skipped, fmt.Errorf("populating %s: %w", dir, p.err)
		}
	}
	return p.skipped, nil
}

// A populator keeps the first error and ignores everything after it.
type populator struct {
	root    string
	opt     Options
	block   int64
	seed    [32]byte
	rng     *rand.Rand
	skipped []string
	err     error
}

func (p *populator) path(elem ...string) string {
	return filepath.Join(p.root, filepath.Join(elem...))
}

// must records an error.
func (p *populator) must(err error) {
	if p.err == nil && err != nil {
		p.err = err
	}
}

// may records a failure that a filesystem without the feature, or a caller
// without the right, has to give; it tells whether the thing was done.
func (p *populator) may(what string, err error) bool {
	if err == nil {
		return true
	}
	var link *os.LinkError
	if errors.As(err, &link) {
		err = link.Err // without the names, which may be very long
	}
	for _, ok := range []error{unix.EOPNOTSUPP, unix.EPERM, unix.EFBIG, unix.ENAMETOOLONG, unix.ENOTTY} {
		if errors.Is(err, ok) {
			p.skipped = append(p.skipped, fmt.Sprintf("%s: %v", what, err))
			return false
		}
	}
	p.must(fmt.Errorf("%s: %w", what, err))
	return false
}

// mayNotFit is may for attributes, which are limited by the block size.
func (p *populator) mayNotFit(what string, err error) bool {
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.E2BIG) || errors.Is(err, unix.ERANGE) {
		p.skipped = append(p.skipped, fmt.Sprintf("%s: %v", what, err))
		return false
	}
	return p.may(what, err)
}

func (p *populator) mkdir(elem ...string) string {
	d := p.path(elem...)
	p.must(os.MkdirAll(d, 0o755))
	return d
}

// data is n bytes that are never a run of zeros.
func (p *populator) data(n int64) []byte {
	b := make([]byte, n)
	for i := 0; i < len(b); i += 8 {
		v := p.rng.Uint64() | 1
		for j := i; j < min(i+8, len(b)); j++ {
			b[j] = byte(v)
			v >>= 8
		}
	}
	return b
}

func (p *populator) write(path string, data []byte) {
	p.must(os.WriteFile(path, data, 0o644))
}

// open creates a file and hands it to fill.
func (p *populator) create(path string, fill func(f *os.File)) {
	if p.err != nil {
		return
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		p.must(err)
		return
	}
	fill(f)
	p.must(f.Close())
}

func (p *populator) writeAt(f *os.File, off, n int64) {
	_, err := f.WriteAt(p.data(n), off)
	p.must(err)
}

func (p *populator) files() {
	d := p.mkdir("files")
	p.write(filepath.Join(d, "empty"), nil)
	p.write(filepath.Join(d, "hello"), []byte("hello, world\n"))
	p.write(filepath.Join(d, "linked"), p.data(100))
	links := p.mkdir("links")
	for i := range [...]int{Rich: 40, Small: 5, Tiny: 2}[p.opt.Level] {
		p.must(os.Link(filepath.Join(d, "linked"), filepath.Join(links, fmt.Sprintf("link-%d", i))))
	}
	if p.opt.Level != Tiny {
		p.write(filepath.Join(d, "large"), p.data([...]int64{Rich: 1 << 20, Small: 100_000}[p.opt.Level]))
	}
}

// tiny makes the sizes around which inline data changes its place: the inode's
// block map, the attribute area behind it, and no longer inline.
func (p *populator) tiny() {
	d := p.mkdir("tiny")
	sizes := []int64{1, 59, 60, 61, 150}
	switch p.opt.Level {
	case Rich:
		sizes = nil
		for n := range int64(201) {
			sizes = append(sizes, n)
		}
		for n := int64(208); n < 1024; n += 24 {
			sizes = append(sizes, n)
		}
	case Small:
		sizes = []int64{1, 4, 59, 60, 61, 63, 64, 65, 100, 120, 127, 128, 136, 144, 150, 152, 156, 160, 161, 164, 170, 200}
	}
	for _, n := range sizes {
		p.write(filepath.Join(d, fmt.Sprintf("%04d", n)), p.data(n))
	}
	// Inline files that were longer once, and that end in a hole.
	p.create(filepath.Join(d, "truncated"), func(f *os.File) {
		p.writeAt(f, 0, 150)
		p.must(f.Truncate(10))
		p.must(f.Truncate(100))
	})
	p.create(filepath.Join(d, "extended"), func(f *os.File) {
		p.writeAt(f, 0, 7)
		p.must(f.Truncate(3000))
	})
}

func (p *populator) boundaries() {
	d := p.mkdir("boundaries")
	for _, b := range slices.Compact([]int64{p.block, 4096}) {
		for _, n := range []int64{1, 2, 12, 13} {
			if p.opt.Level != Rich && n > 1 {
				continue
			}
			for _, off := range []int64{-1, 0, 1} {
				p.write(filepath.Join(d, fmt.Sprintf("%dx%d%+d", b, n, off)), p.data(b*n+off))
			}
		}
		if p.opt.Level == Tiny {
			break
		}
	}
}

// sparse puts data between holes, up to where the format ends.
func (p *populator) sparse() {
	d := p.mkdir("sparse")
	b := p.block
	at := func(name string, size int64, offs ...int64) {
		p.create(filepath.Join(d, name), func(f *os.File) {
			for _, off := range offs {
				p.writeAt(f, off, 100)
			}
			p.must(f.Truncate(size))
		})
	}
	at("start", 10*b, 9*b+5)
	at("middle", 10*b+77, 0, 9*b)
	at("end", 10*b, 0)
	if !p.opt.Staging { // mke2fs -d -O inline_data makes it an impossible inline file
		at("all", 1_000_000)
	}
	at("punctured", 64*b, 0, 2*b, 5*b, 6*b, 7*b-50, 12*b, 13*b, 40*b+b/2)
	if p.opt.Level == Tiny {
		return
	}
	// The first block under each level of an indirect map, and the last
	// before it, for this block size.
	ind := b / 4
	levels := []int64{11, 12, 12 + ind - 1, 12 + ind, 12 + 2*ind - 1, 12 + 2*ind,
		12 + ind + ind*ind - 1, 12 + ind + ind*ind, 12 + 2*ind + ind*ind, 12 + ind + 2*ind*ind}
	p.create(filepath.Join(d, "levels"), func(f *os.File) {
		for _, n := range levels {
			_, err := f.WriteAt(p.data(50), n*b)
			if !p.may(fmt.Sprintf("data in block %d", n), err) {
				break
			}
		}
	})
	p.create(filepath.Join(d, "huge"), func(f *os.File) {
		p.writeAt(f, 1, 3)
		_, err := f.WriteAt(p.data(50), 5<<30+12345)
		p.may("data beyond 4 GiB", err)
		p.may("a file of 6 GiB", f.Truncate(6<<30))
	})
	if p.opt.Staging {
		return
	}
	p.create(filepath.Join(d, "maximum"), func(f *os.File) {
		size := maxFileSize(f)
		p.must(f.Truncate(size))
		p.writeAt(f, size-10, 10)
		p.writeAt(f, 0, 10)
	})
}

// maxFileSize finds by bisection the largest size the filesystem takes.
func maxFileSize(f *os.File) int64 {
	lo, hi := int64(0), int64(1)<<62
	for lo < hi {
		mid := lo + (hi-lo+1)/2
		if f.Truncate(mid) == nil {
			lo = mid
		} else {
			hi = mid - 1
		}
	}
	return lo
}

// extents makes files of many pieces: each second block is a hole, so that
// nothing can be merged, and pairs of files grow alternately.
func (p *populator) extents() {
	if p.opt.Level == Tiny {
		return
	}
	d := p.mkdir("extents")
	pieces := map[string]int64{"four": 4, "five": 5, "leaf": 60}
	if p.opt.Level == Rich {
		// 1 KiB blocks hold 84 extents, 4 KiB blocks 340; the inode holds 4.
		pieces["two-levels"] = min(4*(p.block/12-1)+20, 1500)
	}
	for _, name := range slices.Sorted(mapKeys(pieces)) {
		p.create(filepath.Join(d, name), func(f *os.File) {
			n := pieces[name]
			for i := range n {
				// Backwards, so that the pieces are not in order on disk.
				p.writeAt(f, (n-1-i)*2*p.block, 16)
			}
		})
	}
	a, err := os.Create(filepath.Join(d, "braid-a"))
	p.must(err)
	b, err := os.Create(filepath.Join(d, "braid-b"))
	p.must(err)
	if p.err != nil {
		return
	}
	for i := range int64(24) {
		for _, f := range []*os.File{a, b} {
			p.writeAt(f, i*p.block, p.block)
			// Writing back allocates; fsync would also flush the disk.
			p.must(unix.SyncFileRange(int(f.Fd()), i*p.block, p.block,
				unix.SYNC_FILE_RANGE_WRITE|unix.SYNC_FILE_RANGE_WAIT_AFTER))
		}
	}
	p.must(a.Close())
	p.must(b.Close())
}

// unwritten makes every mix of preallocated and written blocks.
func (p *populator) unwritten() {
	if p.opt.Staging {
		return
	}
	d := p.mkdir("unwritten")
	b := p.block
	fallocate := func(f *os.File, mode uint32, off, n int64) {
		p.may(fmt.Sprintf("fallocate mode %#x", mode), unix.Fallocate(int(f.Fd()), mode, off, n))
	}
	p.create(filepath.Join(d, "all"), func(f *os.File) { fallocate(f, 0, 0, 5*b+10) })
	p.create(filepath.Join(d, "beyond"), func(f *os.File) {
		p.writeAt(f, 0, b+10)
		fallocate(f, unix.FALLOC_FL_KEEP_SIZE, 0, 9*b)
	})
	p.create(filepath.Join(d, "beyond-empty"), func(f *os.File) {
		fallocate(f, unix.FALLOC_FL_KEEP_SIZE, 4*b, 4*b)
	})
	p.create(filepath.Join(d, "islands"), func(f *os.File) {
		fallocate(f, 0, 0, 32*b)
		for _, n := range []int64{0, 3, 4, 9, 31} {
			p.writeAt(f, n*b+1, 20)
		}
	})
	p.create(filepath.Join(d, "punched"), func(f *os.File) {
		p.writeAt(f, 0, 20*b)
		fallocate(f, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 3*b+7, 4*b)
		fallocate(f, unix.FALLOC_FL_ZERO_RANGE, 10*b, 5*b)
	})
	p.create(filepath.Join(d, "moved"), func(f *os.File) {
		p.writeAt(f, 0, 20*b)
		c := max(b, 1<<16) // a multiple of any cluster used here
		p.writeAt(f, 0, 4*c)
		fallocate(f, unix.FALLOC_FL_COLLAPSE_RANGE, c, c)
		fallocate(f, unix.FALLOC_FL_INSERT_RANGE, 2*c, c)
	})
}

// names stresses directory entries rather than files.
func (p *populator) names() {
	d := p.mkdir("names")
	names := []string{
		strings.Repeat("n", 255), strings.Repeat("é", 127), "ärger", "日本語のファイル", "Ωmega", "spa ce",
		"-dash", ".hidden", "...", "\xff\xfe\x80", "tab\tin", "quo\"te", "back\\slash", "ﬃ", "straße", "STRASSE2",
	}
	if p.opt.Level == Tiny {
		names = names[:3]
	}
	for _, n := range names {
		p.write(filepath.Join(d, n), []byte(n))
	}
}
