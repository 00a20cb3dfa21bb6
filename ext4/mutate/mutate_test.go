package mutate

import (
	"bytes"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"ext4box/ext4/internal/disk"
	"ext4box/internal/e2test"
	"ext4box/internal/testimage"
)

// bases are small images that together have every kind of structure.
func bases(t *testing.T) map[string]*Base {
	t.Helper()
	list := make(map[string]*Base)
	for _, c := range []testimage.Config{
		{Name: "modern", Args: strings.Fields("-b 1024 -I 256 -J size=2 -N 1024 -O inline_data,orphan_file,large_dir,quota -E orphan_file_size=4"), Oracle: testimage.Debugfs,
			Finish: [][]string{{"e2fsck", "-fy"}}},
		{Name: "fast", Args: strings.Fields("-b 1024 -J size=4,fast_commit_size=256 -N 1024 -O fast_commit,metadata_csum_seed"), Oracle: testimage.Debugfs,
			Finish: [][]string{{"e2fsck", "-fyD"}}},
		{Name: "indirect", Args: strings.Fields("-b 1024 -J size=1 -N 1024 -O ^extents,^64bit,^metadata_csum"), Oracle: testimage.Debugfs},
		{Name: "gdtcsum", Args: strings.Fields("-b 2048 -J size=2 -N 1024 -O ^64bit,^metadata_csum,uninit_bg"), Oracle: testimage.Debugfs},
		{Name: "mmp", Args: strings.Fields("-b 4096 -J size=4 -N 1024 -O mmp"), Oracle: testimage.Debugfs},
		{Name: "values", Args: strings.Fields("-b 1024 -J size=1 -N 1024 -O ea_inode,large_dir"), BigDir: 12000},
	} {
		c.Size, c.Level = 12<<20, testimage.Small
		c.Args = append([]string{"-t", "ext4"}, c.Args...)
		img := testimage.Build(t, t.TempDir(), c)
		b, err := Load(img.Path)
		if err != nil {
			t.Fatal(err)
		}
		list[c.Name] = b
	}
	return list
}

// TestSealed: putting the checksums of a sound image right changes nothing.
func TestSealed(t *testing.T) {
	kinds := make(map[kind]bool)
	for name, b := range bases(t) {
		w := newWork(b, rand.New(rand.NewPCG(1, 1)))
		for i := range b.sites {
			kinds[b.sites[i].kind] = true
			w.change(i, func([]byte) {})
		}
		w.seal()
		for p, page := range w.pages {
			if !bytes.Equal(page, b.data[p*pageSize:][:pageSize]) {
				for i := range b.sites {
					if s := &b.sites[i]; s.off < (p+1)*pageSize && s.off+int64(s.size) > p*pageSize {
						t.Errorf("%s: %s is not what it was", name, w.name(s))
					}
				}
			}
		}
	}
	want := []kind{kindSuper, kindBackup, kindDesc, kindBackupDesc, kindBlockBitmap, kindInodeBitmap, kindInode, kindExtents, kindIndirect, kindDir, kindDxRoot,
		kindXattr, kindLink, kindJournal, kindOrphan, kindQuota, kindMMP}
	if os.Geteuid() == 0 { // which makes the kernel fill the last one
		want = append(want, kindDxNode, kindValue)
	}
	for _, k := range want {
		if !kinds[k] {
			t.Errorf("no image has a %s", k)
		}
	}
}

// TestLog: e2fsck recovers what is put into a log.
func TestLog(t *testing.T) {
	for name, b := range bases(t) {
		if name == "mmp" {
			continue // for which e2fsck takes its time
		}
		w := newWork(b, rand.New(rand.NewPCG(1, 1)))
		w.change(b.of[kindSuper][0], func(raw []byte) { copy(raw[0x78:], "from the log\x00") })
		w.seal()
		if !w.throughLog() {
			t.Fatalf("%s: there is no log", name)
		}
		m := &Mutant{Base: b, Size: w.size, pages: w.pages}
		path := filepath.Join(t.TempDir(), "image")
		if err := m.WriteFile(path); err != nil {
			t.Fatal(err)
		}
		label := func() string {
			sb := disk.DecodeSuperblock(e2test.Bytes(t, path, disk.SuperblockOffset, disk.SuperblockSize))
			return disk.CString(sb.VolumeName[:])
		}
		before := label()
		e2test.Output(t, "e2fsck", "-E", "journal_only", "-p", path)
		if label() != "from the log" || before != "" {
			t.Errorf("%s: the label is %q, and was %q", name, label(), before)
		}
		e2test.Output(t, "e2fsck", "-fn", path)
	}
}

// TestMutants: each seed makes one mutant, always the same; it differs from the base
// by little and says how; and every shape is there.
func TestMutants(t *testing.T) {
	seen := make(map[string]int)
	for name, b := range bases(t) {
		differ := 0
		for seed := range uint64(300) {
			m, again := b.Mutant(seed), b.Mutant(seed)
			if m.String() != again.String() || !slices.EqualFunc(m.Edits(), again.Edits(), func(x, y Edit) bool { return x.Off == y.Off && bytes.Equal(x.New, y.New) }) {
				t.Fatalf("%s, %v: another one with the same seed, %v", name, m, again)
			}
			if len(m.Edits()) > 0 || m.Size < int64(len(b.data)) {
				differ++
			}
			if len(m.What) == 0 {
				t.Errorf("%s, seed %d: says nothing", name, seed)
			}
			dev := m.Device()
			for _, e := range m.Edits() {
				p := make([]byte, len(e.New))
				if n, _ := dev.ReadAt(p, e.Off); !bytes.Equal(p[:n], e.New[:n]) {
					t.Fatalf("%s, %v: not what it says at %d", name, m, e.Off)
				}
			}
		}
		if differ < 280 {
			t.Errorf("%s: only %d of 300 differ from the base", name, differ)
		}
		for _, s := range shapes {
			w := newWork(b, rand.New(rand.NewPCG(1, 1)))
			for range 20 {
				s.make(w)
			}
			seen[s.name] += len(w.what)
		}
	}
	for _, s := range shapes {
		if seen[s.name] == 0 {
			t.Errorf("no image takes %q", s.name)
		}
	}
}

// TestFromBytes: any bytes make a mutant, and an end to it.
func TestFromBytes(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	for _, b := range bases(t) {
		for n := range 200 {
			data := make([]byte, n)
			for i := range data {
				data[i] = byte(rng.Uint32())
			}
			if m := b.FromBytes(data); len(m.What) == 0 {
				t.Errorf("%d bytes make nothing", n)
			}
		}
	}
}
