package check_test

import (
	"context"
	"encoding/binary"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"testing"
	"time"

	"ext4box/blockdev"
	"ext4box/ext4/check"
	"ext4box/ext4/mutate"
	"ext4box/internal/testimage"
)

// checkMutant checks a mutant, which is written to path.
func checkMutant(t *testing.T, m *mutate.Mutant, path string, o check.Options) (*check.Report, error) {
	t.Helper()
	os.Remove(path)
	if err := m.WriteFile(path); err != nil {
		t.Fatal(err)
	}
	dev, err := blockdev.Open(path, blockdev.Options{ReadOnly: true, Buffered: true})
	if err != nil {
		t.Fatal(err)
	}
	defer dev.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	return check.Check(ctx, dev, o)
}

// mutantBase is an image to make mutants of.
func mutantBase(tb testing.TB, c testimage.Config) *mutate.Base {
	tb.Helper()
	dir, err := os.MkdirTemp("", "check")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { os.RemoveAll(dir) })
	base, err := mutate.Load(testimage.Build(tb, dir, c).Path)
	if err != nil {
		tb.Fatal(err)
	}
	return base
}

// TestWorkers: what is reported of damage does not depend on how many look for it.
func TestWorkers(t *testing.T) {
	n := 15
	if os.Getenv("EXT4BOX_CHECK_MUTANTS") != "" {
		n = 200
	}
	path := filepath.Join(t.TempDir(), "mutant")
	for _, c := range mutantShapes() {
		if !slices.Contains([]string{"modern", "indirect", "mmp-metabg"}, c.Name) {
			continue
		}
		base := mutantBase(t, c)
		for seed := range uint64(n) {
			m := base.Mutant(3_000_000 + seed)
			one, err1 := checkMutant(t, m, path, check.Options{Workers: 1})
			five, err5 := checkMutant(t, m, path, check.Options{Workers: 5})
			if err1 != nil || err5 != nil {
				t.Errorf("%s, %v: %v with one worker, %v with five", c.Name, m, err1, err5)
			}
			// Which of the inodes that share nodes is the last to be followed is up to chance.
			if len(one.Warnings) == 0 && !reflect.DeepEqual(one, five) {
				t.Errorf("%s, %v: the report is another one with five workers", c.Name, m)
			}
		}
	}
}

// FuzzCheck: whatever the mutator does, a check ends, and without a panic.
func FuzzCheck(f *testing.F) {
	var bases []*mutate.Base
	for _, c := range mutantShapes() {
		if c.Name == "modern" || c.Name == "indirect" {
			bases = append(bases, mutantBase(f, c))
		}
	}
	for seed := range uint64(4) {
		f.Add(binary.LittleEndian.AppendUint64([]byte{byte(seed)}, seed))
	}
	f.Fuzz(func(t *testing.T, choices []byte) {
		if len(choices) == 0 {
			return
		}
		m := bases[int(choices[0])%len(bases)].FromBytes(choices[1:])
		path := filepath.Join(t.TempDir(), "mutant")
		if _, err := checkMutant(t, m, path, check.Options{Memory: 8 << 20}); errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v: the check takes more than a minute", m)
		}
	})
}

// heapAbove is what a check adds to the live heap, in bytes, looked at now and then.
func heapAbove(t *testing.T, dev blockdev.Device, o check.Options) (most uint64, r *check.Report, err error) {
	t.Helper()
	live := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before, last := live(), -1
	o.Progress = func(p check.Progress) {
		if at := p.Pass*8 + int(8*p.Done/max(p.Total, 1)); at != last {
			last = at
			if now := live(); now > before {
				most = max(most, now-before)
			}
		}
	}
	r, err = check.Check(t.Context(), dev, o)
	return most, r, err
}

// overhead is what a check may need beside Options.Memory: buffers for each worker,
// findings, and descriptors.
const overhead = 32 << 20

// TestMemory: what a check remembers stays within what it may.
func TestMemory(t *testing.T) {
	if testing.Short() {
		t.Skip("makes images of a million inodes")
	}
	links := func(raw []byte, i uint32) { // as many links as there can be, and blocks that all share
		binary.LittleEndian.PutUint16(raw[0x00:], 0x8180)
		binary.LittleEndian.PutUint16(raw[0x1A:], 60000)
		for b := range uint32(12) {
			binary.LittleEndian.PutUint32(raw[0x28+4*b:], 20000+(i*7+b*8191)%900_000)
		}
	}
	dirs := func(raw []byte, i uint32) {
		binary.LittleEndian.PutUint16(raw[0x00:], 0x41C0)
		binary.LittleEndian.PutUint16(raw[0x1A:], 2)
		binary.LittleEndian.PutUint32(raw[0x28:], 5000+i%7)
	}
	for _, c := range []struct {
		name string
		fill func(raw []byte, i uint32)
	}{{"links", links}, {"directories", dirs}} {
		for _, memory := range []int64{1 << 20, 16 << 20, 128 << 20} {
			img := filepath.Join(t.TempDir(), "img")
			const inodes = 1 << 19
			manyInodes(t, img, inodes, c.fill)
			dev, err := blockdev.Open(img, blockdev.Options{ReadOnly: true, Buffered: true})
			if err != nil {
				t.Fatal(err)
			}
			above, r, err := heapAbove(t, dev, check.Options{Memory: memory, Workers: 2, Findings: 1000})
			dev.Close()
			os.Remove(img)
			t.Logf("%s: %d MiB with %d MiB allowed: %d findings, %v", c.name, above>>20, memory>>20, r.Total, err)
			if above > uint64(memory)+overhead {
				t.Errorf("%s: %d MiB of memory instead of %d", c.name, above>>20, memory>>20)
			}
			if err == nil && r.Clean() {
				t.Errorf("%s: an image full of damage is clean", c.name)
			}
		}
	}
}

// manyInodes makes an image whose inodes are all in use, in the way that fill says.
func manyInodes(t *testing.T, img string, inodes uint32, fill func(raw []byte, i uint32)) {
	t.Helper()
	c := testimage.Config{Size: 1 << 30, Args: []string{"-t", "ext2", "-b", "1024", "-I", "128", "-m", "0", "-O", "^resize_inode", "-N", "524288"}}
	if out, err := exec.Command("mke2fs", append(append([]string{"-q", "-F"}, c.Args...), img, "1G")...).CombinedOutput(); err != nil {
		t.Fatalf("mke2fs: %v: %s", err, out)
	}
	f, err := os.OpenFile(img, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	sb := make([]byte, 1024)
	descs := make([]byte, 32*256)
	if _, err := f.ReadAt(sb, 1024); err != nil {
		t.Fatal(err)
	}
	if _, err := f.ReadAt(descs, 2048); err != nil {
		t.Fatal(err)
	}
	perGroup := binary.LittleEndian.Uint32(sb[0x28:])
	raw := make([]byte, perGroup*128)
	for ino := uint32(0); ino < inodes; ino++ {
		if i := ino % perGroup; ino >= 12 {
			fill(raw[i*128:][:128], ino)
		}
		if (ino+1)%perGroup == 0 {
			at := int64(binary.LittleEndian.Uint32(descs[32*(ino/perGroup)+8:])) << 10
			skip := int64(0)
			if ino < perGroup {
				skip = 12 * 128
			}
			if _, err := f.WriteAt(raw[skip:], at+skip); err != nil {
				t.Fatal(err)
			}
			clear(raw)
		}
	}
}
