package blockdev

import (
	"errors"
	"fmt"
	"io"
	"syscall"
)

// Partition is an entry of a partition table. Nothing about it has been checked
// against the device.
type Partition struct {
	Number     int    // as Linux counts: the 2 of /dev/sda2
	Offset     int64  // in bytes from the start of the device
	Size       int64  // in bytes
	SectorSize int    // in bytes, of the table that the entry is from
	Table      string // "gpt" or "mbr"
	Type       string // a GUID, or a number such as "0x83"
	UUID       string // what /dev/disk/by-partuuid calls it
	Name       string // its label; MBR partitions have none
	Extended   bool   // a container of logical partitions, not of a filesystem
}

// ListPartitions reads the partition table of dev: a GPT, from its backup at
// the end of the device when the primary one is damaged, or else an MBR with
// its logical partitions. The sector size is that of dev; where dev does not
// know it, 512 and 4096 are tried. In an MBR these can only be told apart by its
// logical partitions, so one without them is taken to count in 512 bytes.
//
// A device without a partition table is an error that is ENXIO. A damaged table
// is one that is EUCLEAN, beside the partitions that could be read.
func ListPartitions(dev Device) ([]Partition, error) {
	parts, err := readTable(dev, SectorSize(dev))
	return parts, nameError(Name(dev), err)
}

// nameError puts the name of the device before an error about its table. Errors
// of the device itself have it.
func nameError(name string, err error) error {
	if err == nil || errors.As(err, new(*Error)) {
		return err
	}
	return fmt.Errorf("%s: %w", name, err)
}

// readTable reads the partition table of dev that counts in sectors of the
// given size; 0 means to try.
func readTable(dev Device, sector int) ([]Partition, error) {
	sectors := []int64{512, 4096}
	if sector != 0 {
		sectors = []int64{int64(sector)}
	}
	noTable := causef(syscall.ENXIO, "there is no partition table; name the image without a partition")
	if dev.Size() < mbrSize {
		return nil, noTable
	}
	var buf [mbrSize]byte
	if err := readExactly(dev, buf[:], 0); err != nil {
		return nil, err
	}
	mbr, haveMBR := decodeMBR(buf[:])

	// A GPT counts when the MBR says so. Without a valid MBR, which somebody
	// may have overwritten, it counts as well; with one it is a leftover.
	if protective := haveMBR && mbr.protective(); protective || !haveMBR {
		parts, valid, err := findGPT(dev, sectors)
		switch {
		case valid:
			return parts, err
		case errors.As(err, new(*Error)):
			return nil, err // the device, not the table
		case protective:
			return nil, causef(syscall.EUCLEAN, "its GPT and the backup of it are damaged (%v); repair it, or use the offset of the partition", err)
		}
		return nil, noTable
	}

	size := sectors[0]
	if len(sectors) > 1 && !mbr.chainAt(dev, sectors[0]) && mbr.chainAt(dev, sectors[1]) {
		size = sectors[1]
	}
	t := mbrTable{dev: dev, sector: size, record: mbr}
	return t.read()
}

// findGPT reads the first valid GPT: the primary ones of all sector sizes, then
// the backups. If there is none, err is why the first one was refused.
func findGPT(dev Device, sectors []int64) (parts []Partition, valid bool, err error) {
	var why error
	for _, backup := range []bool{false, true} {
		for _, sector := range sectors {
			lba := int64(1)
			if backup {
				lba = dev.Size()/sector - 1
			}
			if lba < 1 {
				continue
			}
			parts, valid, err := readGPT(dev, lba, sector)
			if valid {
				return parts, true, err
			}
			if why == nil || why == errGPTSignature {
				why = err
			}
		}
	}
	return nil, false, why
}

// damagedf builds the error for a partition table that contradicts itself.
func damagedf(format string, args ...any) error {
	return causef(syscall.EUCLEAN, "the partition table is damaged: "+format, args...)
}

// readExactly fills p from off. Reaching the end of the device is EUCLEAN: a
// table pointed there.
func readExactly(dev Device, p []byte, off int64) error {
	if off < 0 || off > dev.Size()-int64(len(p)) {
		return damagedf("it refers to byte %d, past the end of the device", off)
	}
	n, err := dev.ReadAt(p, off)
	if n == len(p) {
		return nil
	}
	if err == nil || err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return err
}
