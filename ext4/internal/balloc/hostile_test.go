package balloc

import (
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"strings"
	"syscall"
	"testing"

	"ext4box/blockdev/blocktest"
	"ext4box/ext4/internal/disk"
)

// edit changes the descriptor of a group and, with fix, makes its checksum fit.
func (f *fixture) edit(num uint32, fix bool, change func(d *disk.GroupDesc)) {
	f.t.Helper()
	off := int64(f.geo.DescBlock(f.gs.SuperBlock, num/f.geo.DescPerBlock))*int64(f.geo.BlockSize) + int64(num%f.geo.DescPerBlock*f.geo.DescSize)
	raw := make([]byte, f.geo.DescSize)
	if _, err := f.dev.ReadAt(raw, off); err != nil {
		f.t.Fatal(err)
	}
	d := disk.DecodeGroupDesc(raw)
	change(&d)
	disk.EncodeGroupDesc(raw, &d)
	if fix {
		f.sums.SealGroupDesc(num, raw)
	}
	if _, err := f.dev.WriteAt(raw, off); err != nil {
		f.t.Fatal(err)
	}
}

// editBitmap changes a bitmap of a group, its checksum and, through d, its
// descriptor.
func (f *fixture) editBitmap(num uint32, inodes bool, change func(m disk.Bitmap, d *disk.GroupDesc)) {
	f.t.Helper()
	f.edit(num, true, func(d *disk.GroupDesc) {
		blk, n := d.BlockBitmap, f.geo.ClustersPerGroup
		if inodes {
			blk, n = d.InodeBitmap, f.geo.InodesPerGroup
		}
		m := make(disk.Bitmap, f.geo.BlockSize)
		off := int64(blk) * int64(f.geo.BlockSize)
		if _, err := f.dev.ReadAt(m, off); err != nil {
			f.t.Fatal(err)
		}
		change(m, d)
		if f.sums.Metadata {
			if inodes {
				d.InodeBitmapCsum = f.sums.Bitmap(m, n)
			} else {
				d.BlockBitmapCsum = f.sums.Bitmap(m, n)
			}
		}
		if _, err := f.dev.WriteAt(m, off); err != nil {
			f.t.Fatal(err)
		}
	})
}

// TestSetsBadGroupsAside damages group 3 in every way and expects that it is not
// used for what is damaged, that this is told once, and that everything else
// goes on.
func TestSetsBadGroupsAside(t *testing.T) {
	type damage struct {
		name           string
		blocks, inodes bool // what must be set aside
		do             func(f *fixture)
	}
	field := func(change func(d *disk.GroupDesc)) func(*fixture) {
		return func(f *fixture) { f.edit(3, true, change) }
	}
	bitmap := func(inodes bool, change func(m disk.Bitmap, d *disk.GroupDesc)) func(*fixture) {
		return func(f *fixture) { f.editBitmap(3, inodes, change) }
	}
	cases := []damage{
		{"descriptor checksum", true, true, func(f *fixture) { f.edit(3, false, func(d *disk.GroupDesc) { d.Checksum ^= 1 }) }},
		{"free blocks", true, false, field(func(d *disk.GroupDesc) { d.FreeBlocks-- })},
		{"free inodes", false, true, field(func(d *disk.GroupDesc) { d.FreeInodes-- })},
		{"huge counts", true, true, field(func(d *disk.GroupDesc) { d.FreeBlocks = 1 << 31 })},
		{"directories", false, true, field(func(d *disk.GroupDesc) { d.UsedDirs = 1000 })},
		{"block bitmap checksum", true, false, field(func(d *disk.GroupDesc) { d.BlockBitmapCsum++ })},
		{"inode bitmap checksum", false, true, field(func(d *disk.GroupDesc) { d.InodeBitmapCsum++ })},
		{"bitmap outside", true, true, field(func(d *disk.GroupDesc) { d.BlockBitmap = 1 << 40 })},
		{"bitmap in the boot block", true, true, field(func(d *disk.GroupDesc) { d.BlockBitmap = 0 })},
		{"bitmap on descriptors", true, true, field(func(d *disk.GroupDesc) { d.BlockBitmap = 2 })},
		{"bitmap on bitmap", true, true, field(func(d *disk.GroupDesc) { d.BlockBitmap = d.InodeBitmap })},
		{"bitmap on inode table", true, true, field(func(d *disk.GroupDesc) { d.BlockBitmap = d.InodeTable + 1 })},
		{"inode table on that of a neighbour", true, true, field(func(d *disk.GroupDesc) { d.InodeTable-- })},
		{"metadata marked free", true, false, bitmap(false, func(m disk.Bitmap, d *disk.GroupDesc) { m.ClearRange(0, 1); d.FreeBlocks++ })},
		{"padding", true, false, bitmap(false, func(m disk.Bitmap, _ *disk.GroupDesc) { m.ClearRange(8190, 1) })},
		{"inode behind the end", false, true, bitmap(true, func(m disk.Bitmap, d *disk.GroupDesc) {
			d.ItableUnused = 100
			m.SetRange(1900, 1)
			d.FreeInodes--
		})},
		{"uninitialised with inodes", false, true, field(func(d *disk.GroupDesc) { d.Flags |= disk.GroupInodeUninit })},
		// Inodes cannot be used where the block bitmap cannot be initialised.
		{"uninitialised with blocks", true, true, field(func(d *disk.GroupDesc) { d.Flags |= disk.GroupBlockUninit })},
	}
	// Groups of 8000 leave padding. Group 3 has some blocks and inodes in use.
	base := mkfs(t, layout{"", 48 * mib, []string{"-b", "1024", "-g", "8000", "-N", "12288"}}).mem(t)
	{
		f := open(t, base, nil)
		f.claim(f.reserve(Request{Goal: f.geo.GroupFirstBlock(3) + 4000, Want: 100}))
		if ino, err := f.gs.allocInGroup(f.tx, 3, true); ino == 0 {
			t.Fatal(err)
		}
		f.sync()
		f.sound()
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			f := open(t, base.Clone(), nil)
			c.do(f)
			f.checkAside(3, c.blocks, c.inodes)
		})
	}
	for _, flag := range []uint16{disk.GroupBlockUninit, disk.GroupInodeUninit} {
		f := open(t, base.Clone(), nil)
		f.edit(0, true, func(d *disk.GroupDesc) { d.Flags |= flag })
		f.checkAside(0, flag == disk.GroupBlockUninit, true)
	}
}

