package journal

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"ext4box/blockdev"
	"ext4box/blockdev/blocktest"
)

// journalRuns asks debugfs where the journal is.
func journalRuns(t *testing.T, image string) (runs []Run) {
	t.Helper()
	for f := range strings.FieldsSeq(run(t, "debugfs", "-R", "blocks <8>", image)) {
		at, err := strconv.ParseUint(f, 10, 64)
		if err != nil {
			continue
		}
		if n := len(runs); n > 0 && runs[n-1].Device+uint64(runs[n-1].Blocks) == at {
			runs[n-1].Blocks++
			continue
		}
		next := uint32(0)
		for _, r := range runs {
			next += r.Blocks
		}
		runs = append(runs, Run{Log: next, Device: at, Blocks: 1})
	}
	return runs
}

// The kernel and e2fsck recover what we have written, on images of real
// filesystems, after crashes at sampled points. The blocks that are logged are
// free ones, so that the filesystem is none the worse for it.
func TestLogRecoveredByOthers(t *testing.T) {
	needTools(t, false, "mke2fs", "debugfs", "e2fsck")
	const offset, blocks = 14000, 120
	for _, c := range []struct {
		name, mkfs, open string
		o                WriterOptions
		checksum         Checksum
		wide             bool
	}{
		{"none", "-b 1024 -O ^metadata_csum,^64bit", "", WriterOptions{}, ChecksumNone, false},
		{"none,64bit", "-b 1024 -O ^metadata_csum", "", WriterOptions{Wide: true}, ChecksumNone, true},
		{"v1", "-b 1024 -O ^metadata_csum,^64bit", "jo -c", WriterOptions{}, ChecksumV1, false},
		{"v2", "-b 1024", "jo -c -v 2", WriterOptions{Wide: true}, ChecksumV2, true},
		{"v2,32bit", "-b 1024 -O ^64bit", "jo -c -v 2", WriterOptions{}, ChecksumV2, false},
		{"v3,32bit", "-b 1024 -O ^64bit", "", WriterOptions{ChecksumV3: true}, ChecksumV3, false},
		{"v3", "-b 1024", "", WriterOptions{ChecksumV3: true, Wide: true}, ChecksumV3, true},
		{"v3,4k", "-b 4096", "", WriterOptions{ChecksumV3: true, Wide: true}, ChecksumV3, true},
		{"v3,fast commits", "-b 1024 -O fast_commit", "", WriterOptions{ChecksumV3: true, Wide: true}, ChecksumV3, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			size := "16M"
			if strings.Contains(c.mkfs, "4096") {
				size = "64M"
			}
			image := filepath.Join(dir, "image")
			args := append(strings.Fields("-q -F -t ext4 -J size="+map[bool]string{true: "1", false: "4"}[size == "16M" && !strings.Contains(c.mkfs, "fast")]), strings.Fields(c.mkfs)...)
			run(t, "mke2fs", append(args, image, size)...)
			script := "feature needs_recovery\n"
			if c.open != "" {
				script = c.open + "\njc\n" + script
			}
			cmd := exec.Command("debugfs", "-w", "-f", "-", image)
			cmd.Stdin = strings.NewReader(script)
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			base, err := os.ReadFile(image)
			if err != nil {
				t.Fatal(err)
			}
			runs := journalRuns(t, image)
			for _, run := range runs {
				if run.Device < offset+blocks && offset < run.Device+uint64(run.Blocks) {
					t.Fatalf("mke2fs put the journal where our blocks are: %v", runs)
				}
			}
			r := imageRig(t, base, runs)
			r.offset, r.blocks = offset, blocks
			if j, _, err := r.load(r.home, nil); err != nil {
				t.Fatal(err)
			} else {
				r.lb.sequence = j.Superblock.Sequence
			}
			c.o.Strict = true
			d := newDriver(t, r, c.o, seeded(1))
			for range 1000 {
				if !d.step() {
					t.Fatal(d.failed)
				}
			}
			if l := d.log.layout; l.checksum != c.checksum || l.wide != c.wide {
				t.Errorf("the log is written with %+v", l)
			}
			d.commit()
			dirty := 0
			try := func(i int, crash *blocktest.Crash, judge func(string)) {
				name := filepath.Join(dir, "crash")
				img := crash.Image()
				if err := d.check(img.Clone(), nil, crash.Cut, false); err != nil {
					t.Fatalf("%v\n%v", err, crash)
				}
				j, _, _ := d.load(img, nil)
				rec, _ := j.Recover()
				if rec.Len() > 0 {
					dirty++
				}
				if err := blocktest.Dump(img, img.Size(), name); err != nil {
					t.Fatal(err)
				}
				defer os.Remove(name)
				judge(name)
				f, err := os.Open(name)
				if err != nil {
					t.Fatal(err)
				}
				defer f.Close()
				if err := d.compare(f, d.after[rec.EndTID-1], rec.EndTID-1); err != nil {
					t.Fatalf("image %d: %v\n%v", i, err, crash)
				}
				if out, err := exec.Command("e2fsck", "-fn", name).CombinedOutput(); err != nil {
					t.Fatalf("%v\n%s", err, out)
				}
			}
			n := 0
			for crash := range r.home.History().Samples(6, 11) {
				try(n, crash, func(name string) {
					out, err := exec.Command("e2fsck", "-fy", "-E", "journal_only", name).CombinedOutput()
					if err != nil && err.(*exec.ExitError).ExitCode() > 1 {
						t.Fatalf("%v\n%s", err, out)
					}
				})
				n++
			}
			if os.Geteuid() == 0 {
				for crash := range r.home.History().Samples(2, 12) {
					try(n, crash, func(name string) {
						_, unmount := mount(t, name, "loop")
						unmount()
					})
					n++
				}
			}
			if dirty < n/2 {
				t.Errorf("only %d of %d images had something to replay", dirty, n)
			}
			d.close()
			// What we leave behind is clean for others too.
			name := filepath.Join(dir, "closed")
			if err := blocktest.Dump(r.home, r.home.Size(), name); err != nil {
				t.Fatal(err)
			}
			run(t, "debugfs", "-w", "-R", "feature -needs_recovery", name)
			run(t, "e2fsck", "-fn", name)
			if os.Geteuid() == 0 {
				_, unmount := mount(t, name, "loop")
				unmount()
			}
		})
	}
}

