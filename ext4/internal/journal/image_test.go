package journal

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// The tests in this file compare with e2fsck, on images that were copied from
// under a kernel's live mount, and on logs that debugfs wrote.

func needTools(t *testing.T, root bool, tools ...string) {
	t.Helper()
	for _, tool := range tools {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skip(tool + " is not installed")
		}
	}
	if root && os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
}

func run(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// copyImage makes a sparse copy, as a power cut would leave it.
func copyImage(t testing.TB, from, to string) {
	t.Helper()
	run(t, "cp", "--sparse=always", from, to)
}

func sparseFile(t testing.TB, name string, size int64) string {
	t.Helper()
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	return name
}

// mount mounts an image by the kernel until the test ends or unmount is called.
func mount(t *testing.T, image, options string) (dir string, unmount func()) {
	t.Helper()
	dir = t.TempDir()
	if out, err := exec.Command("mount", "-t", "ext4", "-o", options, image, dir).CombinedOutput(); err != nil {
		t.Skipf("this kernel does not mount the image: %s", out)
	}
	mounted := true
	unmount = func() {
		if mounted {
			mounted = false
			run(t, "umount", dir)
		}
	}
	t.Cleanup(unmount)
	return dir, unmount
}

// crashImage is a filesystem with a log, in files.
type crashImage struct {
	image    string
	external string // journal device, or empty
}

// recovery recovers the image's log.
func (ci crashImage) recovery(t *testing.T) (j *Journal, r *Replay, dev []byte) {
	t.Helper()
	dev, err := os.ReadFile(ci.image)
	if err != nil {
		t.Fatal(err)
	}
	bs := 1024 << binary.LittleEndian.Uint32(dev[1024+0x18:])
	o := Options{BlockSize: bs, DeviceBlocks: uint64(len(dev) / bs)}
	var log []byte
	if ci.external != "" {
		o.Superblock = ExternalSuperblock(bs)
		log, err = os.ReadFile(ci.external)
	} else {
		name := filepath.Join(t.TempDir(), "log")
		run(t, "debugfs", "-R", "dump <8> "+name, ci.image)
		log, err = os.ReadFile(name)
	}
	if err != nil {
		t.Fatal(err)
	}
	o.LogBlocks = uint64(len(log) / bs)
	if j, err = Load(bytes.NewReader(log), o); err != nil {
		t.Fatal(err)
	}
	if r, err = j.Recover(); err != nil {
		t.Fatal(err)
	}
	return j, r, dev
}

// logBlocks lists where the first n blocks of the journal are on the device.
func logBlocks(t *testing.T, image string, n uint32) (blocks []uint64) {
	t.Helper()
	var script strings.Builder
	for i := range n {
		fmt.Fprintf(&script, "bmap <8> %d\n", i)
	}
	cmd := exec.Command("debugfs", "-f", "-", image)
	cmd.Stdin = strings.NewReader(script.String())
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(out)) {
		if b, err := strconv.ParseUint(strings.TrimSpace(line), 10, 64); err == nil {
			blocks = append(blocks, b)
		}
	}
	if len(blocks) != int(n) {
		t.Fatalf("debugfs shows %d of %d blocks of the journal", len(blocks), n)
	}
	return blocks
}

