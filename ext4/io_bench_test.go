package ext4_test

import (
	"math/rand/v2"
	"testing"

	"ext4box/blockdev"
	"ext4box/ext4"
	"ext4box/iomap"
)

// BenchmarkMapping asks where random blocks of a file of many extents are: what
// a random read costs before any data moves.
func BenchmarkMapping(b *testing.B) {
	fs, img := newBenchFS(b, 256<<20)
	ino, err := fs.Create(ext4.RootIno, "f", ext4.NewNode{Mode: 0o100644})
	if err != nil {
		b.Fatal(err)
	}
	const blocks = 8000
	block := make([]byte, 4096)
	for i := range int64(blocks) {
		if _, err := fs.WriteAt(ino, block, i*2*4096); err != nil {
			b.Fatal(err)
		}
	}
	rng := rand.New(rand.NewPCG(1, 2))
	for name, op := range map[string]iomap.Op{"read": iomap.Read, "overwrite": iomap.Write} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := fs.Begin(ino, rng.Uint64N(blocks)*2*4096, 4096, op); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	if err := fs.Close(); err != nil {
		b.Fatal(err)
	}
	b.Run("load", func(b *testing.B) { // opening anew, with nothing cached
		b.ReportAllocs()
		for b.Loop() {
			dev, err := blockdev.Open(img, blockdev.Options{ReadOnly: true})
			if err != nil {
				b.Fatal(err)
			}
			fs, err := ext4.Open(dev, ext4.Options{ReadOnly: true})
			if err != nil {
				b.Fatal(err)
			}
			if _, err := fs.Begin(ino, 0, 4096, iomap.Read); err != nil {
				b.Fatal(err)
			}
			_ = fs.Close()
		}
	})
}
