package disk_test

import (
	"bytes"
	"encoding/binary"
	"testing"

	"ext4box/ext4/internal/disk"
	"ext4box/ext4/internal/disktest"
)

func TestEncodeExtentRecords(t *testing.T) {
	for _, c := range []struct {
		what   string
		encode func(b []byte)
		want   string
	}{
		{"header", func(b []byte) {
			disk.EncodeExtentHeader(b, &disk.ExtentHeader{Magic: disk.ExtentMagic, Entries: 0x102, Max: 0x304, Depth: 5, Generation: 0x60708090})
		}, "\x0A\xF3\x02\x01\x04\x03\x05\x00\x90\x80\x70\x60"},
		{"longest written extent", func(b []byte) {
			disk.EncodeExtent(b, &disk.Extent{Block: 0x01020304, Len: 32768, Start: 0xA1A2B1B2B3B4})
		}, "\x04\x03\x02\x01\x00\x80\xA2\xA1\xB4\xB3\xB2\xB1"},
		{"longest unwritten extent", func(b []byte) {
			disk.EncodeExtent(b, &disk.Extent{Block: 0xFFFFFFFE, Len: disk.ExtentMaxUnwritten, Unwritten: true, Start: 7})
		}, "\xFE\xFF\xFF\xFF\xFF\xFF\x00\x00\x07\x00\x00\x00"},
		{"shortest unwritten extent", func(b []byte) {
			disk.EncodeExtent(b, &disk.Extent{Len: 1, Unwritten: true, Start: 7})
		}, "\x00\x00\x00\x00\x01\x80\x00\x00\x07\x00\x00\x00"},
		{"index", func(b []byte) {
			disk.EncodeExtentIndex(b, &disk.ExtentIndex{Block: 0x01020304, Leaf: 0xA1A2B1B2B3B4})
		}, "\x04\x03\x02\x01\xB4\xB3\xB2\xB1\xA2\xA1\x00\x00"},
	} {
		b := bytes.Repeat([]byte{0xEE}, 13)
		if c.encode(b); string(b) != c.want+"\xEE" {
			t.Errorf("%s is %x, want %x", c.what, b, c.want)
		}
	}
}

func TestExtentNodeCapacity(t *testing.T) {
	for size, want := range map[int]int{disk.InodeBlockSize: 4, 1024: 84, 2048: 169, 4096: 340, 65536: 5460} {
		if got := disk.ExtentNodeCapacity(size); got != want {
			t.Errorf("%d bytes have room for %d entries, want %d", size, got, want)
		}
		if room := size - disk.ExtentHeaderSize - want*disk.ExtentEntrySize; size >= 1024 && room < 4 {
			t.Errorf("%d bytes leave %d for the checksum", size, room)
		}
	}
}

func TestSealExtentNode(t *testing.T) {
	node := disktest.ExtentNode(1024, 0, disktest.Written(5, 6, 700), disktest.Unwritten(20, 1, 800))
	want := bytes.Clone(node)
	disktest.SealExtentNode(99, want)
	off := disk.Checksums{}
	got := bytes.Clone(node)
	if off.SealExtentNode(99, got); !bytes.Equal(got, node) {
		t.Error("a checksum is stored in a filesystem without")
	}
	on := disk.Checksums{Metadata: true}
	on.SealExtentNode(99, node)
	if stored, computed, ok := disk.ExtentBlockChecksum(99, node); !bytes.Equal(node, want) || !ok || stored != computed {
		t.Errorf("checksum %#x is stored, %#x is right", stored, computed)
	}
	binary.LittleEndian.PutUint16(node[4:], 85) // leaves no room
	want = bytes.Clone(node)
	if on.SealExtentNode(99, node); !bytes.Equal(node, want) {
		t.Error("a checksum is stored where there is no room")
	}
}

// FuzzEncodeExtent stores what was decoded, which gives the same bytes, but for
// those that mean nothing.
func FuzzEncodeExtent(f *testing.F) {
	f.Add([]byte("\x04\x03\x02\x01\x00\x80\xA2\xA1\xB4\xB3\xB2\xB1"))
	f.Add([]byte("\xFE\xFF\xFF\xFF\xFF\xFF\x00\x00\x07\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, in []byte) {
		in = sized(in, disk.ExtentEntrySize)
		out := make([]byte, len(in))
		e := disk.DecodeExtent(in)
		if disk.EncodeExtent(out, &e); !bytes.Equal(in, out) {
			t.Errorf("extent %x became %x", in, out)
		}
		x := disk.DecodeExtentIndex(in)
		if disk.EncodeExtentIndex(out, &x); !bytes.Equal(in[:10], out[:10]) || out[10]|out[11] != 0 {
			t.Errorf("index %x became %x", in, out)
		}
		h := disk.DecodeExtentHeader(in)
		if disk.EncodeExtentHeader(out, &h); !bytes.Equal(in, out) {
			t.Errorf("header %x became %x", in, out)
		}
	})
}