// compareWithE2fsck replays a copy of the image with e2fsck and compares block
// by block. The superblocks and the journal's own superblock are left out, for
// e2fsck makes notes there; with the log as it is they are not part of what is
// to be proved.
func (ci crashImage) compareWithE2fsck(t *testing.T) (*Journal, *Replay) {
	t.Helper()
	j, r, before := ci.recovery(t)
	bs := j.o.BlockSize
	view := NewOverlay(newMemDevice(before), r)

	copied := filepath.Join(t.TempDir(), "copy")
	copyImage(t, ci.image, copied)
	args := []string{"-y", "-E", "journal_only"}
	if ci.external != "" {
		ext := copied + ".journal"
		copyImage(t, ci.external, ext)
		args = append(args, "-j", ext)
	}
	out, err := exec.Command("e2fsck", append(args, copied)...).CombinedOutput()
	if err != nil && err.(*exec.ExitError).ExitCode() > 1 {
		t.Fatalf("e2fsck: %v\n%s", err, out)
	}
	after, err := os.ReadFile(copied)
	if err != nil {
		t.Fatal(err)
	}

	skip := map[uint64]bool{uint64(1024 / bs): true}
	if ci.external == "" {
		skip[logBlocks(t, ci.image, 1)[0]] = true
	}
	got := make([]byte, len(before))
	if n, err := view.ReadAt(got, 0); n != len(got) {
		t.Fatal(err)
	}
	if len(got) != len(after) {
		t.Fatalf("e2fsck left %d bytes of %d", len(after), len(got))
	}
	changed := 0
	for b := 0; b*bs < len(got); b++ {
		ours, theirs := got[b*bs:(b+1)*bs], after[b*bs:(b+1)*bs]
		if !bytes.Equal(theirs, before[b*bs:(b+1)*bs]) {
			changed++
		}
		if skip[uint64(b)] {
			continue
		}
		if !bytes.Equal(ours, theirs) {
			_, found := r.Lookup(uint64(b))
			t.Fatalf("block %d differs from what e2fsck makes of it (in our replay: %v)\n%s", b, found, out)
		}
	}
	t.Logf("%d transactions, %d blocks logged, %d replayed, %d revoked by %d records, %d changed",
		r.Transactions, r.Logged, r.Len(), r.Revoked, r.Revokes, changed)
	if changed < 2 {
		t.Error("the replay changed nothing, so nothing was compared")
	}
	return j, r
}

// workload is written to a mounted filesystem. It calls crash in the middle
// and at the end.
func workload(t *testing.T, dir string, rounds int, crash func()) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	fd, err := os.Open(dir)
	must(err)
	defer fd.Close()
	// An fsync commits the transaction but, unlike sync, leaves it to the log
	// to remember what the home blocks should be.
	sync := func() { must(fd.Sync()) }
	magic := bytes.Repeat([]byte{0xC0, 0x3B, 0x39, 0x98, 0, 0, 0, 1}, 8<<10/8)
	for round := range rounds {
		sub := filepath.Join(dir, fmt.Sprintf("dir%d", round))
		must(os.Mkdir(sub, 0o755))
		for i := range 40 {
			must(os.WriteFile(filepath.Join(sub, fmt.Sprintf("file-with-a-name-of-some-length-%d", i)), magic, 0o644))
		}
		sync()
		if round > 0 {
			// Its blocks are revoked, and some used again at once.
			must(os.RemoveAll(filepath.Join(dir, fmt.Sprintf("dir%d", round-1))))
			must(os.WriteFile(filepath.Join(dir, "again"), magic, 0o644))
			sync()
		}
		if round == rounds/2 || round == rounds-1 {
			must(os.WriteFile(filepath.Join(dir, "unsynced"), magic, 0o644))
			crash()
		}
	}
}

