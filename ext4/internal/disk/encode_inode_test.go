package disk

import (
	"bytes"
	"testing"

	"pgregory.net/rapid"
)

func TestEncodeInodeInvertsDecode(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		size := rapid.SampledFrom([]int{128, 256, 512}).Draw(t, "size")
		raw := rapid.SliceOfN(rapid.Byte(), size, size).Draw(t, "raw")
		if size > 128 {
			raw[0x80], raw[0x81] = byte(rapid.IntRange(0, 8).Draw(t, "extra")*4), 0
		}
		in := DecodeInode(raw, false)
		seed := rapid.Uint32().Draw(t, "seed")
		SealInode(seed, raw)
		again := bytes.Clone(raw)
		EncodeInode(again, &in, false)
		SealInode(seed, again)
		if !bytes.Equal(raw, again) {
			t.Fatalf("inode changes from\n%x to\n%x", raw, again)
		}
		check := DecodeInode(again, false)
		if sum := InodeChecksum(seed, again, check.HasHiCsum); sum != check.Checksum {
			t.Fatalf("sealed with %#x, computed %#x", check.Checksum, sum)
		}
	})
}

func TestEncodeTimeClampsToWhatFits(t *testing.T) {
	for _, c := range []struct {
		sec      int64
		hasExtra bool
		want     int64
	}{
		{-1 << 31, false, -1 << 31}, {-1<<31 - 1, false, -1 << 31}, {1<<31 - 1, false, 1<<31 - 1}, {1 << 31, false, 1<<31 - 1},
		{1 << 31, true, 1 << 31}, {-1, true, -1}, {-1<<31 + 1<<34 - 1, true, -1<<31 + 1<<34 - 1}, {1 << 40, true, -1<<31 + 1<<34 - 1},
	} {
		secs, extra := EncodeTime(Timestamp{Sec: c.sec, Nsec: 7}, c.hasExtra)
		got := DecodeTime(secs, extra)
		if got.Sec != c.want || c.hasExtra && got.Nsec != 7 {
			t.Errorf("EncodeTime(%d, %v) comes back as %+v, want %d", c.sec, c.hasExtra, got, c.want)
		}
	}
}

func TestRdevRoundTrip(t *testing.T) {
	for _, d := range [][2]uint32{{0, 0}, {8, 1}, {255, 255}, {256, 1}, {1, 256}, {4095, 1<<20 - 1}} {
		var in Inode
		in.SetRdev(d[0], d[1])
		if major, minor := in.Rdev(); major != d[0] || minor != d[1] {
			t.Errorf("device %v comes back as %d:%d", d, major, minor)
		}
	}
}
