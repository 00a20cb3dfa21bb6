package check_test

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"ext4box/blockdev"
	"ext4box/ext4/check"
	"ext4box/ext4/mutate"
	"ext4box/internal/testimage"
)

// alike are classes that count as one when the first problem is compared, since
// e2fsck has one name for them: it calls a superblock invalid and takes another one,
// says that descriptors look bad where the check tells which place in them does, and
// that a journal is invalid whether its inode is or its superblock.
var alike = map[check.Class]check.Class{
	check.ExtentEndsBeyond: check.ExtentBadStart, // the same words

	check.SuperblockChecksum: check.SuperblockCorrupt,
	check.SuperblockBackup:   check.SuperblockCorrupt,
	check.GroupBlockBitmap:   check.GroupDescBackup,
	check.GroupInodeBitmap:   check.GroupDescBackup,
	check.GroupInodeTable:    check.GroupDescBackup,
	check.GroupTableConflict: check.GroupDescBackup,
	check.SuperblockField:    check.SuperblockCorrupt,
	check.JournalSuperblock:  check.JournalInode,
}

func same(a, b check.Class) bool { return cmp.Or(alike[a], a) == cmp.Or(alike[b], b) }

// ours is what Check thinks of an image.
func ours(t *testing.T, path string) (verdict, *check.Report) {
	t.Helper()
	dev, err := blockdev.Open(path, blockdev.Options{ReadOnly: true, Buffered: true})
	if err != nil {
		t.Fatal(err)
	}
	defer dev.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	r, err := check.Check(ctx, dev, check.Options{Workers: 2})
	if err != nil {
		return verdict{first: "failed: " + check.Class(err.Error())}, r
	}
	v := verdict{clean: r.Clean()}
	if !v.clean {
		v.first = r.Findings[0].Class
	}
	return v, r
}

// wantAgreement is the least part of mutants about which the two must agree.
const wantAgreement = 0.95

// tally counts agreement.
type tally struct {
	total, clean, agree, agreeClean int
	unknown                         map[string]int
	differences                     []string
	pairs                           map[string]int
}

// compare judges one image; name is of the image, in messages.
func (y *tally) compare(t *testing.T, name, path string) bool {
	t.Helper()
	start := time.Now()
	want, fsck, unknown := judge(t, path)
	middle := time.Now()
	got, r := ours(t, path)
	if d := time.Since(middle); d > 5*time.Second {
		t.Logf("%s: check took %v, e2fsck %v", name, d, middle.Sub(start))
	}
	y.total++
	if want.clean {
		y.clean++
	}
	for _, line := range unknown {
		if y.unknown == nil {
			y.unknown = map[string]int{}
		}
		y.unknown[line]++
	}
	if got.clean == want.clean {
		y.agreeClean++
		// Where e2fsck only says that it cannot go on, there is nothing to compare.
		if got.clean || want.first == "" || same(got.first, want.first) {
			y.agree++
			return true
		}
	} else if want.forgiven != "" && same(got.first, want.forgiven) {
		y.agree++ // on the first problem, though not on what it means
	}
	if y.pairs == nil {
		y.pairs = map[string]int{}
	}
	y.pairs[fmt.Sprintf("e2fsck %s, check %s", cmp.Or(want.first, "clean"), cmp.Or(got.first, "clean"))]++
	line := "-"
	for _, p := range fsck.Problems {
		if class, _ := classOf(p.Text); class == want.first && class != "" {
			line = p.Text
			break
		}
	}
	our := "-"
	if r != nil && len(r.Findings) > 0 {
		our = r.Findings[0].Text
	}
	y.differences = append(y.differences, fmt.Sprintf("%s\n\te2fsck: %s: %.120s\n\tcheck:  %s: %.120s", name,
		cmp.Or(want.first, "clean"), line, cmp.Or(got.first, "clean"), our))
	return false
}

func (y *tally) report(t *testing.T, threshold float64) {
	t.Helper()
	for _, d := range y.differences {
		t.Log(d)
	}
	for _, p := range slices.SortedFunc(maps.Keys(y.pairs), func(a, b string) int { return y.pairs[b] - y.pairs[a] }) {
		t.Logf("%4d times: %s", y.pairs[p], p)
	}
	for line, n := range y.unknown {
		t.Logf("a line of e2fsck's without a class, %d times: %q", n, line)
	}
	t.Logf("%d images, %d clean: agreement on clean or not with %d (%.2f%%), on the first problem as well with %d (%.2f%%)",
		y.total, y.clean, y.agreeClean, 100*float64(y.agreeClean)/float64(y.total), y.agree, 100*float64(y.agree)/float64(y.total))
	if float64(min(y.agree, y.agreeClean)) < threshold*float64(y.total) {
		t.Errorf("agreement with e2fsck is below %.0f%%", 100*threshold)
	}
}

