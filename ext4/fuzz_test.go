package ext4_test

import (
	"bytes"
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

// fuzzed works on an image as TestMutants does.
func fuzzed(t *testing.T, name string, dev *blocktest.Mem, m *mutate.Mutant) {
	g := &guard{Mem: dev, may: allowanceOf(dev)}
	var sum mutantSum
	err := bounded(name, func() error {
		return errors.Join(readAll(g, &sum), workOn(g, m, rand.New(rand.NewPCG(1, 77)), &sum))
	})
	if err = errors.Join(err, g.wrong()); err != nil {
		t.Errorf("%s: %v", name, err)
	}
}

// FuzzMutant takes its input for the choices that make a mutant of an image with checksums and a journal.
func FuzzMutant(f *testing.F) {
	base := fuzzBase(f, 8<<20, testimage.Small, "-t ext4 -b 1024 -J size=1 -N 1024 -O inline_data,orphan_file,quota -E orphan_file_size=4")
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

// FuzzImage takes its input for an image, of which mutants are where it begins. There are no checksums, which it
// would not find.
func FuzzImage(f *testing.F) {
	base := fuzzBase(f, 1<<20, testimage.Tiny, "-t ext4 -b 1024 -N 128 -O ^has_journal,^metadata_csum,^64bit,^resize_inode,inline_data")
	sound := base.Craft("sound", func(*mutate.Editor) {})
	for seed := range uint64(30) {
		m := base.Mutant(seed)
		image := make([]byte, m.Size)
		if _, err := m.Device().ReadAt(image, 0); err != nil {
			f.Fatal(err)
		}
		f.Add(image)
	}
	f.Fuzz(func(t *testing.T, image []byte) {
		fuzzed(t, "an image", blocktest.NewOverlay(bytes.NewReader(image), int64(min(len(image), 4<<20))), sound)
	})
}