// checkAside uses up the filesystem and checks that nothing of group num is
// among it where blocks or inodes say so.
func (f *fixture) checkAside(num uint32, blocks, inodes bool) {
	t := f.t
	t.Helper()
	var got, inos int
	for goal := f.geo.GroupFirstBlock(num); ; {
		r, err := f.gs.Reserve(Request{Goal: goal, Want: 4000, Root: true})
		if errors.Is(err, syscall.ENOSPC) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if f.geo.GroupOf(r.Start) == num {
			got++
		}
		f.claim(r)
	}
	for {
		ino, err := f.gs.AllocInode(f.tx, InodeRequest{Parent: 2})
		if errors.Is(err, syscall.ENOSPC) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if n, _ := f.geo.InodeGroup(ino); n == num {
			inos++
		}
	}
	if blocks != (got == 0) || inodes != (inos == 0) {
		t.Errorf("%d runs and %d inodes allocated; bad for blocks %v, for inodes %v", got, inos, blocks, inodes)
	}
	for n, errs := range f.corrupt {
		if n != num && !strings.Contains(errs[0].Error(), "overlaps") {
			t.Errorf("group %d was set aside too: %v", n, errs)
		}
		for _, err := range errs {
			if !errors.Is(err, syscall.EUCLEAN) {
				t.Errorf("error %v", err)
			}
		}
	}
	if len(f.corrupt[num]) == 0 || len(f.corrupt[num]) > 2 {
		t.Errorf("told %v", f.corrupt[num])
	}
	total := f.totals()
	if total.Usable != 0 || total.FreeClusters != 0 || total.FreeInodes != 0 {
		t.Errorf("all is used, and %+v", total)
	}
	// Freeing in the group does not fail, and does nothing.
	if blocks {
		if err := f.gs.Free(f.tx, f.geo.GroupFirstBlock(num)+4000, 10, 0); err != nil {
			t.Error(err)
		}
	}
	if inodes && num > 0 {
		if err := f.gs.FreeInode(f.tx, f.gs.ino(num, 0), true); err != nil {
			t.Error(err)
		}
	}
	if after := f.totals(); after != total {
		t.Errorf("%+v, was %+v", after, total)
	}
}

