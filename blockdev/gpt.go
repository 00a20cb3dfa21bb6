package blockdev

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"unicode/utf16"
)

// The GUID partition table is specified in the UEFI specification, chapter 5.
const (
	gptHeaderSize = 92  // without the reserved rest of the sector
	gptEntrySize  = 128 // the smallest; larger ones are powers of two
	gptMaxEntry   = 4096
	gptMaxArray   = 1 << 20 // bytes of all entries: 8192 of the usual size
	gptNameUnits  = 36
	gptSignature  = "EFI PART"
)

// gptHeader is the header of a GPT, in the second sector and in the last.
type gptHeader struct {
	Size        uint32   // 0x0c: of the header in bytes
	CRC         uint32   // 0x10: CRC-32 of the header with this field zero
	MyLBA       uint64   // 0x18: where this header is
	OtherLBA    uint64   // 0x20: where the other copy is
	FirstUsable uint64   // 0x28
	LastUsable  uint64   // 0x30
	DiskGUID    [16]byte // 0x38
	EntriesLBA  uint64   // 0x48
	Entries     uint32   // 0x50: their number
	EntrySize   uint32   // 0x54: in bytes
	EntriesCRC  uint32   // 0x58: CRC-32 of all entries
}

// gptEntry is the entry of one partition.
type gptEntry struct {
	Type       [16]byte             // 0x00: zero when the entry is unused
	GUID       [16]byte             // 0x10
	FirstLBA   uint64               // 0x20
	LastLBA    uint64               // 0x28: inclusive
	Attributes uint64               // 0x30
	Name       [gptNameUnits]uint16 // 0x38: UTF-16, padded with zeros
}

var (
	errGPTSignature = errors.New("no GPT signature")
	errGPTHeader    = errors.New("GPT header size is out of range")
	errGPTChecksum  = errors.New("GPT header checksum does not match")
	errGPTBounds    = errors.New("GPT entry array is out of range")
	errGPTPlace     = errors.New("GPT header is not in the sector it names")
	errGPTEntries   = errors.New("GPT entry array checksum does not match")
)

// decodeGPTHeader decodes and verifies the header in a sector.
func decodeGPTHeader(b []byte) (h gptHeader, err error) {
	if len(b) < gptHeaderSize || string(b[:8]) != gptSignature {
		return h, errGPTSignature
	}
	le := binary.LittleEndian
	h = gptHeader{
		Size:        le.Uint32(b[0x0c:]),
		CRC:         le.Uint32(b[0x10:]),
		MyLBA:       le.Uint64(b[0x18:]),
		OtherLBA:    le.Uint64(b[0x20:]),
		FirstUsable: le.Uint64(b[0x28:]),
		LastUsable:  le.Uint64(b[0x30:]),
		DiskGUID:    [16]byte(b[0x38:]),
		EntriesLBA:  le.Uint64(b[0x48:]),
		Entries:     le.Uint32(b[0x50:]),
		EntrySize:   le.Uint32(b[0x54:]),
		EntriesCRC:  le.Uint32(b[0x58:]),
	}
	if h.Size < gptHeaderSize || uint64(h.Size) > uint64(len(b)) {
		return h, errGPTHeader
	}
	var zero [4]byte
	sum := crc32.ChecksumIEEE(b[:0x10])
	sum = crc32.Update(sum, crc32.IEEETable, zero[:])
	sum = crc32.Update(sum, crc32.IEEETable, b[0x14:h.Size])
	if sum != h.CRC {
		return h, errGPTChecksum
	}
	if h.EntrySize < gptEntrySize || h.EntrySize > gptMaxEntry || h.EntrySize&(h.EntrySize-1) != 0 ||
		h.Entries == 0 || uint64(h.Entries)*uint64(h.EntrySize) > gptMaxArray {
		return h, errGPTBounds
	}
	return h, nil
}

