package ext4_test

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"ext4box/blockdev"
	"ext4box/blockdev/blocktest"
	"ext4box/ext4"
	"ext4box/internal/testimage"
	"ext4box/iomap"
)

// outsideRig is a filesystem whose data is moved outside, by the rig: it keeps
// mappings, has a page cache and writes it back, as a kernel with fuse-iomap does.
// A file's operations are one at a time.
type outsideRig struct {
	t     *testing.T
	img   string
	dev   blockdev.Device
	fs    *ext4.FS
	bs    uint64
	cache *mapCache

	mu     sync.Mutex
	files  map[ext4.Ino]*outsideFile
	begins int // mappings that were asked for
	ioends int
}

// outsideFile is what the rig knows of a file.
type outsideFile struct {
	mu    sync.Mutex
	name  string
	size  uint64 // as the kernel knows it
	disk  uint64 // as the filesystem has told
	dirty map[uint64][]byte
	want  []byte

	closed bool // nobody uses it, and the kernel may forget it
	gone   bool // it has
}

// mapCache remembers mappings as the kernel does, and checks them.
type mapCache struct {
	t    *testing.T
	size uint64 // of the device
	bs   uint64

	mu      sync.Mutex
	maps    map[ext4.Ino][]iomap.Mapping // in order
	refuse  error
	stored  int
	dropped int
	letGo   func(inos []ext4.Ino) error
	asked   int // for inodes to be let go of
}

func newOutsideRig(t *testing.T, size int64, args string, o ext4.Options) *outsideRig {
	t.Helper()
	r := &outsideRig{t: t, img: filepath.Join(t.TempDir(), "img"), files: map[ext4.Ino]*outsideFile{}}
	mke2fs(t, r.img, size, strings.Fields(args)...)
	r.open(o)
	return r
}

func (r *outsideRig) open(o ext4.Options) {
	r.t.Helper()
	var err error
	if r.dev, err = blocktest.LoadMem(r.img); err != nil {
		r.t.Fatal(err)
	}
	r.start(o)
}

func (r *outsideRig) start(o ext4.Options) {
	r.t.Helper()
	var err error
	if o.CommitInterval == 0 {
		o.CommitInterval = time.Hour
	}
	if r.fs, err = ext4.Open(r.dev, o); err != nil {
		r.t.Fatal(err)
	}
	if why := r.fs.ReadOnlyReason(); why != "" {
		r.t.Fatalf("opened read-only because %s", why)
	}
	s, err := r.fs.Statfs()
	if err != nil {
		r.t.Fatal(err)
	}
	r.bs = uint64(s.BlockSize)
	r.cache = &mapCache{t: r.t, size: uint64(r.dev.Size()), bs: r.bs, maps: map[ext4.Ino][]iomap.Mapping{}, letGo: r.letGo}
	r.fs.MoveOutside(r.cache)
}

func (c *mapCache) check(m *iomap.Mapping) error {
	switch {
	case m.Length == 0, (m.Offset|m.Length)%c.bs != 0, m.Offset+m.Length < m.Offset:
		return fmt.Errorf("range %d+%d", m.Offset, m.Length)
	case m.Flags&^0xFF != 0, m.Dev != 0:
		return fmt.Errorf("flags %#x, device %d", m.Flags, m.Dev)
	case m.Type == iomap.Mapped || m.Type == iomap.Unwritten:
		if m.Addr%c.bs != 0 || m.Addr == 0 || m.Addr+m.Length > c.size {
			return fmt.Errorf("at %d", m.Addr)
		}
	case m.Type == iomap.Inline && (m.Offset != 0 || m.Length != c.bs), m.Addr != iomap.NullAddr:
		return fmt.Errorf("%d+%d at %#x of type %d", m.Offset, m.Length, m.Addr, m.Type)
	}
	return nil
}

// Store implements [iomap.Cache].
func (c *mapCache) Store(ino ext4.Ino, m iomap.Mapping) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.refuse != nil {
		return c.refuse
	}
	if err := c.check(&m); err != nil || m.Type == iomap.Inline || m.Flags&iomap.AtomicBIO != 0 {
		c.t.Errorf("inode %d: a mapping that cannot be stored: %+v: %v", ino, m, err)
	}
	c.stored++
	c.cut(ino, m.Offset, m.Length)
	c.maps[ino] = slices.Insert(c.maps[ino], c.covering(c.maps[ino], m.Offset), m)
	return nil
}