func TestCrashImages(t *testing.T) {
	needTools(t, true, "mke2fs", "debugfs", "e2fsck", "mount")
	wraps, cases := 0, 0
	defer func() {
		if cases > 8 && wraps == 0 {
			t.Error("none of the logs wraps around")
		}
	}()
	for _, c := range []struct {
		name, mkfs, mount string
		size              int64
		rounds            int
		layout            layout
		shows             string // what the logs must have in them, or the case is not worth its name
	}{
		{"default", "-t ext4 -b 4096 -J size=4", "", 24 << 20, 4,
			layout{checksum: ChecksumV3, wide: true}, "revokes"},
		{"1k blocks, tiny journal", "-t ext4 -b 1024 -J size=1", "", 16 << 20, 24,
			layout{checksum: ChecksumV3, wide: true}, "revokes"},
		{"data journalled", "-t ext4 -b 4096 -J size=4", "data=journal", 24 << 20, 12,
			layout{checksum: ChecksumV3, wide: true}, "escapes"},
		{"no checksums", "-t ext4 -b 1024 -J size=1 -O ^metadata_csum", "data=journal", 16 << 20, 6,
			layout{wide: true}, "escapes"},
		{"32-bit", "-t ext4 -b 1024 -J size=1 -O ^64bit", "", 16 << 20, 24,
			layout{checksum: ChecksumV3}, "revokes"},
		{"32-bit, no checksums", "-t ext4 -b 1024 -J size=1 -O ^64bit,^metadata_csum", "data=journal", 16 << 20, 6,
			layout{}, "escapes"},
		{"v1 checksums", "-t ext4 -b 1024 -J size=1 -O ^metadata_csum", "journal_checksum", 16 << 20, 24,
			layout{checksum: ChecksumV1, wide: true}, "revokes"},
		{"v1, async", "-t ext4 -b 4096 -J size=4 -O ^metadata_csum,^64bit", "journal_async_commit,data=writeback", 24 << 20, 4,
			layout{checksum: ChecksumV1}, "revokes"},
		{"v3, async", "-t ext4 -b 1024 -J size=1", "journal_async_commit,data=writeback", 16 << 20, 12,
			layout{checksum: ChecksumV3, wide: true}, "revokes"},
		{"ext3", "-t ext3 -b 1024 -J size=1", "", 16 << 20, 30,
			layout{}, "revokes"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			image := sparseFile(t, filepath.Join(dir, "image"), c.size)
			run(t, "mke2fs", append(strings.Fields("-q -F "+c.mkfs), image)...)
			options := "loop"
			if c.mount != "" {
				options += "," + c.mount
			}
			mnt, unmount := mount(t, image, options)
			var crashes []crashImage
			workload(t, mnt, c.rounds, func() {
				copied := filepath.Join(dir, fmt.Sprintf("crash%d", len(crashes)))
				copyImage(t, image, copied)
				crashes = append(crashes, crashImage{image: copied})
			})
			unmount()
			shown := map[string]bool{}
			for _, ci := range crashes {
				j, r := ci.compareWithE2fsck(t)
				if j.layout.checksum != c.layout.checksum || j.layout.wide != c.layout.wide {
					t.Fatalf("the kernel made a journal with %+v", j.layout)
				}
				if r.Revoked > 0 {
					shown["revokes"] = true
				}
				if r.Head < j.Superblock.Start {
					wraps++
				}
				for d := range r.All() {
					if d.Escaped {
						shown["escapes"] = true
					}
				}
			}
			if cases++; !shown[c.shows] {
				t.Errorf("there are no %s in the logs", c.shows)
			}
		})
	}
}

func TestCrashImageExternalJournal(t *testing.T) {
	needTools(t, true, "mke2fs", "debugfs", "e2fsck", "mount", "losetup")
	for _, bs := range []string{"1024", "4096"} {
		t.Run(bs, func(t *testing.T) {
			dir := t.TempDir()
			image := sparseFile(t, filepath.Join(dir, "image"), 16<<20)
			journal := sparseFile(t, filepath.Join(dir, "journal"), 8<<20)
			run(t, "mke2fs", "-q", "-F", "-O", "journal_dev", "-b", bs, journal)
			loop := strings.TrimSpace(run(t, "losetup", "-f", "--show", journal))
			t.Cleanup(func() { run(t, "losetup", "-d", loop) })
			run(t, "mke2fs", "-q", "-F", "-t", "ext4", "-b", bs, "-J", "device="+loop, image)
			mnt, unmount := mount(t, image, "loop,journal_path="+loop)
			crashed := crashImage{image: filepath.Join(dir, "crash"), external: filepath.Join(dir, "crash.journal")}
			workload(t, mnt, 3, func() {
				copyImage(t, image, crashed.image)
				// The loop device has its own cache above the file.
				run(t, "blockdev", "--flushbufs", loop)
				copyImage(t, journal, crashed.external)
			})
			unmount()
			crashed.compareWithE2fsck(t)
		})
	}
}