func TestDoubleFree(t *testing.T) {
	f := open(t, mkfs(t, layout{"", 48 * mib, []string{"-b", "1024"}}), nil)
	a, b := f.reserve(Request{Want: 10, Goal: 20000}), f.reserve(Request{Want: 10, Goal: 30000})
	f.claim(a)
	f.claim(b)
	f.freeRun(a)
	for _, r := range []Run{{a.Start + 9, 1}, {b.Start + 5, 6}} { // freed in this transaction; partly free
		var c *disk.CorruptError
		if err := f.gs.Free(f.tx, r.Start, uint64(r.Len), 0); !errors.As(err, &c) {
			t.Errorf("Free(%+v) = %v", r, err)
		}
		if len(f.corrupt[f.geo.GroupOf(r.Start)]) != 1 {
			t.Errorf("told %v", f.corrupt)
		}
	}
	ino, err := f.gs.AllocInode(f.tx, InodeRequest{Parent: 2, Dir: true})
	if err != nil {
		t.Fatal(err)
	}
	f.freeInode(ino, true)
	var c *disk.CorruptError
	if err := f.gs.FreeInode(f.tx, ino, true); !errors.As(err, &c) {
		t.Error(err)
	}
	f.commit()
}

func TestNeverFreesMetadata(t *testing.T) {
	f := open(t, mkfs(t, layout{"", 64 * mib, []string{"-b", "1024"}}), func(c *Config) {
		c.Protected = []Run{{50000, 0}}
	})
	protected := f.reserve(Request{Want: 64, Goal: 50000})
	f.claim(protected)
	f.commit()
	f = open(t, f.dev, func(c *Config) { c.Protected = []Run{protected} })
	zones := []Run{{1, 1}, {2, 1}, {100, 2}, protected, {protected.Start - 1, 2}, {protected.End() - 1, 2}, {f.geo.GroupFirstBlock(3), 1}}
	for num := range f.geo.Groups {
		g := f.gs.lock(num)
		if err := f.gs.loadDesc(g); err != nil {
			t.Fatal(err)
		}
		for _, s := range f.gs.structures(&g.desc) {
			zones = append(zones, Run{s.Start, 1}, Run{s.End() - 1, 1})
		}
		f.gs.unlock(g)
	}
	for _, r := range zones {
		var c *disk.CorruptError
		if err := f.gs.Free(f.tx, r.Start, uint64(r.Len), 0); !errors.As(err, &c) {
			t.Errorf("Free(%+v) = %v", r, err)
		}
	}
	if len(f.tx.Modified()) != 0 {
		t.Errorf("blocks %v were changed", f.tx.Modified())
	}
	f.sound()
}

// TestNoise runs operations on images whose descriptors and bitmaps are noise.
// Nothing is expected but that every call returns.
func TestNoise(t *testing.T) {
	bases := []*blocktest.Mem{
		mkfs(t, layout{"", 48 * mib, []string{"-b", "1024", "-O", "^metadata_csum,^uninit_bg"}}).mem(t),
		mkfs(t, layout{"", 48 * mib, []string{"-b", "1024"}}).mem(t),
	}
	for seed := range uint64(60) {
		rng := rand.New(rand.NewPCG(seed, 7))
		f := open(t, bases[seed%2].Clone(), nil)
		for range 1 + rng.IntN(20) {
			num := rng.Uint32N(f.geo.Groups)
			f.edit(num, true, func(d *disk.GroupDesc) {
				var raw [64]byte
				disk.EncodeGroupDesc(raw[:], d)
				for range 1 + rng.IntN(3) {
					off := rng.IntN(15) * 4
					v := rng.Uint32() >> rng.IntN(32)
					if rng.IntN(2) == 0 {
						v = binary.LittleEndian.Uint32(raw[off:]) ^ 1<<rng.IntN(8)
					}
					binary.LittleEndian.PutUint32(raw[off:], v)
				}
				*d = disk.DecodeGroupDesc(raw[:])
			})
		}
		for range 200 {
			switch rng.IntN(4) {
			case 0:
				if r, err := f.gs.Reserve(Request{Want: 1 + rng.Uint32N(9000), Goal: rng.Uint64N(60000)}); err == nil {
					if f.gs.Claim(f.tx, r) != nil {
						f.gs.Release(r)
					}
				}
			case 1:
				f.gs.Free(f.tx, rng.Uint64N(60000), rng.Uint64N(20000), 0)
			case 2:
				f.gs.AllocInode(f.tx, InodeRequest{Parent: 1 + rng.Uint32N(f.geo.InodesCount), Dir: rng.IntN(2) == 0})
			case 3:
				f.gs.FreeInode(f.tx, rng.Uint32N(f.geo.InodesCount), false)
			}
		}
		f.commit()
		f.gs.Totals()
	}
}
