package blockdev

import (
	"encoding/binary"
	"fmt"
)

// The master boot record, and the extended boot records that chain logical
// partitions, have no standard; the layout is that of the IBM PC.
const (
	mbrSize          = 512
	mbrEntrySize     = 16
	mbrEntries       = 4
	mbrOffDiskID     = 0x1b8
	mbrOffEntries    = 0x1be
	mbrOffSignature  = 0x1fe
	mbrSignature     = 0xaa55
	mbrTypeEmpty     = 0x00
	mbrTypeExtended  = 0x05
	mbrTypeExtLBA    = 0x0f
	mbrTypeExtLinux  = 0x85
	mbrTypeGPT       = 0xee
	mbrStatusActive  = 0x80
	mbrFirstLogical  = 5
	mbrMaxExtRecords = 256 // Linux stops at 256 partitions
)

// mbrEntry is one of the four entries of a boot record.
type mbrEntry struct {
	Status  uint8  // 0x00: 0x80 when active, otherwise 0
	Type    uint8  // 0x04: after three bytes of cylinder, head and sector
	Start   uint32 // 0x08: in sectors; in an extended boot record relative
	Sectors uint32 // 0x0c
}

// mbrRecord is a master or extended boot record.
type mbrRecord struct {
	DiskID  uint32               // 0x1b8
	Entries [mbrEntries]mbrEntry // 0x1be
}

// decodeMBR decodes the boot record in b, if there is one. Boot sectors of
// filesystems carry the same signature; the status bytes tell them apart.
func decodeMBR(b []byte) (r mbrRecord, ok bool) {
	if len(b) < mbrSize || binary.LittleEndian.Uint16(b[mbrOffSignature:]) != mbrSignature {
		return r, false
	}
	r.DiskID = binary.LittleEndian.Uint32(b[mbrOffDiskID:])
	for i := range r.Entries {
		r.Entries[i] = decodeMBREntry(b[mbrOffEntries+i*mbrEntrySize:])
		if s := r.Entries[i].Status; s != 0 && s != mbrStatusActive {
			return mbrRecord{}, false
		}
	}
	return r, true
}

// decodeMBREntry decodes the first mbrEntrySize bytes of b.
func decodeMBREntry(b []byte) mbrEntry {
	_ = b[mbrEntrySize-1]
	return mbrEntry{
		Status:  b[0x00],
		Type:    b[0x04],
		Start:   binary.LittleEndian.Uint32(b[0x08:]),
		Sectors: binary.LittleEndian.Uint32(b[0x0c:]),
	}
}

// used tells whether the entry describes anything.
func (e mbrEntry) used() bool { return e.Type != mbrTypeEmpty && e.Sectors != 0 }

// extended tells whether the entry is a container of logical partitions.
func (e mbrEntry) extended() bool {
	return e.used() && (e.Type == mbrTypeExtended || e.Type == mbrTypeExtLBA || e.Type == mbrTypeExtLinux)
}

// protective tells whether the record says that the disk has a GPT.
func (r *mbrRecord) protective() bool {
	for _, e := range r.Entries {
		if e.Type == mbrTypeGPT {
			return true
		}
	}
	return false
}

// mbrTable reads the partitions of an MBR.
type mbrTable struct {
	dev    Device
	sector int64
	record mbrRecord
	parts  []Partition
}

// read returns the partitions, numbered as Linux does. With an error they are
// those that were found before the damage.
func (t *mbrTable) read() ([]Partition, error) {
	for i, e := range t.record.Entries {
		if e.used() {
			t.add(i+1, int64(e.Start), e)
		}
	}
	next, records := mbrFirstLogical, 0
	for _, e := range t.record.Entries {
		if !e.extended() {
			continue
		}
		if err := t.readChain(int64(e.Start), &next, &records); err != nil {
			return t.parts, err
		}
	}
	return t.parts, nil
}

// readChain follows the chain of extended boot records in the extended
// partition that starts at sector first. Each has a logical partition, relative
// to itself, and a link to the next record, relative to first. The number of
// records is bounded, so a chain that loops ends.
func (t *mbrTable) readChain(first int64, next, records *int) error {
	var buf [mbrSize]byte
	for at := first; ; {
		if *records++; *records > mbrMaxExtRecords {
			return damagedf("its logical partitions form a loop or are more than %d", mbrMaxExtRecords)
		}
		if err := readExactly(t.dev, buf[:], at*t.sector); err != nil {
			return fmt.Errorf("extended boot record in sector %d: %w", at, err)
		}
		r, ok := decodeMBR(buf[:])
		if !ok {
			if at == first {
				return nil // an extended partition that nobody has put anything into
			}
			return damagedf("there is no extended boot record in sector %d", at)
		}
		link := int64(-1)
		for _, e := range r.Entries {
			switch {
			case e.extended():
				if link < 0 {
					link = int64(e.Start)
				}
			case e.used():
				t.add(*next, at+int64(e.Start), e)
				*next++
			}
		}
		if link < 0 {
			return nil
		}
		at = first + link
	}
}

// add notes a partition. The sector numbers have 33 bits at most, so bytes
// do not overflow.
func (t *mbrTable) add(number int, start int64, e mbrEntry) {
	t.parts = append(t.parts, Partition{
		Number:     number,
		Offset:     start * t.sector,
		Size:       int64(e.Sectors) * t.sector,
		SectorSize: int(t.sector),
		Table:      "mbr",
		Type:       fmt.Sprintf("0x%02x", e.Type),
		UUID:       fmt.Sprintf("%08x-%02x", t.record.DiskID, number),
		Extended:   e.extended(),
	})
}

// chainAt tells whether the first extended partition, counted in sectors of the
// given size, has an extended boot record: the one hint at the sector size that
// an MBR has.
func (r *mbrRecord) chainAt(dev Device, sector int64) bool {
	var buf [mbrSize]byte
	for _, e := range r.Entries {
		if e.extended() {
			if readExactly(dev, buf[:], int64(e.Start)*sector) != nil {
				return false
			}
			_, ok := decodeMBR(buf[:])
			return ok
		}
	}
	return false
}
