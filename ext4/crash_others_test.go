package ext4_test

import (
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"ext4box/blockdev"
	"ext4box/blockdev/blocktest"
	"ext4box/ext4"
	"ext4box/internal/testimage"
)

// dump writes the devices to files for e2fsck, and says with which arguments.
func (r *crashRig) dump(dev, journal blockdev.Device) (path string, args []string, err error) {
	path = filepath.Join(r.scratch, "judged")
	if err := blocktest.Dump(dev, dev.Size(), path); err != nil || journal == nil {
		return path, nil, err
	}
	return path, []string{"-j", path + ".journal"}, blocktest.Dump(journal, journal.Size(), path+".journal")
}

func runFsck(path string, args ...string) error {
	out, err := exec.Command("e2fsck", append(args, path)...).CombinedOutput()
	if err != nil || strings.Contains(string(out), "UNEXPECTED") {
		return fmt.Errorf("e2fsck %q: %v\n%s", args, err, out)
	}
	return nil
}

// byE2fsck has e2fsck replay the journal, which must be all that is needed, and
// ext4box look at the result. decided is false for what e2fsck is known to get
// wrong, and the kernel has to be asked about.
func (r *crashRig) byE2fsck(dev, journal blockdev.Device, cut int64) (decided bool, err error) {
	path, args, err := r.dump(dev, journal)
	if err != nil {
		return true, err
	}
	// -p does what is safe without asking, and fails where it would have to ask.
	out, err := exec.Command("e2fsck", append(args, "-fp", path)...).CombinedOutput()
	if strings.Contains(string(out), "was corrupt, replay was aborted") {
		// The power was cut while a commit block was written, of which only the
		// first sector is new. It is complete as far as it says anything; Linux
		// has known that since 6.10, e2fsck 1.47.0 takes it for damage.
		return false, nil
	}
	if strings.Contains(string(out), "Clearing orphaned inode") && strings.Contains(string(out), ": Unattached inode ") &&
		strings.Contains(r.config.args, "ea_inode") {
		// When e2fsck 1.47.0 deletes an orphan it forgets the values of attributes
		// that have inodes of their own and are named inside the orphan's.
		return false, nil
	}
	var exit *exec.ExitError
	if err != nil && (!errors.As(err, &exit) || exit.ExitCode() > 1) {
		return true, fmt.Errorf("e2fsck -fp: %v\n%s", err, out)
	}
	if strings.Contains(string(out), "Truncating orphaned inode") && strings.Contains(string(out), ", i_blocks is ") {
		// When e2fsck finishes a truncation it drops the attribute block of the
		// file as well, and then finds the count of its blocks wrong. The kernel
		// keeps it, so its verdict on such an image is what counts.
		return false, nil
	}
	if strings.Contains(string(out), "Truncating orphaned inode") && strings.Contains(string(out), ", i_size is ") &&
		strings.Contains(r.config.args, "bigalloc") {
		// When e2fsck finishes a truncation it leaves the rest of the last cluster
		// mapped, and then takes the size for wrong.
		return false, nil
	}
	if err := unexpectedRepairs(string(out)); err != nil {
		return true, err
	}
	if err := r.judgeFile(path, args, cut); err != nil {
		return true, fmt.Errorf("recovered by e2fsck: %w", err)
	}
	return true, nil
}

// byKernel has the kernel recover.
func (r *crashRig) byKernel(t *testing.T, dev, journal blockdev.Device, cut int64) error {
	path, args, err := r.dump(dev, journal)
	if err != nil {
		return err
	}
	img := &testimage.Image{Path: path}
	if journal != nil {
		img.Journal = path + ".journal"
	}
	r.mounted++
	if err := testimage.MountRW(t, img, "").Unmount(); err != nil {
		return err
	}
	if err := r.judgeFile(path, args, cut); err != nil {
		return fmt.Errorf("recovered by the kernel: %w", err)
	}
	return nil
}

// judgeFile looks at what another recovered in the files of dump.
func (r *crashRig) judgeFile(path string, args []string, cut int64) error {
	if err := runFsck(path, append(args, "-fn")...); err != nil {
		return err
	}
	dev, err := blocktest.LoadMem(path)
	if err != nil {
		return err
	}
	var journal blockdev.Device
	if len(args) > 0 {
		if journal, err = blocktest.LoadMem(path + ".journal"); err != nil {
			return err
		}
	}
	fs, err := r.open(dev, journal, ext4.Options{ReadOnly: true})
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	return errors.Join(r.judge(fs, cut), fs.Close())
}

// unexpectedRepairs finds what e2fsck did beyond replaying the journal,
// finishing orphans and summing up free counts, which a crash of the kernel
// leaves as well, and remarks.
func unexpectedRepairs(out string) error {
	for line := range strings.Lines(out) {
		_, what, ok := strings.Cut(line, ": ")
		if !ok {
			what = line
		}
		what = strings.TrimSpace(what)
		switch {
		case what == "", strings.HasPrefix(what, "recovering journal"),
			strings.HasPrefix(what, "Clearing orphaned inode"), strings.HasPrefix(what, "Truncating orphaned inode"),
			// What e2fsck says of crashes of the kernel with an orphan file too.
			strings.HasPrefix(what, "Feature orphan_present is set but orphan file is clean"),
			strings.HasPrefix(what, "Orphan file (inode ") && strings.HasSuffix(what, " is not clean."), what == "CLEARED.",
			// It looks for the journal on every loop device there is.
			strings.HasPrefix(what, "Superblock hint for external superblock should be "),
			strings.HasPrefix(what, "Setting free "), strings.Contains(what, "non-contiguous"),
			strings.HasSuffix(what, "could be shorter.  IGNORED."), strings.HasSuffix(what, "could be narrower.  IGNORED."):
		default:
			return fmt.Errorf("e2fsck repaired more than a crash leaves: %s", out)
		}
	}
	return nil
}
