package ext4_test

import (
	"bytes"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"ext4box/blockdev/blocktest"
	"ext4box/ext4"
	"ext4box/iomap"
)

// drop is a range of a file whose mappings were taken back.
type drop struct {
	ino    ext4.Ino
	off, n uint64
}

// dropped is a cache of mappings that keeps none, and notes what is taken back.
type dropped struct {
	mu    sync.Mutex
	drops []drop
}

func (d *dropped) Store(ext4.Ino, iomap.Mapping) error { return nil }
func (d *dropped) LetGo([]ext4.Ino) error              { return nil }
func (d *dropped) Drop(ino ext4.Ino, off, n uint64) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.drops = append(d.drops, drop{ino, off, n})
	return nil
}

func (d *dropped) take() []drop {
	d.mu.Lock()
	defer d.mu.Unlock()
	drops := d.drops
	d.drops = nil
	return drops
}

// changeRig is a filesystem whose data the test moves.
type changeRig struct {
	*ext4.FS
	t     *testing.T
	mem   *blocktest.Mem
	dev   *blocktest.Failing
	cache *dropped
	bs    uint64
}

func newChangeRig(t *testing.T, size int64, args string) *changeRig {
	t.Helper()
	path := filepath.Join(t.TempDir(), "img")
	mke2fs(t, path, size, strings.Fields(args)...)
	mem, err := blocktest.LoadMem(path)
	if err != nil {
		t.Fatal(err)
	}
	r := &changeRig{t: t, mem: mem, dev: blocktest.NewFailing(mem), cache: &dropped{}}
	if r.FS, err = ext4.Open(r.dev, ext4.Options{CommitInterval: time.Hour}); err != nil {
		t.Fatal(err)
	}
	s, err := r.Statfs()
	r.must(err)
	r.bs = uint64(s.BlockSize)
	r.MoveOutside(r.cache)
	return r
}

func (r *changeRig) must(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

func (r *changeRig) create(name string) ext4.Ino {
	r.t.Helper()
	ino, err := r.Create(ext4.RootIno, name, ext4.NewNode{Mode: syscall.S_IFREG | 0o644})
	r.must(err)
	r.Hold(ino)
	return ino
}

// begin asks for mappings to write blocks of a file, and tells where these are.
func (r *changeRig) begin(ino ext4.Ino, blk, n uint64) (addrs []uint64) {
	r.t.Helper()
	for end := blk + n; blk < end; {
		m, _, err := r.MapOutside(ino, blk*r.bs, (end-blk)*r.bs, iomap.Write, false)
		r.must(err)
		if m.Type != iomap.Mapped && m.Type != iomap.Unwritten || !m.Contains(blk*r.bs) {
			r.t.Fatalf("block %d is mapped %+v", blk, m)
		}
		for ; blk < end && m.Contains(blk*r.bs); blk++ {
			addrs = append(addrs, m.Addr+blk*r.bs-m.Offset)
		}
	}
	return addrs
}

// put fills a block of the device with a letter.
func (r *changeRig) put(addr uint64, c byte) {
	r.t.Helper()
	_, err := r.mem.WriteAt(bytes.Repeat([]byte{c}, int(r.bs)), int64(addr))
	r.must(err)
}

// fill writes blocks, as the kernel writes them back.
func (r *changeRig) fill(ino ext4.Ino, blk, n uint64, c byte) (addrs []uint64) {
	r.t.Helper()
	addrs = r.begin(ino, blk, n)
	for _, at := range addrs {
		r.put(at, c)
	}
	size, err := r.IOEndOutside(ino, blk*r.bs, n*r.bs, 0)
	r.must(err)
	if size < (blk+n)*r.bs {
		r.t.Fatalf("the size is %d after writing up to block %d", size, blk+n)
	}
	return addrs
}

// stays verifies that blocks are still where they were, and not written.
func (r *changeRig) stays(ino ext4.Ino, blk uint64, addrs []uint64) {
	r.t.Helper()
	for i, now := range r.begin(ino, blk, uint64(len(addrs))) {
		if typ, _ := r.at(ino, blk+uint64(i)); now != addrs[i] || typ != iomap.Unwritten {
			r.t.Errorf("block %d has gone from %d to %d, with type %d", blk+uint64(i), addrs[i], now, typ)
		}
	}
}

// at is how a block is mapped.
func (r *changeRig) at(ino ext4.Ino, blk uint64) (typ iomap.Type, addr uint64) {
	r.t.Helper()
	m, err := r.Begin(ino, blk*r.bs, r.bs, iomap.Report)
	r.must(err)
	if m.Addr == iomap.NullAddr {
		return m.Type, 0
	}
	return m.Type, m.Addr + blk*r.bs - m.Offset
}

// types is how the blocks of a file are mapped, a letter each.
func (r *changeRig) types(ino ext4.Ino, n uint64) string {
	r.t.Helper()
	s := ""
	for blk := range n {
		typ, _ := r.at(ino, blk)
		s += string("-?MU"[typ])
	}
	return s
}

// has verifies what the device has at an address.
func (r *changeRig) has(addr uint64, want string) {
	r.t.Helper()
	got := make([]byte, len(want))
	_, err := r.mem.ReadAt(got, int64(addr))
	r.must(err)
	if string(got) != want {
		r.t.Errorf("there is %.20q... on the device instead of %.20q...", got, want)
	}
}

func (r *changeRig) size(ino ext4.Ino, want uint64) {
	r.t.Helper()
	if st, err := r.Stat(ino); err != nil || st.Size != int64(want) {
		r.t.Errorf("size %d, %v; want %d", st.Size, err, want)
	}
}

// free is the number of blocks that are neither used nor reserved for what was asked
// for.
func (r *changeRig) free() uint64 {
	r.t.Helper()
	r.must(r.Sync())
	s, err := r.Statfs()
	r.must(err)
	return s.BlocksFree
}

func (r *changeRig) dropsNothing() {
	r.t.Helper()
	if d := r.cache.take(); len(d) > 0 {
		r.t.Errorf("mappings were taken back: %+v", d)
	}
}

func (r *changeRig) finish() {
	r.t.Helper()
	r.must(r.Close())
	fsck(r.t, copied(r.t, r.mem))
}

// outsideKinds are filesystems with maps of different kinds.
var outsideKinds = map[string]string{
	"extents":  "-t ext4",
	"1k":       "-t ext4 -b 1024",
	"indirect": "-t ext3",
	"bigalloc": "-t ext4 -O bigalloc",
}