// TestAgreeMatrix: on sound images of the matrix the two agree. The whole matrix is
// also in package test, which makes it anyway.
func TestAgreeMatrix(t *testing.T) {
	short := map[string]bool{"ext4-2023": true, "ext2-plain": true, "nofiletype": true, "everything": true, "eainode-1k": true, "casefold": true}
	dir := t.TempDir()
	var y tally
	for _, c := range testimage.Configs() {
		if c.ExternalJournal || os.Getenv("EXT4BOX_CHECK_MUTANTS") == "" && !short[c.Name] {
			continue // e2fsck wants the journal on a device
		}
		img := testimage.Build(t, dir, c)
		if !y.compare(t, c.Name, img.Path) {
			t.Errorf("%s: %s", c.Name, y.differences[len(y.differences)-1])
		}
		os.Remove(img.Path)
	}
	y.report(t, 1)
}

// mutantShapes are the shapes of which mutants are made.
func mutantShapes() []testimage.Config {
	var list []testimage.Config
	for _, c := range []testimage.Config{
		{Name: "modern", Args: strings.Fields("-b 1024 -I 256 -J size=2 -N 1024 -O inline_data,orphan_file,large_dir,quota -E orphan_file_size=4"),
			Finish: [][]string{{"e2fsck", "-fy"}}},
		{Name: "plain", Args: strings.Fields("-b 4096 -J size=4 -N 1024"), Finish: [][]string{{"e2fsck", "-fyD"}}},
		{Name: "indirect", Args: strings.Fields("-b 1024 -J size=1 -N 1024 -O ^extents,^64bit,^metadata_csum")},
		{Name: "gdtcsum", Args: strings.Fields("-b 2048 -J size=2 -N 1024 -O ^64bit,^metadata_csum,uninit_bg")},
		{Name: "bigalloc", Args: strings.Fields("-b 1024 -J size=1 -N 1024 -O bigalloc,^resize_inode -C 4096")},
		{Name: "mmp-metabg", Args: strings.Fields("-b 1024 -g 1024 -J size=1 -N 1024 -O mmp,meta_bg,^resize_inode -E mmp_update_interval=1")},
		{Name: "ext2", Args: strings.Fields("-b 1024 -I 128 -N 1024 -O none,filetype,sparse_super,ext_attr,dir_index")},
		{Name: "rev0", Args: strings.Fields("-b 1024 -r 0 -N 1024")},
		{Name: "casefold", Args: strings.Fields("-b 4096 -J size=4 -N 1024 -O casefold,encrypt,verity,project,quota,metadata_csum_seed"), Finish: [][]string{{"e2fsck", "-fy"}}},
		{Name: "indexed", Args: strings.Fields("-b 1024 -J size=1 -N 1024 -O ea_inode"), Finish: [][]string{{"e2fsck", "-fyD"}}},
	} {
		c.Size, c.Level, c.Oracle = 12<<20, testimage.Small, testimage.Debugfs
		c.Args = append([]string{"-t", "ext4"}, c.Args...)
		list = append(list, c)
	}
	return list
}

// TestMutants: on structural mutants the two agree, nearly always. With
// EXT4BOX_CHECK_MUTANTS=N it is N of each shape, from EXT4BOX_CHECK_SEED on.
func TestMutants(t *testing.T) {
	n, seed := 10, uint64(0)
	if s := os.Getenv("EXT4BOX_CHECK_MUTANTS"); s != "" {
		n, _ = strconv.Atoi(s)
	}
	if s := os.Getenv("EXT4BOX_CHECK_SEED"); s != "" {
		seed, _ = strconv.ParseUint(s, 10, 64)
	}
	dir := t.TempDir()
	var y tally
	for i, c := range mutantShapes() {
		seed := seed + uint64(i)*1_000_000
		img := testimage.Build(t, dir, c)
		base, err := mutate.Load(img.Path)
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, "mutant")
		for range n {
			seed++
			m := base.Mutant(seed)
			os.Remove(path)
			if err := m.WriteFile(path); err != nil {
				t.Fatal(err)
			}
			y.compare(t, fmt.Sprintf("%s, %v", c.Name, m), path)
		}
	}
	y.report(t, wantAgreement)
}