// decodeGPTEntry decodes the first gptEntrySize bytes of b.
func decodeGPTEntry(b []byte) (e gptEntry) {
	_ = b[gptEntrySize-1]
	le := binary.LittleEndian
	e.Type = [16]byte(b[0x00:])
	e.GUID = [16]byte(b[0x10:])
	e.FirstLBA = le.Uint64(b[0x20:])
	e.LastLBA = le.Uint64(b[0x28:])
	e.Attributes = le.Uint64(b[0x30:])
	for i := range e.Name {
		e.Name[i] = le.Uint16(b[0x38+2*i:])
	}
	return e
}

func (e *gptEntry) used() bool { return e.Type != [16]byte{} }

// name is the partition's label; halves of surrogate pairs are replaced.
func (e *gptEntry) name() string {
	units := e.Name[:]
	for i, u := range units {
		if u == 0 {
			units = units[:i]
			break
		}
	}
	return string(utf16.Decode(units))
}

// partition converts the entry with the given number. It fails when the range
// is upside down or too large to count in bytes.
func (e *gptEntry) partition(number int, sector int64) (Partition, error) {
	limit := uint64(math.MaxInt64 / sector)
	if e.LastLBA < e.FirstLBA || e.LastLBA >= limit {
		return Partition{}, damagedf("partition %d has the impossible range of sectors %d to %d", number, e.FirstLBA, e.LastLBA)
	}
	return Partition{
		Number:     number,
		Offset:     int64(e.FirstLBA) * sector,
		Size:       int64(e.LastLBA-e.FirstLBA+1) * sector,
		SectorSize: int(sector),
		Table:      "gpt",
		Type:       formatGUID(e.Type),
		UUID:       formatGUID(e.GUID),
		Name:       e.name(),
	}, nil
}

// formatGUID formats a GUID, the first three fields of which are little-endian.
func formatGUID(g [16]byte) string {
	le := binary.LittleEndian
	return fmt.Sprintf("%08x-%04x-%04x-%x-%x", le.Uint32(g[0:]), le.Uint16(g[4:]), le.Uint16(g[6:]), g[8:10], g[10:])
}

// readGPT reads the table whose header is in the sector lba. valid tells
// whether there is one and its checksums match; an error beside a valid table
// is about one of its entries.
func readGPT(dev Device, lba, sector int64) (parts []Partition, valid bool, err error) {
	buf := bounce.Get(maxAlign)
	defer bounce.Put(buf)
	if err := readExactly(dev, buf[:sector], lba*sector); err != nil {
		return nil, false, err
	}
	h, err := decodeGPTHeader(buf[:sector])
	if err != nil {
		return nil, false, err
	}
	if h.MyLBA != uint64(lba) {
		return nil, false, errGPTPlace
	}
	size := int64(h.Entries) * int64(h.EntrySize)
	if h.EntriesLBA > uint64(dev.Size()/sector) || int64(h.EntriesLBA)*sector > dev.Size()-size {
		return nil, false, errGPTBounds
	}
	// Entries are powers of two that divide the buffer: none is cut.
	var (
		sum    uint32
		first  error
		number = 1
	)
	for pos := int64(0); pos < size; {
		chunk := buf[:min(int64(len(buf)), size-pos)]
		if err := readExactly(dev, chunk, int64(h.EntriesLBA)*sector+pos); err != nil {
			return nil, false, err
		}
		pos += int64(len(chunk))
		sum = crc32.Update(sum, crc32.IEEETable, chunk)
		for ; len(chunk) > 0; chunk = chunk[h.EntrySize:] {
			if e := decodeGPTEntry(chunk); e.used() {
				p, err := e.partition(number, sector)
				if err == nil {
					parts = append(parts, p)
				} else if first == nil {
					first = err
				}
			}
			number++
		}
	}
	if sum != h.EntriesCRC {
		return nil, false, errGPTEntries
	}
	return parts, true, first
}