// Drop implements [iomap.Cache].
func (c *mapCache) Drop(ino ext4.Ino, off, n uint64) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.dropped++
	c.cut(ino, off, n)
	return nil
}

// LetGo implements [iomap.Cache].
func (c *mapCache) LetGo(inos []ext4.Ino) error {
	c.mu.Lock()
	c.asked++
	c.mu.Unlock()
	return c.letGo(inos)
}

func (c *mapCache) cut(ino ext4.Ino, off, n uint64) {
	end := off + n
	if n == iomap.ToEOF {
		end = n
	}
	list := c.maps[ino]
	i := c.covering(list, off)
	j := i
	var rest []iomap.Mapping
	for ; j < len(list) && list[j].Offset < end; j++ {
		m := list[j]
		for _, part := range [2][2]uint64{{m.Offset, min(m.Offset+m.Length, off)}, {max(m.Offset, end), m.Offset + m.Length}} {
			if part[0] < part[1] {
				p := m
				if p.Addr != iomap.NullAddr {
					p.Addr += part[0] - m.Offset
				}
				p.Offset, p.Length = part[0], part[1]-part[0]
				rest = append(rest, p)
			}
		}
	}
	c.maps[ino] = slices.Replace(list, i, j, rest...)
}

// covering is the place of the first mapping that ends behind off.
func (c *mapCache) covering(list []iomap.Mapping, off uint64) int {
	return sort.Search(len(list), func(i int) bool { return list[i].Offset+list[i].Length > off })
}

// find is the mapping at off that serves an operation.
func (c *mapCache) find(ino ext4.Ino, off uint64, op iomap.Op) (iomap.Mapping, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if op&(iomap.Atomic|iomap.SwapFile) != 0 {
		return iomap.Mapping{}, false
	}
	list := c.maps[ino]
	if i := c.covering(list, off); i < len(list) && list[i].Contains(off) {
		return list[i], list[i].Type != iomap.Hole || !op.Stores()
	}
	return iomap.Mapping{}, false
}

// letGo evicts those inodes that nobody uses.
func (r *outsideRig) letGo(inos []ext4.Ino) error {
	for _, ino := range inos {
		f := r.file(ino)
		f.mu.Lock()
		if f.closed && !f.gone {
			f.gone = true
			r.must(r.writeDirty(ino, f))
			r.must(r.cache.Drop(ino, 0, iomap.ToEOF))
			r.must(r.fs.Unhold(ino, 1))
		}
		f.mu.Unlock()
	}
	return nil
}

// done says that nobody uses a file any longer.
func (r *outsideRig) done(ino ext4.Ino) {
	f := r.file(ino)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
}

// reopen is the opposite of done.
func (r *outsideRig) reopen(ino ext4.Ino) {
	f := r.file(ino)
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.gone {
		r.fs.Hold(ino)
	}
	f.closed, f.gone = false, false
}

