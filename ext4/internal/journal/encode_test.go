package journal

import (
	"bytes"
	"io"

	"ext4box/ext4/internal/disk"
)

// logBuilder writes a journal into memory, as unlike the recovery code as
// possible: it works on whole blocks and knows nothing of passes.
type logBuilder struct {
	bs       int
	maxLen   uint32
	first    uint32
	start    uint32
	sequence uint32
	checksum Checksum
	wide     bool
	async    bool
	fc       uint32
	v1Super  bool
	at       uint32 // superblock's place, 1 or 2 for an external journal
	uuid     [16]byte
	uuidTags bool // put the UUID into the first tag, as the kernel does

	image []byte
	next  uint32 // log block to be written next
	tid   uint32
	time  uint64
	sum   uint32 // v1
}

func newLog(opts ...func(*logBuilder)) *logBuilder {
	lb := &logBuilder{
		bs: 1024, maxLen: 64, first: 1, start: 1, sequence: 7, checksum: ChecksumV3, wide: true,
		uuid: [16]byte{1, 2, 3}, uuidTags: true, time: 1000,
	}
	for _, o := range opts {
		o(lb)
	}
	lb.image = make([]byte, int(lb.maxLen)*lb.bs)
	lb.next, lb.tid, lb.sum = lb.start, lb.sequence, ^uint32(0)
	return lb
}

func withChecksum(c Checksum) func(*logBuilder) { return func(lb *logBuilder) { lb.checksum = c } }

func (lb *logBuilder) seed() uint32 { return disk.CRC32C(^uint32(0), lb.uuid[:]) }

func (lb *logBuilder) block(n uint32) []byte { return lb.image[int(n)*lb.bs : int(n+1)*lb.bs] }

// put writes the next block of the log and returns its number.
func (lb *logBuilder) put(b []byte) uint32 {
	at := lb.next
	copy(lb.block(at), b)
	lb.next++
	if lb.next >= lb.maxLen-lb.fc {
		lb.next = lb.first
	}
	return at
}

func (lb *logBuilder) header(t BlockType) []byte {
	b := make([]byte, lb.bs)
	be.PutUint32(b[0:], magicNumber)
	be.PutUint32(b[4:], uint32(t))
	be.PutUint32(b[8:], lb.tid)
	return b
}

func (lb *logBuilder) tail(b []byte) []byte {
	if lb.checksum >= ChecksumV2 {
		be.PutUint32(b[lb.bs-4:], disk.CRC32C(lb.seed(), b))
	}
	return b
}

// write is one logged block.
type write struct {
	home uint64
	data []byte
}

// fill is a block of content that tells its number and version.
func (lb *logBuilder) fill(home uint64, version byte) write {
	return write{home, bytes.Repeat([]byte{byte(home), byte(home >> 8), version, 0x5A}, lb.bs/4)}
}

