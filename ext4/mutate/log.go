package mutate

import (
	"ext4box/ext4/internal/disk"
)

const (
	journalMagic = 0xC03B3998

	blockDescriptor = 1
	blockCommit     = 2
	blockRevoke     = 5

	tagEscaped  = 1
	tagSameUUID = 2
	tagLast     = 8

	journalRevoke = 0x1
	journal64Bit  = 0x2
	journalCsumV2 = 0x8
	journalCsumV3 = 0x10
	journalFast   = 0x20
)

// sumWithout is the checksum of b with the four bytes at off taken as zero.
func sumWithout(seed uint32, b []byte, off int) uint32 {
	sum := disk.CRC32C(seed, b[:off])
	sum = disk.CRC32CUint32(sum, 0)
	return disk.CRC32C(sum, b[off+4:])
}

// sealLog puts the checksum of one of the journal's own blocks right.
func (w *work) sealLog(k kind, b []byte) {
	super := w.read(w.b.at(w.b.log[0]), disk.SuperblockSize)
	if be.Uint32(super[0x28:])&(journalCsumV2|journalCsumV3) == 0 {
		return
	}
	seed := disk.CRC32C(^uint32(0), super[0x30:0x40])
	switch t := be.Uint32(b[4:]); {
	case k == kindJournal:
		be.PutUint32(b[0xFC:], sumWithout(^uint32(0), b[:disk.SuperblockSize], 0xFC))
	case t == blockDescriptor || t == blockRevoke:
		be.PutUint32(b[len(b)-4:], sumWithout(seed, b, len(b)-4))
	case t == blockCommit:
		be.PutUint32(b[0x10:], sumWithout(seed, b, 0x10))
	}
}

// A logWriter puts transactions into the log of a journal, which thereby is not empty.
type logWriter struct {
	w        *work
	features uint32
	seed     uint32
	next     int // block of the log, an index of Base.log
	end      int
	tid      uint32
	uuid     []byte
}

// openLog begins a log; ok is false where there is no journal for it. A log that is
// there already is gone.
func (w *work) openLog() (l *logWriter, ok bool) {
	if len(w.b.log) < 64 {
		return nil, false
	}
	super := w.read(w.b.at(w.b.log[0]), disk.SuperblockSize)
	if be.Uint32(super) != journalMagic {
		return nil, false
	}
	l = &logWriter{w: w, features: be.Uint32(super[0x28:]), uuid: super[0x30:0x40], next: int(be.Uint32(super[0x14:])), end: len(w.b.log), tid: be.Uint32(super[0x18:])}
	l.seed = disk.CRC32C(^uint32(0), l.uuid)
	if l.features&journalFast != 0 || w.b.sb.Compat&disk.CompatFastCommit != 0 {
		n := int(be.Uint32(super[0x54:]))
		if n == 0 {
			n = 256
		}
		l.end -= n
	}
	if l.next < 1 || l.next >= l.end-8 {
		return nil, false
	}
	start := l.next
	w.change(w.b.of[kindJournal][0], func(b []byte) {
		be.PutUint32(b[0x1C:], uint32(start))
		be.PutUint32(b[0x28:], be.Uint32(b[0x28:])|journalRevoke)
	})
	l.features |= journalRevoke
	w.change(w.b.of[kindSuper][0], func(b []byte) {
		le.PutUint32(b[0x60:], le.Uint32(b[0x60:])|uint32(disk.IncompatRecover))
	})
	return l, true
}

// put writes the next block of the log; false is returned where there is no room.
func (l *logWriter) put(b []byte) bool {
	if l.next >= l.end {
		return false
	}
	l.w.write(l.w.b.at(l.w.b.log[l.next]), b)
	l.next++
	return true
}

func (l *logWriter) header(t uint32) []byte {
	b := make([]byte, l.w.b.geo.BlockSize)
	be.PutUint32(b, journalMagic)
	be.PutUint32(b[4:], t)
	be.PutUint32(b[8:], l.tid)
	return b
}

// logged is a block as the log has it.
type logged struct {
	blk  uint64
	data []byte
}