// A damaged log is refused exactly where the kernel refuses it.
func TestDamagedLogsAsTheKernelJudgesThem(t *testing.T) {
	needTools(t, true, "mke2fs", "debugfs", "mount")
	dir := t.TempDir()
	image := sparseFile(t, filepath.Join(dir, "image"), 8<<20)
	run(t, "mke2fs", "-q", "-F", "-t", "ext4", "-b", "1024", "-J", "size=1", image)
	mnt, unmount := mount(t, image, "loop")
	crashed := filepath.Join(dir, "crash")
	workload(t, mnt, 3, func() { copyImage(t, image, crashed) })
	unmount()
	j, r, content := crashImage{image: crashed}.recovery(t)
	home := logBlocks(t, crashed, r.Head+4)
	mnt = t.TempDir()
	random := rand.New(rand.NewPCG(3, 4))
	refused := 0
	for n := range 40 {
		at := 1 + random.Uint32N(uint32(len(home)-1))
		within := random.IntN(40) // headers, tags and checksums
		if n%4 == 0 {
			within = random.IntN(1024)
		}
		damaged := bytes.Clone(content)
		damaged[home[at]*1024+uint64(within)] ^= 1 << random.IntN(8)
		if err := os.WriteFile(crashed, damaged, 0o600); err != nil {
			t.Fatal(err)
		}
		log := make([]byte, 0, len(home)*1024)
		for _, b := range home {
			log = append(log, damaged[b*1024:(b+1)*1024]...)
		}
		o := j.o
		o.LogBlocks = uint64(j.last)
		loaded, err := Load(bytes.NewReader(append(log, make([]byte, int(j.last)*1024-len(log))...)), o)
		if err == nil {
			_, err = loaded.Recover()
		}
		out, kernel := exec.Command("mount", "-t", "ext4", "-o", "loop", crashed, mnt).CombinedOutput()
		if kernel == nil {
			run(t, "umount", mnt)
		}
		if (err == nil) != (kernel == nil) {
			t.Errorf("byte %d of log block %d: %v; the kernel: %v\n%s", within, at, err, kernel, out)
		}
		if err != nil {
			refused++
		}
	}
	t.Logf("%d of 40 refused", refused)
	if refused == 0 || refused == 40 {
		t.Errorf("%d of 40 refused, which tells nothing", refused)
	}
}

// debugfs writes logs in formats that today's kernels convert away, and in an
// order that no kernel would choose.
func TestLogsWrittenByDebugfs(t *testing.T) {
	needTools(t, false, "mke2fs", "debugfs", "e2fsck")
	for _, c := range []struct {
		name, features, open string
		checksum             Checksum
	}{
		{"none", "^metadata_csum", "jo", ChecksumNone},
		{"v1", "^metadata_csum", "jo -c", ChecksumV1},
		{"v2", "metadata_csum", "jo -c -v 2", ChecksumV2},
		{"v3", "metadata_csum", "jo -c -v 3", ChecksumV3},
	} {
		for _, bits := range []string{"64bit", "^64bit"} {
			t.Run(c.name+","+bits, func(t *testing.T) {
				dir := t.TempDir()
				image := sparseFile(t, filepath.Join(dir, "image"), 16<<20)
				run(t, "mke2fs", "-q", "-F", "-t", "ext4", "-b", "1024", "-J", "size=1", "-O", c.features+","+bits, image)
				data := filepath.Join(dir, "data")
				blocks := make([]byte, 40*1024)
				for i := range 40 {
					be.PutUint32(blocks[i*1024:], magicNumber)
					blocks[i*1024+5] = byte(i + 1)
				}
				if err := os.WriteFile(data, blocks, 0o600); err != nil {
					t.Fatal(err)
				}
				cmd := exec.Command("debugfs", "-w", "-f", "-", image)
				revoke := "\njw -r "
				if c.checksum == ChecksumV1 {
					// debugfs sums up revoke blocks too, which makes the kernel refuse its log.
					revoke = "\n#"
				}
				cmd.Stdin = strings.NewReader(c.open + `
jw -b 9000-9039 ` + data + revoke + `9005,9006,9012
jw -b 9010-9020 ` + data + revoke + `9013
jw -b 9030,9001 ` + data + `
jw -b 9002 -c ` + data + `
jc
`)
				if out, err := cmd.CombinedOutput(); err != nil {
					t.Fatalf("%v\n%s", err, out)
				}
				j, r := crashImage{image: image}.compareWithE2fsck(t)
				if j.layout.checksum != c.checksum || j.layout.wide != (bits == "64bit") {
					t.Errorf("debugfs made a journal with %+v", j.layout)
				}
				want := Replay{Transactions: 5, Revoked: 5, Revokes: 4, Logged: 53}
				if c.checksum == ChecksumV1 {
					want = Replay{Transactions: 3, Logged: 53}
				}
				if r.Transactions != want.Transactions || r.Revoked != want.Revoked || r.Revokes != want.Revokes || r.Logged != want.Logged {
					t.Errorf("%+v", r)
				}
			})
		}
	}
}
