package journal

import (
	"bytes"
	"errors"
	"strings"
	"syscall"
	"testing"

	"ext4box/ext4/internal/disk"
)

func TestTagSizes(t *testing.T) {
	for _, c := range []struct {
		checksum Checksum
		wide     bool
		size     int
	}{
		{ChecksumNone, false, 8}, {ChecksumNone, true, 12},
		{ChecksumV1, false, 8}, {ChecksumV1, true, 12},
		{ChecksumV2, false, 10}, {ChecksumV2, true, 14},
		{ChecksumV3, false, 16}, {ChecksumV3, true, 16},
	} {
		l := layout{checksum: c.checksum, wide: c.wide}
		if got := l.tagSize(); got != c.size {
			t.Errorf("%+v: %d", c, got)
		}
	}
}

func TestCRC32BE(t *testing.T) {
	// The check value of CRC-32/BZIP2, which differs only in the final inversion.
	if got := ^crc32BE(^uint32(0), []byte("123456789")); got != 0xFC891918 {
		t.Errorf("%#x", got)
	}
}

func TestDecodersDoNotAllocate(t *testing.T) {
	lb := newLog()
	lb.descriptor(lb.fill(1, 1), lb.fill(2, 1))
	lb.revoke(1, 2, 3)
	super := lb.superblock()
	l := layout{blockSize: lb.bs, wide: true, checksum: ChecksumV3, seed: lb.seed()}
	var s Superblock
	var c Commit
	for name, fn := range map[string]func(){
		"superblock": func() { s.Decode(super) },
		"commit":     func() { c.Decode(super) },
		"tags":       func() { l.countTags(lb.block(1)) },
		"tail":       func() { l.checkTail(lb.block(1)) },
		"revokes":    func() { _ = l.revoked(lb.block(4), func(uint64) {}) },
	} {
		if n := testing.AllocsPerRun(100, fn); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

func TestLoadRefusals(t *testing.T) {
	for name, c := range map[string]struct {
		damage func(b []byte)
		sealed bool // with the checksum renewed
		want   string
		errno  syscall.Errno
	}{
		"magic":         {func(b []byte) { b[0] = 0 }, true, "magic", syscall.EUCLEAN},
		"type":          {func(b []byte) { b[7] = 1 }, true, "block type", syscall.EUCLEAN},
		"block size":    {func(b []byte) { be.PutUint32(b[0x0C:], 4096) }, true, "block size 4096", syscall.EUCLEAN},
		"length":        {func(b []byte) { be.PutUint32(b[0x10:], 65) }, true, "length of 65", syscall.EUCLEAN},
		"first 0":       {func(b []byte) { be.PutUint32(b[0x14:], 0) }, true, "first block 0", syscall.EUCLEAN},
		"first 64":      {func(b []byte) { be.PutUint32(b[0x14:], 64) }, true, "first block 64", syscall.EUCLEAN},
		"start":         {func(b []byte) { be.PutUint32(b[0x1C:], 64) }, true, "start 64", syscall.EUCLEAN},
		"start early":   {func(b []byte) { be.PutUint32(b[0x14:], 2) }, true, "start 1", syscall.EUCLEAN},
		"incompat":      {func(b []byte) { b[0x28] = 0x80 }, true, "FEATURE_I31", syscall.EOPNOTSUPP},
		"ro_compat":     {func(b []byte) { b[0x2F] = 4 }, true, "FEATURE_R2", syscall.EOPNOTSUPP},
		"two checksums": {func(b []byte) { b[0x2B] |= IncompatChecksumV2 }, true, "more than one", syscall.EUCLEAN},
		"v1 and v3":     {func(b []byte) { b[0x27] |= CompatChecksum }, true, "more than one", syscall.EUCLEAN},
		"checksum type": {func(b []byte) { b[0x50] = 1 }, true, "checksum type 1", syscall.EUCLEAN},
		"checksum":      {func(b []byte) { b[0x48] = 1 }, false, "checksum is", syscall.EUCLEAN},
		"fast commits":  {func(b []byte) { b[0x2B] |= IncompatFastCommit }, true, "256 of 64", syscall.EUCLEAN},
	} {
		// The same for clean and dirty journals.
		for _, start := range []uint32{1, 0} {
			if start == 0 && strings.HasPrefix(name, "start") {
				continue
			}
			lb := newLog(func(lb *logBuilder) { lb.start = start })
			log := lb.reader()
			c.damage(lb.block(0))
			if c.sealed {
				lb.seal()
			}
			if _, err := Load(log, lb.options()); !errors.Is(err, c.errno) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	for _, o := range []Options{{BlockSize: 512, LogBlocks: 64}, {BlockSize: 3000, LogBlocks: 64}, {BlockSize: 1 << 17, LogBlocks: 64}, {BlockSize: 1024}} {
		if _, err := Load(newLog().reader(), o); !errors.Is(err, syscall.EUCLEAN) {
			t.Errorf("%+v: %v", o, err)
		}
	}
}

func TestLoadVersion1(t *testing.T) {
	lb := newLog(func(lb *logBuilder) { lb.v1Super, lb.checksum, lb.wide = true, ChecksumNone, false })
	lb.transaction(1, 1)
	log := lb.reader()
	be.PutUint32(lb.block(0)[0x28:], 0xFFFFFFFF) // no features before version 2
	j, err := Load(log, lb.options())
	if err != nil {
		t.Fatal(err)
	}
	if r, err := j.Recover(); err != nil || r.Len() != 1 {
		t.Errorf("%+v, %v", r, err)
	}
}

func TestLoadExternal(t *testing.T) {
	lb := newLog(func(lb *logBuilder) { lb.at, lb.first, lb.start = ExternalSuperblock(1024), 3, 3 })
	lb.transaction(1, 1)
	wantVersions(t, lb, map[uint64]byte{1: 1})
	for _, c := range []struct {
		blockSize int
		at        uint32
	}{{1024, 2}, {2048, 1}, {4096, 1}, {65536, 1}} {
		if got := ExternalSuperblock(c.blockSize); got != c.at {
			t.Errorf("block size %d: %d", c.blockSize, got)
		}
	}
	be.PutUint32(lb.block(2)[0x40:], 2)
	lb.seal()
	if _, err := Load(bytes.NewReader(lb.image), lb.options()); !errors.Is(err, syscall.EUCLEAN) {
		t.Errorf("shared journal: %v", err)
	}
}

func TestErrno(t *testing.T) {
	for _, v := range []uint32{5, 0xFFFFFFFB} {
		lb := newLog()
		log := lb.reader()
		be.PutUint32(lb.block(0)[0x20:], v)
		lb.seal()
		j, err := Load(log, lb.options())
		if err != nil || j.Errno() != 5 {
			t.Errorf("%v, %v", j, err)
		}
	}
}

func TestFastCommitArea(t *testing.T) {
	lb := newLog(func(lb *logBuilder) { lb.maxLen, lb.fc = 1100, 20 })
	j, err := Load(lb.reader(), lb.options())
	if err != nil {
		t.Fatal(err)
	}
	a := j.FastCommitArea()
	if a == nil || a.Size() != 19*1024 {
		t.Fatalf("%+v", a)
	}
	lb.block(1081)[0] = 0xFC
	var b [1]byte
	if _, err := a.ReadAt(b[:], 0); err != nil || b[0] != 0xFC {
		t.Errorf("%x, %v", b, err)
	}
	lb = newLog()
	if j, err = Load(lb.reader(), lb.options()); err != nil || j.FastCommitArea() != nil {
		t.Errorf("%+v, %v", j, err)
	}
}

func FuzzSuperblock(f *testing.F) {
	f.Add(newLog().superblock())
	f.Fuzz(func(t *testing.T, b []byte) {
		var s Superblock
		if !s.Decode(b) {
			return
		}
		o := Options{BlockSize: 1024, LogBlocks: 1 << 20, DeviceBlocks: 1 << 20}
		if s.check(b, &o) == nil && (s.First == 0 || s.First >= s.last() || s.last() > s.MaxLen || s.MaxLen > 1<<20) {
			t.Fatalf("%+v passes", s)
		}
	})
}

// blockFuzzLayout makes a layout of two fuzzed bits.
func blockFuzzLayout(variant uint8) *layout {
	return &layout{blockSize: 1024, checksum: Checksum(variant & 3), wide: variant&4 != 0}
}

func FuzzDescriptor(f *testing.F) {
	lb := newLog()
	lb.descriptor(lb.fill(1, 1), lb.fill(2, 2))
	f.Add(uint8(7), lb.block(1))
	f.Fuzz(func(t *testing.T, variant uint8, b []byte) {
		b = append(b, make([]byte, 1024)...)[:1024]
		l := blockFuzzLayout(variant)
		n := uint32(0)
		var tag Tag
		for r := l.tags(b); r.next(&tag); n++ {
			if n > 1024/8 {
				t.Fatal("more tags than there is room for")
			}
		}
		if n != l.countTags(b) {
			t.Fatal("the count differs")
		}
	})
}

func FuzzRevoke(f *testing.F) {
	lb := newLog()
	lb.revoke(1, 2, 3)
	f.Add(uint8(7), lb.block(1))
	f.Fuzz(func(t *testing.T, variant uint8, b []byte) {
		b = append(b, make([]byte, 1024)...)[:1024]
		n := 0
		if err := blockFuzzLayout(variant).revoked(b, func(uint64) { n++ }); err != nil && !errors.Is(err, syscall.EUCLEAN) {
			t.Fatal(err)
		}
		if n > 1024/4 {
			t.Fatal("more records than there is room for")
		}
	})
}

func FuzzCommit(f *testing.F) {
	lb := newLog()
	f.Add(lb.block(lb.commit()))
	f.Fuzz(func(_ *testing.T, b []byte) {
		var c Commit
		if c.Decode(b) {
			blockFuzzLayout(3).checkCommit(b, &c)
		}
	})
}

// FuzzRecover damages whole logs. The checksums are made good again where they
// would hide what is behind them: there are none.
func FuzzRecover(f *testing.F) {
	for _, c := range []Checksum{ChecksumNone, ChecksumV1, ChecksumV3} {
		lb := newLog(withChecksum(c), func(lb *logBuilder) { lb.maxLen = 16 })
		lb.transaction(1, 1, 2)
		lb.revoke(1)
		lb.commit()
		f.Add(bytes.Clone(lb.superblock()[:1024]), lb.image[1024:])
	}
	f.Fuzz(func(t *testing.T, super, log []byte) {
		super = append(super, make([]byte, 1024)...)[:1024]
		image := append(bytes.Clone(super), log...)
		clear(image[0xFC:0x100])
		be.PutUint32(image[0xFC:], disk.CRC32C(^uint32(0), image[:1024]))
		blocks := uint64(len(image) / 1024)
		j, err := Load(bytes.NewReader(image), Options{BlockSize: 1024, LogBlocks: blocks, DeviceBlocks: 1 << 20})
		if err != nil {
			return
		}
		r, err := j.Recover()
		if err != nil {
			if !errors.Is(err, syscall.EUCLEAN) {
				t.Fatal(err)
			}
			return
		}
		if uint64(r.Len()) > blocks {
			t.Fatalf("%d redirections in a log of %d blocks", r.Len(), blocks)
		}
	})
}
