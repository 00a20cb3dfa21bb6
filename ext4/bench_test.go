package ext4_test

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"testing"

	"ext4box/blockdev"
	"ext4box/ext4"
)

// BenchmarkCreateWrite makes files of 4 KiB in one directory.
func BenchmarkCreateWrite(b *testing.B) {
	img := filepath.Join(b.TempDir(), "a.img")
	if out, err := exec.Command("mke2fs", "-q", "-F", "-t", "ext4", "-N", "2000000", img, "8G").CombinedOutput(); err != nil {
		b.Skipf("mke2fs: %v\n%s", err, out)
	}
	dev, err := blockdev.Open(img, blockdev.Options{})
	if err != nil {
		b.Fatal(err)
	}
	fs, err := ext4.Open(dev, ext4.Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer fs.Close()
	data := make([]byte, 4096)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		ino, err := fs.Create(ext4.RootIno, fmt.Sprintf("file%d", i), ext4.NewNode{Mode: 0o100644})
		if err != nil {
			b.Fatal(err)
		}
		if _, err := fs.WriteAt(ino, data, 0); err != nil {
			b.Fatal(err)
		}
	}
}
