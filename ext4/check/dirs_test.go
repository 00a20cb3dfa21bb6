package check_test

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"ext4box/ext4/check"
	"ext4box/ext4/internal/disk"
	"ext4box/internal/e2test"
	"ext4box/internal/testimage"
)

// dirPatch changes bytes of a block of a directory, and puts its checksum right.
type dirPatch struct {
	path  string
	block int
	kind  string   // leaf, root or node; the checksum of nothing is put right
	edits []string // offset:hexadecimal bytes
}

func (d *dirPatch) apply(t *testing.T, image string) {
	t.Helper()
	sb := disk.DecodeSuperblock(e2test.Bytes(t, image, disk.SuperblockOffset, disk.SuperblockSize))
	bs := int64(1024) << sb.LogBlockSize
	var phys int64
	if _, err := fmt.Sscan(e2test.Debugfs(t, image, fmt.Sprintf("bmap %s %d", d.path, d.block)), &phys); err != nil || phys == 0 {
		t.Fatalf("%s has no block %d: %v", d.path, d.block, err)
	}
	var ino, generation uint32
	stat := e2test.Debugfs(t, image, "stat "+d.path)
	fmt.Sscanf(stat, "Inode: %d", &ino)
	fmt.Sscanf(stat[strings.Index(stat, "Generation:"):], "Generation: %d", &generation)
	b := e2test.Bytes(t, image, phys*bs, int(bs))
	for _, e := range d.edits {
		at, text, _ := strings.Cut(e, ":")
		var off int
		fmt.Sscan(at, &off)
		bytes, err := hex.DecodeString(text)
		if err != nil {
			t.Fatal(err)
		}
		copy(b[off:], bytes)
	}
	sums := sb.Checksums()
	seed := sums.InodeSeed(ino, generation)
	le := binary.LittleEndian
	at := map[string]int{"root": 32, "node": 8}[d.kind]
	switch {
	case !sums.Metadata || d.kind == "":
	case d.kind == "leaf":
		le.PutUint32(b[bs-4:], disk.DirLeafChecksum(seed, b))
	default:
		if _, sum, ok := disk.DxChecksumAt(seed, b, at); ok {
			le.PutUint32(b[at+8*int(le.Uint16(b[at:]))+4:], sum)
		}
	}
	e2test.Patch(t, image, phys*bs, b)
}

// dirImage has directories of each kind.
func dirImage(t *testing.T, args ...string) string {
	t.Helper()
	files := map[string]string{"d/one": "1", "d/two": "2", "d/sub/x": "", "other/y": ""}
	for i := range 300 {
		files[fmt.Sprintf("index/name of file %03d", i)] = ""
	}
	image := e2test.Image(t, 16<<20, append([]string{"-t", "ext4", "-b", "1024", "-N", "1024", "-d", e2test.Tree(t, files)}, args...)...)
	if err := testimage.Run("e2fsck", "-fyD", image); err != nil { // makes the index
		t.Fatal(err)
	}
	return image
}

func copyImage(t *testing.T, from string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "copy")
	in, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := os.Create(to)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	if _, err := io.Copy(out, in); err != nil {
		t.Fatal(err)
	}
	return to
}

