package testimage

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// Image is a filesystem image that belongs to one test.
type Image struct {
	Config  Config
	Path    string
	Journal string // the external journal, "" when the journal is inside
	Skipped []string
}

// Build makes the image of a configuration below dir and fills it. Where the
// kernel cannot help, or the test runs as an ordinary user, the tree goes in by
// mke2fs -d. It skips the test when e2fsprogs is missing.
func Build(tb testing.TB, dir string, c Config) *Image {
	tb.Helper()
	RequireTools(tb)
	img := &Image{Config: c, Path: filepath.Join(dir, c.Name+".img")}
	if err := img.build(tb, dir); err != nil {
		tb.Fatalf("testimage %s: %v", c.Name, err)
	}
	return img
}

func (img *Image) build(tb testing.TB, dir string) error {
	c := img.Config
	args := slices.Clone(c.Args)
	staged := c.Oracle == Debugfs || os.Geteuid() != 0
	if staged {
		stage := filepath.Join(dir, c.Name+".tree")
		if err := os.Mkdir(stage, 0o755); err != nil {
			return err
		}
		defer removeTree(stage)
		skipped, err := Populate(stage, Options{
			Level: c.Level, Staging: true, BigDir: stagedBigDir(c), BlockSize: c.blockSize()})
		if err != nil {
			return err
		}
		img.Skipped = skipped
		args = append(args, "-d", stage)
	}
	if c.ExternalJournal {
		img.Journal = filepath.Join(dir, c.Name+".journal")
		if err := mke2fsWithJournal(tb, img, args); err != nil {
			return err
		}
	} else if err := Mke2fs(img.Path, c.Size, args...); err != nil {
		return err
	}
	for _, argv := range c.Prepare {
		if err := Run(append(slices.Clone(argv), img.Path)...); err != nil {
			return err
		}
	}
	if !staged {
		if err := img.fill(tb); err != nil {
			return err
		}
	}
	for _, argv := range c.Finish {
		if err := Run(append(slices.Clone(argv), img.Path)...); err != nil {
			return err
		}
	}
	return nil
}

// fill lets the kernel write the tree.
func (img *Image) fill(tb testing.TB) error {
	c := img.Config
	m := MountRW(tb, img, c.MountOptions)
	skipped, err := Populate(m.Dir, Options{Level: c.Level, BigDir: c.BigDir})
	img.Skipped = skipped
	if err != nil {
		return err
	}
	return m.Unmount()
}

// Mke2fs makes an empty (or -d filled) filesystem in a new sparse file.
func Mke2fs(path string, size int64, args ...string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		return err
	}
	return Run(slices.Concat([]string{"mke2fs", "-q", "-F"}, args, []string{path})...)
}

// mke2fsWithJournal makes the journal beside the image. mke2fs wants it on a
// block device.
func mke2fsWithJournal(tb testing.TB, img *Image, args []string) error {
	RequireRoot(tb)
	if err := Mke2fs(img.Journal, 8*mib, "-O", "journal_dev", "-b", "4096"); err != nil {
		return err
	}
	dev, err := newLoop(img.Journal, 0, false)
	if err != nil {
		return err
	}
	defer dev.detach()
	return Mke2fs(img.Path, img.Config.Size, append(args, "-J", "device="+dev.path)...)
}

// RequireTools skips the test where e2fsprogs is not installed.
func RequireTools(tb testing.TB) {
	tb.Helper()
	for _, name := range []string{"mke2fs", "debugfs", "tune2fs", "e2fsck"} {
		if _, err := tool(name); err != nil {
			tb.Skipf("%s is not installed: install e2fsprogs", name)
		}
	}
}

// tool finds a program also where only the superuser's PATH leads.
func tool(name string) (string, error) {
	if p, err := exec.LookPath(name); err == nil {
		return p, nil
	}
	return exec.LookPath(filepath.Join("/usr/sbin", name))
}

// Run runs one command and returns its output as an error when it failed.
// debugfs never says so by its exit status, so anything it prints to stderr
// beside its version is a failure; e2fsck may have corrected something.
func Run(argv ...string) error {
	p, err := tool(argv[0])
	if err != nil {
		return err
	}
	cmd := exec.Command(p, argv[1:]...)
	cmd.Env = append(os.Environ(), "DEBUGFS_PAGER=__none__", "LC_ALL=C.UTF-8")
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	switch argv[0] {
	case "e2fsck":
		var exit *exec.ExitError
		if errors.As(err, &exit) && exit.ExitCode() == 1 {
			err = nil
		}
	case "debugfs":
		if _, rest, _ := strings.Cut(stderr.String(), "\n"); err == nil && strings.TrimSpace(rest) != "" {
			err = errors.New("reported an error")
		}
	}
	if err != nil {
		return fmt.Errorf("%s: %w: %s%s", strings.Join(argv, " "), err, out, stderr.String())
	}
	return nil
}

// removeTree removes a staged tree; immutable files were never made there.
func removeTree(dir string) { _ = os.RemoveAll(dir) }

// stagedBigDir bounds the largest directory by what mke2fs -d is able to make.
func stagedBigDir(c Config) int {
	if c.Level == Rich && c.BigDir == 0 {
		return unindexed
	}
	return min(c.BigDir, unindexed)
}

// blockSize is what the last -b argument says.
func (c Config) blockSize() int64 {
	size := int64(0)
	for i, arg := range c.Args[1:] {
		if c.Args[i] == "-b" {
			size, _ = strconv.ParseInt(arg, 10, 64)
		}
	}
	return size
}
