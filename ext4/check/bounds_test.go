package check_test

import (
	"encoding/binary"
	"os"
	"testing"

	"ext4box/blockdev"
	"ext4box/ext4/check"
	"ext4box/internal/e2test"
)

// TestWindows: with less memory than the claims of all groups need, the report is
// the same, also of what is damaged.
func TestWindows(t *testing.T) {
	files := map[string]string{}
	for i := range 600 {
		files[string(rune('a'+i%26))+string(rune('a'+i/26))] = "a file that has a block of its own"
	}
	img := e2test.Image(t, 256<<20, "-t", "ext4", "-b", "1024", "-g", "256", "-O", "^metadata_csum,^uninit_bg,^flex_bg", "-J", "size=4", "-d", e2test.Tree(t, files))
	e2test.Change(t, img, "setb 40000 5", "setb 70001 3")
	// Two files have a block of the last groups in common.
	e2test.Change(t, img, "sif aa block[5] 260000", "sif ba block[5] 260000")
	whole := checkImage(t, img, check.Options{Memory: 64 << 20})
	if whole.Classes[check.MultiplyClaimed] != 2 {
		t.Fatalf("the damage was not found: %+v", whole.Findings)
	}
	for _, o := range []check.Options{{Memory: 128 << 10}, {Workers: 1}, {Workers: 5}} {
		r := checkImage(t, img, o)
		if o.Memory != 0 && r.Scans < 3 {
			t.Errorf("%+v: %d scans of the inodes, so this does not test them", o, r.Scans)
		}
		if len(r.Findings) != len(whole.Findings) || r.BlocksUsed != whole.BlocksUsed {
			t.Fatalf("%+v: %d findings instead of %d, %d blocks instead of %d", o, len(r.Findings), len(whole.Findings), r.BlocksUsed, whole.BlocksUsed)
		}
		for i, f := range r.Findings {
			if w := whole.Findings[i]; f.Class != w.Class || f.Text != w.Text {
				t.Errorf("%+v: finding %d is %q instead of %q", o, i, f.Text, w.Text)
			}
		}
	}
}

// TestHuge: an image of 16 TiB, of which little exists, is checked whole.
func TestHuge(t *testing.T) {
	if os.Getenv("EXT4BOX_CHECK_HUGE") == "" {
		t.Skip("takes 20 seconds: set EXT4BOX_CHECK_HUGE")
	}
	img := e2test.Image(t, 16<<40-1<<30, "-t", "ext4", "-m", "0", "-E", "lazy_itable_init=1,lazy_journal_init=1,nodiscard",
		"-O", "^resize_inode", "-N", "1000000")
	r := checkImage(t, img, check.Options{})
	if !r.Clean() {
		t.Errorf("a fresh image has %+v", r.Findings[:min(len(r.Findings), 3)])
	}
}

// TestBeyondDevice: a superblock that promises more groups than the device has ends
// the check instead of occupying it.
func TestBeyondDevice(t *testing.T) {
	img := e2test.Image(t, 16<<20, "-t", "ext4", "-b", "1024", "-O", "^metadata_csum,^resize_inode,64bit", "-N", "512")
	sb := e2test.Bytes(t, img, 1024, 1024)
	perGroup := binary.LittleEndian.Uint32(sb[0x28:])
	const groups = 1 << 19
	e2test.Patch(t, img, 1024, binary.LittleEndian.AppendUint32(nil, groups*perGroup))
	e2test.Patch(t, img, 1024+0x150, binary.LittleEndian.AppendUint32(nil, groups*8192>>32))
	e2test.Patch(t, img, 1024+0x4, binary.LittleEndian.AppendUint32(nil, groups*8192&0xFFFFFFFF+1))
	dev, err := blockdev.Open(img, blockdev.Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer dev.Close()
	r, err := check.Check(t.Context(), dev, check.Options{})
	if err != nil || r.Clean() || check.ExitStatus(r, err) != check.ExitFailure|check.ExitErrors {
		t.Errorf("status %d, %v, %+v", check.ExitStatus(r, err), err, r.Findings)
	}
}
