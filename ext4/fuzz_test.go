package ext4_test

import (
	"errors"
	"math/rand/v2"
	"strings"
	"testing"

	"ext4box/blockdev/blocktest"
	"ext4box/ext4/mutate"
	"ext4box/internal/testimage"
)

// fuzzBase is a base for fuzzing that needs no kernel.
func fuzzBase(f *testing.F, size int64, level testimage.Level, args string) *mutate.Base {
	f.Helper()
	base, err := mutate.Load(testimage.Build(f, f.TempDir(), testimage.Config{
		Name: "image", Size: size, Args: strings.Fields(args), Level: level, Oracle: testimage.Debugfs}).Path)
	if err != nil {
		f.Fatal(err)
	}
	return base
}

// fuzzed works on an image as TestMutants does, but less, alone and without a clock: where the same input covers other
// code each time the engine of fuzzing spends its time on making inputs small that are not new.
func fuzzed(t *testing.T, name string, dev *blocktest.Mem, m *mutate.Mutant) {
	g := &guard{Mem: dev, may: allowanceOf(dev, nil)}
	var sum mutantSum
	err := bounded(name, func() error {
		return errors.Join(readAll(g, nil, &sum), workload{users: 1, steps: 40}.workOn(g, nil, m, rand.New(rand.NewPCG(1, 77)), &sum))
	})
	if err = errors.Join(err, g.wrong()); err != nil {
		t.Errorf("%s: %v", name, err)
	}
}

// FuzzMutant takes its input for the choices that make a mutant of an image with checksums and a journal.
func FuzzMutant(f *testing.F) {
	base := fuzzBase(f, 8<<20, testimage.Small, "-t ext4 -b 1024 -J size=1 -N 512 -O inline_data,orphan_file,quota -E orphan_file_size=4")
	rng := rand.New(rand.NewPCG(1, 2))
	for range 50 {
		seed := make([]byte, 10+rng.IntN(100))
		for i := range seed {
			seed[i] = byte(rng.Uint32())
		}
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		m := base.FromBytes(data)
		fuzzed(t, m.String(), m.Device(), m)
	})
}

// FuzzImage takes its input for bytes of an image that differ: three bytes for the offset, one for how many. There are
// no checksums, which it would not find.
func FuzzImage(f *testing.F) {
	base := fuzzBase(f, 1<<20, testimage.Tiny, "-t ext4 -b 1024 -N 128 -O ^has_journal,^metadata_csum,^64bit,^resize_inode,inline_data")
	sound := base.Craft("sound", func(*mutate.Editor) {})
	for seed := range uint64(30) {
		var patches []byte
		for _, e := range base.Mutant(seed).Edits() {
			for off, b := e.Off, e.New; len(b) > 0 && len(patches) < 200; {
				n := min(len(b), 255)
				patches = append(patches, byte(off>>16), byte(off>>8), byte(off), byte(n))
				patches = append(patches, b[:n]...)
				off, b = off+int64(n), b[n:]
			}
		}
		f.Add(patches)
	}
	f.Fuzz(func(t *testing.T, patches []byte) {
		dev := sound.Device()
		for b := patches; len(b) > 4; {
			off, n := int64(b[0])<<16|int64(b[1])<<8|int64(b[2]), min(int(b[3]), len(b)-4)
			if _, err := dev.WriteAt(b[4:4+n], off%(dev.Size()-255)); err != nil {
				t.Fatal(err)
			}
			b = b[4+n:]
		}
		fuzzed(t, "an image", dev, sound)
	})
}