// blocks writes a descriptor block and the blocks that it describes, as many as there is room for in both.
func (l *logWriter) blocks(list []logged) (rest []logged) {
	d := l.header(blockDescriptor)
	room := len(d) - 4
	off, last := 12, 0
	var images [][]byte
	for len(list) > 0 && off+16+16 <= room && l.next+1+len(images) < l.end-1 {
		data := append([]byte(nil), list[0].data...)
		flags := uint32(0)
		if be.Uint32(data) == journalMagic {
			clear(data[:4])
			flags |= tagEscaped
		}
		if off > 12 {
			flags |= tagSameUUID
		}
		var tid [4]byte
		be.PutUint32(tid[:], l.tid)
		sum := disk.CRC32C(disk.CRC32C(l.seed, tid[:]), data)
		last = off
		be.PutUint32(d[off:], uint32(list[0].blk))
		if l.features&journalCsumV3 != 0 {
			be.PutUint32(d[off+4:], flags)
			be.PutUint32(d[off+8:], uint32(list[0].blk>>32))
			be.PutUint32(d[off+12:], sum)
			off += 16
		} else {
			be.PutUint16(d[off+6:], uint16(flags))
			off += 8
			if l.features&journal64Bit != 0 {
				be.PutUint32(d[off:], uint32(list[0].blk>>32))
				off += 4
			}
			if l.features&journalCsumV2 != 0 {
				be.PutUint16(d[last+4:], uint16(sum))
				off += 2
			}
		}
		if flags&tagSameUUID == 0 {
			off += copy(d[off:], l.uuid)
		}
		images = append(images, data)
		list = list[1:]
	}
	be.PutUint16(d[last+6:], be.Uint16(d[last+6:])|tagLast)
	l.w.sealLog(kindLog, d)
	l.put(d)
	for _, b := range images {
		l.put(b)
	}
	return list
}

// revoke writes a revoke block with as many of the numbers as it has room for.
func (l *logWriter) revoke(list []uint64) {
	b := l.header(blockRevoke)
	off := 16
	for _, blk := range list {
		if off+8 > len(b)-4 {
			break
		}
		if l.features&journal64Bit != 0 {
			be.PutUint64(b[off:], blk)
			off += 8
		} else {
			be.PutUint32(b[off:], uint32(blk))
			off += 4
		}
	}
	be.PutUint32(b[12:], uint32(off))
	l.w.sealLog(kindLog, b)
	l.put(b)
}

// commit ends the transaction.
func (l *logWriter) commit() {
	b := l.header(blockCommit)
	be.PutUint64(b[0x30:], 1_700_000_000)
	l.w.sealLog(kindLog, b)
	l.put(b)
	l.tid++
}

// A fastWriter fills the area of fast commits, which count after the last transaction of the log.
type fastWriter struct {
	w   *work
	out []byte
	sum uint32
	tid uint32
	log []uint64
}

const (
	fastAddRange = 1
	fastDelRange = 2
	fastCreate   = 3
	fastLink     = 4
	fastUnlink   = 5
	fastInode    = 6
	fastPad      = 7
	fastTail     = 8
	fastHead     = 9
)

// openFast begins a fast commit that follows the transactions of l.
func (l *logWriter) openFast() (f *fastWriter, ok bool) {
	if l.end == len(l.w.b.log) || l.w.b.sb.Compat&disk.CompatFastCommit == 0 {
		return nil, false
	}
	l.w.change(l.w.b.of[kindJournal][0], func(b []byte) {
		be.PutUint32(b[0x28:], be.Uint32(b[0x28:])|journalFast)
	})
	f = &fastWriter{w: l.w, tid: l.tid, log: l.w.b.log[l.end+1:]}
	f.tag(fastHead, le.AppendUint32(make([]byte, 4), f.tid))
	return f, true
}

func (f *fastWriter) tag(t uint16, value []byte) {
	bs := int(f.w.b.geo.BlockSize)
	if left := bs - len(f.out)%bs; left < 4+len(value)+12 && t != fastTail && left < bs {
		f.append(fastPad, make([]byte, left-4))
	}
	f.append(t, value)
}

func (f *fastWriter) append(t uint16, value []byte) {
	at := len(f.out)
	f.out = le.AppendUint16(f.out, t)
	f.out = le.AppendUint16(f.out, uint16(len(value)))
	f.out = append(f.out, value...)
	f.sum = disk.CRC32C(f.sum, f.out[at:])
}

// close ends the fast commit and writes it, as far as there is room.
func (f *fastWriter) close() {
	bs := int(f.w.b.geo.BlockSize)
	left := bs - len(f.out)%bs
	at := len(f.out)
	f.out = le.AppendUint16(f.out, fastTail)
	f.out = le.AppendUint16(f.out, uint16(left-4))
	f.out = le.AppendUint32(f.out, f.tid)
	f.sum = disk.CRC32C(f.sum, f.out[at:])
	f.out = le.AppendUint32(f.out, f.sum)
	f.out = append(f.out, make([]byte, left-12)...)
	for i := 0; i < len(f.log) && (i+1)*bs <= len(f.out); i++ {
		f.w.write(f.w.b.at(f.log[i]), f.out[i*bs:(i+1)*bs])
	}
}