// imageRig is a rig whose device is the image of a filesystem.
func imageRig(t *testing.T, base []byte, runs []Run) *rig {
	t.Helper()
	bs := 1024 << base[1024+0x18]
	n := uint32(0)
	for _, r := range runs {
		n += r.Blocks
	}
	r := &rig{lb: &logBuilder{bs: bs, maxLen: n}, cut: runs}
	r.home = blocktest.NewRecording(bytes.NewReader(base), int64(len(base)), &r.clock)
	return r
}

// A log that the kernel left dirty is written home and used again by us, and
// then again by the kernel.
func TestLogTakesOverFromTheKernel(t *testing.T) {
	needTools(t, true, "mke2fs", "debugfs", "e2fsck", "mount")
	dir := t.TempDir()
	image := sparseFile(t, filepath.Join(dir, "image"), 32<<20)
	run(t, "mke2fs", "-q", "-F", "-t", "ext4", "-b", "1024", "-J", "size=1", image)
	mnt, unmount := mount(t, image, "loop")
	crashed := filepath.Join(dir, "crash")
	workload(t, mnt, 2, func() { copyImage(t, image, crashed) })
	unmount()

	dev, err := blocktest.LoadMem(crashed)
	if err != nil {
		t.Fatal(err)
	}
	r := imageRig(t, make([]byte, 2048), journalRuns(t, crashed))
	r.blocks = int(dev.Size() / 1024)
	r.lb.bs = 1024
	j, log, err := r.load(dev, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := j.Start(dev, log, nil, WriterOptions{}); err == nil {
		t.Fatal("a dirty journal is written")
	}
	rec, err := j.Recover()
	if err != nil || rec.Len() == 0 {
		t.Fatalf("%+v, %v", rec, err)
	}
	if err := rec.WriteHome(dev); err != nil {
		t.Fatal(err)
	}
	if err := j.Reset(log, rec); err != nil {
		t.Fatal(err)
	}
	l, cache := r.start(t, dev, nil, WriterOptions{})
	logSome(t, l, cache, 20000, 5)
	if l.running.Load().tid-rec.EndTID > 10 {
		t.Errorf("transaction %d follows %d", l.running.Load().tid, rec.EndTID)
	}
	// No Close: this is a crash, and the kernel's turn.
	var snapshot blockdev.Device = dev.Clone()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(dir, "ours")
	if err := blocktest.Dump(snapshot, snapshot.Size(), name); err != nil {
		t.Fatal(err)
	}
	mnt, unmount = mount(t, name, "loop")
	if err := os.WriteFile(filepath.Join(mnt, "more"), []byte("more"), 0o644); err != nil {
		t.Fatal(err)
	}
	unmount()
	run(t, "e2fsck", "-fn", name)
	got := make([]byte, 1024)
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.ReadAt(got, 20004*1024); err != nil || !bytes.Equal(got, content(1024, 20004, 9)) {
		t.Errorf("%v, block begins with %x", err, got[:16])
	}
}