// TestDirs damages directories, links and counts in one place each: e2fsck and the
// check find the same first.
func TestDirs(t *testing.T) {
	leaf := func(edits ...string) *dirPatch { return &dirPatch{"/d", 0, "leaf", edits} }
	root := func(edits ...string) *dirPatch { return &dirPatch{"/index", 0, "root", edits} }
	image := dirImage(t)
	for _, c := range []struct {
		want  check.Class
		patch *dirPatch
		cmds  []string // of debugfs
	}{
		{want: check.DotInode, patch: leaf("0:05000000")},
		{want: check.DotName, patch: leaf("8:78")},
		{want: check.DotName, patch: leaf("6:02")},
		{want: check.DotMissing, patch: leaf("0:00000000")},
		{want: check.DotTerminator, patch: leaf("9:41")},
		{want: check.DotdotName, patch: leaf("4:1800")},
		{want: check.DotdotName, patch: leaf("20:2e78")},
		{want: check.DotdotMissing, patch: leaf("12:00000000")},
		{want: check.DotdotTerminator, patch: leaf("22:41")},
		{want: check.EntryInode, patch: leaf("12:05000000")},
		{want: check.DotdotWrong, patch: leaf("12:0b000000")},
		{want: check.EntryType, patch: leaf("19:01")},
		{want: check.EntryType, patch: leaf("7:01")},
		{want: check.EntryType, patch: leaf("31:09")},
		{want: "", patch: leaf("31:00")},
		{want: check.InodeUnattached, patch: leaf("24:00000000")},
		{want: check.EntryRoot, patch: leaf("24:02000000")},
		{want: check.EntryInode, patch: leaf("24:05000000")},
		{want: check.EntryInode, patch: leaf("24:ffffffff")},
		{want: check.EntryInodeBeyond, patch: leaf("24:90010000")},
		{want: check.DirCorrupt, patch: leaf("28:0e00")},
		{want: check.DirCorrupt, patch: leaf("28:0800")},
		{want: check.DirCorrupt, patch: leaf("28:0000")},
		{want: check.DirCorrupt, patch: leaf("28:0c20")},
		{want: check.DirCorrupt, patch: leaf("30:0c")},
		{want: check.EntryNoName, patch: leaf("30:00")},
		{want: check.EntryName, patch: leaf("32:2f")},
		{want: check.EntryName, patch: leaf("32:00")},
		{want: check.DotDuplicate, patch: leaf("30:01", "32:2e")},
		{want: check.DotdotDuplicate, patch: leaf("30:02", "32:2e2e")},
		{want: check.DirNoChecksum, patch: leaf("1019:00")},
		{want: check.DirChecksum, patch: &dirPatch{"/d", 0, "", []string{"1020:00000000"}}},
		{want: check.DirChecksum, patch: &dirPatch{"/d", 0, "", []string{"32:66"}}},

		{want: check.IndexRootInvalid, patch: root("24:01")},
		{want: check.IndexHashVersion, patch: root("28:07")},
		{want: check.IndexChecksum, patch: root("29:09")},
		{want: check.IndexRootInvalid, patch: root("29:07")},
		{want: check.IndexMismatch, patch: root("30:01")},
		{want: check.IndexRootInvalid, patch: root("30:02")},
		{want: check.IndexTooDeep, patch: root("30:03")},
		{want: check.IndexFlags, patch: root("31:01")},
		{want: check.IndexLimit, patch: root("32:7a00")},
		{want: check.IndexMismatch, patch: root("34:0300")},
		{want: check.IndexMismatch, patch: root("34:0000")},
		{want: check.IndexMismatch, patch: root("36:00000000")},
		{want: check.IndexMismatch, patch: root("36:02000000")},
		{want: check.IndexBlockNumber, patch: root("36:ff000000")},
		{want: check.IndexOrder, patch: root("40:000000ff")},
		{want: check.IndexMismatch, patch: root("28:00")},
		{want: check.IndexChecksum, patch: &dirPatch{"/index", 0, "", []string{"1020:00000000"}}},
		{want: check.DirCorrupt, patch: root("4:1800")},
		{want: check.DotName, patch: root("8:41")},
		{want: check.LinkCount, cmds: []string{"ln /d/one /d/three"}},
		{want: check.LinkCount, cmds: []string{"sif /d/one links_count 7"}},
		{want: check.InodeUnattached, cmds: []string{"unlink /d/one"}},
		{want: check.InodeUnattachedEmpty, cmds: []string{"unlink /other/y"}},
		{want: check.EntryUnused, cmds: []string{"clri /d/one"}},
		{want: check.EntryUnused, cmds: []string{"clri /d/sub"}},
		{want: check.DirUnconnected, cmds: []string{"unlink /d/sub"}},
		{want: check.EntryDirLink, cmds: []string{"ln /d/sub /other/again"}},
		{want: check.EntrySelf, cmds: []string{"ln /d /d/again"}},
		{want: check.EntryDuplicate, patch: leaf("30:03", "32:74776f")},
		{want: check.EntryDirLink, cmds: []string{"ln /d /d/sub/up"}},
		{want: check.DotdotWrong, cmds: []string{"ln /d /d/sub/up", "unlink /d"}}, // and a loop
	} {
		name := string(c.want) + fmt.Sprint(c.cmds)
		if c.patch != nil {
			name = fmt.Sprint(c.want, c.patch.path, c.patch.edits)
		}
		t.Run(strings.ReplaceAll(name, "/", "|"), func(t *testing.T) {
			path := copyImage(t, image)
			if c.patch != nil {
				c.patch.apply(t, path)
			}
			if c.cmds != nil {
				e2test.Change(t, path, c.cmds...)
			}
			want, fsck, _ := judge(t, path)
			got, r := ours(t, path)
			if got != want || got.first != c.want {
				t.Errorf("check has %+v, e2fsck %+v, this test %q\n%+v\n%s", got, want, c.want, r.Findings, fsck.Output)
			}
		})
	}
}

// TestDirNames: a name that is in two blocks of a directory without an index is
// found, however few names may be remembered; e2fsck does not look.
func TestDirNames(t *testing.T) {
	files := map[string]string{}
	for i := range 4000 {
		files[fmt.Sprintf("d/name of file %04d", i)] = ""
	}
	image := e2test.Image(t, 16<<20, "-t", "ext2", "-b", "1024", "-N", "5000", "-O", "^dir_index", "-d", e2test.Tree(t, files))
	blocks := len(strings.Fields(e2test.Debugfs(t, image, "blocks /d")))
	name := func(block int) string {
		var phys int64
		fmt.Sscan(e2test.Debugfs(t, image, fmt.Sprintf("bmap /d %d", block)), &phys)
		b := e2test.Bytes(t, image, phys*1024, 1024)
		e, _ := disk.DecodeDirEntry(b, 0, true)
		return string(e.Name)
	}
	want := name(1)
	(&dirPatch{"/d", blocks - 5, "leaf", []string{"8:" + hex.EncodeToString([]byte(want))}}).apply(t, image)
	for _, memory := range []int64{1 << 20, 64 << 20} {
		r := checkImage(t, image, check.Options{Memory: memory, Workers: 2})
		if len(r.Findings) != 1 || r.Findings[0].Class != check.EntryDuplicate || !strings.Contains(r.Findings[0].Text, want) {
			t.Errorf("with %d bytes of memory: %+v", memory, r.Findings)
		}
	}
}