func (r *outsideRig) must(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

// create makes a file that the kernel has looked up.
func (r *outsideRig) create(name string) ext4.Ino { return r.createAs(name, 0) }

func (r *outsideRig) createAs(name string, uid uint32) ext4.Ino {
	r.t.Helper()
	ino, err := r.fs.Create(ext4.RootIno, name, ext4.NewNode{Mode: syscall.S_IFREG | 0o644, UID: uid})
	r.must(err)
	r.fs.Hold(ino)
	r.mu.Lock()
	r.files[ino] = &outsideFile{name: name, dirty: map[uint64][]byte{}}
	r.mu.Unlock()
	return ino
}

func (r *outsideRig) file(ino ext4.Ino) *outsideFile {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.files[ino]
}

// begin asks for a mapping, of which nothing is cached.
func (r *outsideRig) begin(ino ext4.Ino, off, n uint64, op iomap.Op) (iomap.Mapping, bool, error) {
	r.t.Helper()
	r.mu.Lock()
	r.begins++
	r.mu.Unlock()
	m, kept, err := r.fs.MapOutside(ino, off, n, op, false)
	if err != nil {
		return m, kept, err
	}
	if err := r.cache.check(&m); err != nil || !m.Contains(off) {
		r.t.Errorf("inode %d: op %#x at %d is answered with %+v: %v", ino, op, off, m, err)
	}
	if op.Stores() && (m.Type == iomap.Hole || m.Type == iomap.Delalloc) {
		r.t.Errorf("inode %d: data at %d would go to a mapping of type %d", ino, off, m.Type)
	}
	return m, kept, nil
}

// lookup is the mapping at off, from the cache if that has it.
func (r *outsideRig) lookup(ino ext4.Ino, off, n uint64, op iomap.Op) (iomap.Mapping, error) {
	r.t.Helper()
	for range 100 {
		if m, ok := r.cache.find(ino, off, op); ok {
			return m, nil
		}
		m, kept, err := r.begin(ino, off, n, op)
		if err != nil || !kept {
			return m, err
		}
	}
	r.t.Fatalf("inode %d: the cache never has what serves op %#x at %d", ino, op, off)
	panic("unreachable")
}

// page is a block of a file as a program sees it.
func (r *outsideRig) page(ino ext4.Ino, f *outsideFile, blk uint64, op iomap.Op) ([]byte, error) {
	if p := f.dirty[blk]; p != nil {
		return p, nil
	}
	p := make([]byte, r.bs)
	m, err := r.lookup(ino, blk*r.bs, r.bs, op)
	switch {
	case err != nil:
		return nil, err
	case m.Type == iomap.Mapped:
		_, err = r.dev.ReadAt(p, int64(m.Addr+blk*r.bs-m.Offset))
	case m.Type == iomap.Inline:
		copy(p, m.Inline)
	}
	return p, err
}

// write writes through the page cache.
func (r *outsideRig) write(ino ext4.Ino, p []byte, off uint64) error {
	r.t.Helper()
	f := r.file(ino)
	f.mu.Lock()
	defer f.mu.Unlock()
	for len(p) > 0 {
		blk := off / r.bs
		m, err := r.lookup(ino, off, uint64(len(p)), iomap.Write)
		if err != nil {
			return err
		}
		for end := min(m.Offset+m.Length, off+uint64(len(p))); off < end; blk++ {
			n := min(end, (blk+1)*r.bs) - off
			if m.Type == iomap.Inline {
				n = min(n, uint64(len(p)))
				r.must(r.fs.WriteInline(ino, p[:n], off))
				f.disk = max(f.disk, off+n)
				r.must(r.cache.Drop(ino, m.Offset, m.Length))
			} else {
				page, err := r.page(ino, f, blk, iomap.Write)
				if err != nil {
					return err
				}
				copy(page[off%r.bs:], p[:n])
				f.dirty[blk] = page
			}
			f.put(p[:n], off)
			p, off = p[n:], off+n
		}
	}
	return nil
}

func (f *outsideFile) put(p []byte, off uint64) {
	end := off + uint64(len(p))
	if end > uint64(len(f.want)) {
		f.want = append(f.want, make([]byte, end-uint64(len(f.want)))...)
	}
	copy(f.want[off:], p)
	f.size = max(f.size, end)
}

// direct writes blocks past the page cache.
func (r *outsideRig) direct(ino ext4.Ino, p []byte, off uint64) error {
	r.t.Helper()
	f := r.file(ino)
	f.mu.Lock()
	defer f.mu.Unlock()
	for len(p) > 0 {
		m, err := r.lookup(ino, off, uint64(len(p)), iomap.Write|iomap.Direct)
		if err != nil {
			return err
		}
		n := min(uint64(len(p)), m.Offset+m.Length-off)
		if err := r.store(ino, f, &m, p[:n], off, iomap.Write); err != nil {
			return err
		}
		f.put(p[:n], off)
		p, off = p[n:], off+n
	}
	return nil
}

// store writes blocks to where they belong, and tells.
func (r *outsideRig) store(ino ext4.Ino, f *outsideFile, m *iomap.Mapping, p []byte, off uint64, op iomap.Op) error {
	r.t.Helper()
	if m.Type != iomap.Mapped && m.Type != iomap.Unwritten {
		return fmt.Errorf("inode %d: data at %d meets a mapping of type %d", ino, off, m.Type)
	}
	if _, err := r.dev.WriteAt(p, int64(m.Addr+off-m.Offset)); err != nil {
		return err
	}
	end := off + uint64(len(p))
	if op == iomap.Writeback {
		end = min(end, f.size) // a page at the end of the file
	}
	if m.Type != iomap.Unwritten && end <= f.disk {
		return nil
	}
	r.mu.Lock()
	r.ioends++
	r.mu.Unlock()
	size, err := r.fs.IOEndOutside(ino, off, end-off, 0)
	if err != nil {
		return err
	}
	f.disk = size
	return r.cache.Drop(ino, off, uint64(len(p)))
}

// writeBack writes what is dirty.
func (r *outsideRig) writeBack(ino ext4.Ino) error {
	r.t.Helper()
	f := r.file(ino)
	f.mu.Lock()
	defer f.mu.Unlock()
	return r.writeDirty(ino, f)
}

func (r *outsideRig) writeDirty(ino ext4.Ino, f *outsideFile) error {
	blocks := slices.Sorted(maps.Keys(f.dirty))
	for i := 0; i < len(blocks); {
		off := blocks[i] * r.bs
		m, err := r.lookup(ino, off, r.bs, iomap.Writeback)
		if err != nil {
			return err
		}
		var data []byte
		for i < len(blocks) && blocks[i]*r.bs == off+uint64(len(data)) && m.Contains(blocks[i]*r.bs) {
			data = append(data, f.dirty[blocks[i]]...)
			delete(f.dirty, blocks[i])
			i++
		}
		if err := r.store(ino, f, &m, data, off, iomap.Writeback); err != nil {
			return err
		}
	}
	return nil
}

// truncate sets the size of a file.
func (r *outsideRig) truncate(ino ext4.Ino, size uint64) {
	r.t.Helper()
	f := r.file(ino)
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, edge := range []uint64{f.size, size} {
		if edge%r.bs == 0 || edge > f.size {
			continue
		}
		p, err := r.page(ino, f, edge/r.bs, iomap.Zero)
		r.must(err)
		if m, _ := r.cache.find(ino, edge, iomap.Zero); m.Type == iomap.Mapped || f.dirty[edge/r.bs] != nil {
			clear(p[edge%r.bs:])
			f.dirty[edge/r.bs] = p
		}
	}
	for blk := range f.dirty {
		if blk*r.bs >= size {
			delete(f.dirty, blk)
		}
	}
	f.want = append(f.want[:min(size, f.size)], make([]byte, size-min(size, f.size))...)
	f.size = min(f.size, size)
	r.must(r.writeDirty(ino, f))
	r.must(r.fs.Truncate(ino, size))
	f.size, f.disk = size, size
	r.must(r.cache.Drop(ino, size/r.bs*r.bs, iomap.ToEOF))
}

// check reads all files in the ways a program would.
func (r *outsideRig) check() {
	r.t.Helper()
	for ino, f := range r.files {
		f.mu.Lock()
		for blk := uint64(0); blk*r.bs < f.size; blk++ {
			p, err := r.page(ino, f, blk, iomap.Read)
			r.must(err)
			if want := f.want[blk*r.bs : min((blk+1)*r.bs, f.size)]; !bytes.Equal(p[:len(want)], want) {
				r.t.Fatalf("%s differs in block %d", f.name, blk)
			}
		}
		f.mu.Unlock()
	}
}

// close writes everything back and has e2fsck judge the image.
func (r *outsideRig) close() {
	r.t.Helper()
	for ino := range r.files {
		r.must(r.writeBack(ino))
	}
	r.check()
	r.must(r.fs.Close())
	r.must(blocktest.Dump(r.dev, r.dev.Size(), r.img))
	r.must(runFsck(r.img, "-fn"))
}

// finish has the kernel judge, too.
func (r *outsideRig) finish() {
	r.t.Helper()
	r.close()
	m := testimage.MountRW(r.t, &testimage.Image{Path: r.img}, "")
	for _, f := range r.files {
		got, err := os.ReadFile(filepath.Join(m.Dir, f.name))
		r.must(err)
		if !bytes.Equal(got, f.want) {
			r.t.Errorf("%s is not what was written to it: %d bytes, want %d", f.name, len(got), len(f.want))
		}
	}
	r.must(m.Unmount())
}