// descriptor logs blocks and returns where in the log the descriptor is.
func (lb *logBuilder) descriptor(ws ...write) uint32 {
	d := lb.header(DescriptorBlock)
	off := 12
	var logged [][]byte
	for i, w := range ws {
		data := bytes.Clone(w.data)
		flags := uint16(0)
		if be.Uint32(data) == magicNumber {
			clear(data[:4])
			flags |= TagEscape
		}
		withUUID := i == 0 && lb.uuidTags
		if !withUUID {
			flags |= TagSameUUID
		}
		if i == len(ws)-1 {
			flags |= TagLast
		}
		var seq [4]byte
		be.PutUint32(seq[:], lb.tid)
		sum := disk.CRC32C(disk.CRC32C(lb.seed(), seq[:]), data)
		be.PutUint32(d[off:], uint32(w.home))
		if lb.checksum == ChecksumV3 {
			be.PutUint32(d[off+4:], uint32(flags))
			be.PutUint32(d[off+8:], uint32(w.home>>32))
			be.PutUint32(d[off+12:], sum)
			off += 16
		} else {
			be.PutUint16(d[off+6:], flags)
			if lb.checksum == ChecksumV2 {
				be.PutUint16(d[off+4:], uint16(sum))
				off += 2
			}
			if lb.wide {
				be.PutUint32(d[off+8-2*btoi(lb.checksum == ChecksumV2):], uint32(w.home>>32))
				off += 4
			}
			off += 8
		}
		if withUUID {
			copy(d[off:], lb.uuid[:])
			off += 16
		}
		logged = append(logged, data)
	}
	at := lb.put(lb.tail(d))
	lb.sum = crc32BE(lb.sum, d)
	for _, data := range logged {
		lb.put(data)
		lb.sum = crc32BE(lb.sum, data)
	}
	return at
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

func (lb *logBuilder) revoke(homes ...uint64) uint32 {
	b := lb.header(RevokeBlock)
	off := 16
	for _, h := range homes {
		if lb.wide {
			be.PutUint64(b[off:], h)
			off += 8
		} else {
			be.PutUint32(b[off:], uint32(h))
			off += 4
		}
	}
	be.PutUint32(b[12:], uint32(off))
	return lb.put(lb.tail(b))
}

func (lb *logBuilder) commit() uint32 {
	b := lb.header(CommitBlock)
	be.PutUint64(b[0x30:], lb.time)
	switch lb.checksum {
	case ChecksumV1:
		b[0x0C], b[0x0D] = 1, 4
		be.PutUint32(b[0x10:], lb.sum)
	case ChecksumV2, ChecksumV3:
		be.PutUint32(b[0x10:], disk.CRC32C(lb.seed(), b))
	}
	at := lb.put(b)
	lb.tid++
	lb.time++
	lb.sum = ^uint32(0)
	return at
}

// transaction is the usual one: blocks, with a version, and a commit.
func (lb *logBuilder) transaction(version byte, homes ...uint64) {
	var ws []write
	for _, h := range homes {
		ws = append(ws, lb.fill(h, version))
	}
	lb.descriptor(ws...)
	lb.commit()
}

// superblock finishes the image.
func (lb *logBuilder) superblock() []byte {
	b := lb.block(lb.at)
	clear(b)
	be.PutUint32(b[0x00:], magicNumber)
	be.PutUint32(b[0x04:], uint32(SuperblockV2))
	be.PutUint32(b[0x0C:], uint32(lb.bs))
	be.PutUint32(b[0x10:], lb.maxLen)
	be.PutUint32(b[0x14:], lb.first)
	be.PutUint32(b[0x18:], lb.sequence)
	be.PutUint32(b[0x1C:], lb.start)
	if lb.v1Super {
		be.PutUint32(b[0x04:], uint32(SuperblockV1))
		return b
	}
	incompat := uint32(IncompatRevoke)
	if lb.wide {
		incompat |= Incompat64Bit
	}
	if lb.async {
		incompat |= IncompatAsyncCommit
	}
	if lb.fc != 0 {
		incompat |= IncompatFastCommit
		be.PutUint32(b[0x54:], lb.fc)
	}
	switch lb.checksum {
	case ChecksumV1:
		be.PutUint32(b[0x24:], CompatChecksum)
	case ChecksumV2:
		incompat |= IncompatChecksumV2
	case ChecksumV3:
		incompat |= IncompatChecksumV3
	}
	be.PutUint32(b[0x28:], incompat)
	copy(b[0x30:], lb.uuid[:])
	be.PutUint32(b[0x40:], 1)
	b[0x50] = 4
	lb.seal()
	return b
}

// seal renews the superblock's checksum.
func (lb *logBuilder) seal() {
	b := lb.block(lb.at)[:1024]
	clear(b[0xFC:0x100])
	if lb.checksum >= ChecksumV2 {
		be.PutUint32(b[0xFC:], disk.CRC32C(^uint32(0), b))
	}
}

// reader finishes the image and counts what is read of it.
func (lb *logBuilder) reader() io.ReaderAt {
	lb.superblock()
	return bytes.NewReader(lb.image)
}

func (lb *logBuilder) options() Options {
	return Options{BlockSize: lb.bs, LogBlocks: uint64(lb.maxLen), Superblock: lb.at, DeviceBlocks: 1 << 40}
}

func (lb *logBuilder) recover() (*Replay, error) {
	j, err := Load(lb.reader(), lb.options())
	if err != nil {
		return nil, err
	}
	return j.Recover()
}
