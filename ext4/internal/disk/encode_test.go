package disk

import (
	"bytes"
	"math/rand/v2"
	"os/exec"
	"path/filepath"
	"testing"
)

// noise fills b with values that a decoder must keep apart.
func noise(b []byte, seed uint64) {
	rng := rand.New(rand.NewPCG(seed, 1))
	for i := range b {
		b[i] = byte(rng.Uint32())
	}
}

func TestGroupDescRoundTrip(t *testing.T) {
	for _, size := range []int{32, 64, 128} {
		for seed := range uint64(50) {
			raw := make([]byte, size)
			noise(raw, seed)
			want := bytes.Clone(raw)
			d := DecodeGroupDesc(raw)
			// Into other noise: all that belongs to a field must be written.
			EncodeGroupDesc(raw, &d)
			if !bytes.Equal(raw, want) {
				t.Fatalf("size %d: %x became %x", size, want, raw)
			}
			other := make([]byte, size)
			noise(other, seed+1000)
			EncodeGroupDesc(other, &d)
			if DecodeGroupDesc(other) != d {
				t.Fatalf("size %d: %+v became %+v", size, d, DecodeGroupDesc(other))
			}
		}
	}
}

func TestSuperblockRoundTrip(t *testing.T) {
	for seed := range uint64(100) {
		raw := make([]byte, SuperblockSize)
		noise(raw, seed)
		if seed%3 == 0 {
			copy(raw[0x4C:], []byte{0, 0, 0, 0}) // revision 0
		}
		want := bytes.Clone(raw)
		sb := DecodeSuperblock(raw)
		EncodeSuperblock(raw, &sb)
		if !bytes.Equal(raw, want) {
			t.Fatalf("seed %d: the superblock has changed", seed)
		}
		other := make([]byte, SuperblockSize)
		noise(other, seed+1000)
		EncodeSuperblock(other, &sb)
		if got := DecodeSuperblock(other); got != sb {
			t.Fatalf("seed %d:\n%+v became\n%+v", seed, sb, got)
		}
	}
}

// TestSealedSuperblock rewrites the superblock of a real image; e2fsck judges.
func TestSealedSuperblock(t *testing.T) {
	for _, tool := range []string{"mke2fs", "e2fsck", "dumpe2fs"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skip(tool + " is not installed")
		}
	}
	path := filepath.Join(t.TempDir(), "image")
	f := createSparse(t, path, 16<<20)
	defer f.Close()
	if out, err := exec.Command("mke2fs", "-q", "-F", "-t", "ext4", path).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	raw := make([]byte, SuperblockSize)
	if _, err := f.ReadAt(raw, SuperblockOffset); err != nil {
		t.Fatal(err)
	}
	sb := DecodeSuperblock(raw)
	sums := sb.Checksums()
	sb.MountCount, sb.MountTime = 77, 1<<30
	copy(sb.LastMounted[:], "/somewhere")
	EncodeSuperblock(raw, &sb)
	sums.SealSuperblock(raw)
	if _, err := f.WriteAt(raw, SuperblockOffset); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("e2fsck", "-fn", path).CombinedOutput(); err != nil {
		t.Errorf("e2fsck: %v\n%s", err, out)
	}
	out, _ := exec.Command("dumpe2fs", "-h", path).CombinedOutput()
	for _, want := range []string{"/somewhere", "Mount count:              77", "2004"} {
		if !bytes.Contains(out, []byte(want)) {
			t.Errorf("dumpe2fs does not show %q:\n%s", want, out)
		}
	}
}
