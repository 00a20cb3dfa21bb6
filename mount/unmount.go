package mount

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// UnmountOptions say how to unmount.
type UnmountOptions struct {
	Lazy    bool          // detach now, let users finish; does not wait
	Force   bool          // abort requests that are not answered
	Timeout time.Duration // how long to wait for the image to be closed; 0: for ever
}

// Unmount takes the mount at target off and returns when its server has closed
// the image, so that the image can be copied or mounted again at once. target is
// the mount point, or the image when it is mounted in one place.
func Unmount(target string, o UnmountOptions) error {
	i, err := findMount(target)
	if err != nil {
		return err
	}
	state := findState(&i) // before the name can go to another mount
	defer state.Close()
	flags := 0
	if o.Lazy {
		flags |= unix.MNT_DETACH
	}
	if o.Force {
		flags |= unix.MNT_FORCE
	}
	if err := detach(i.Dir, flags); err != nil {
		return unmountError(i.Dir, err)
	}
	if state == nil || o.Lazy {
		return nil
	}
	switch err := state.WaitClosed(o.Timeout); {
	case errors.Is(err, errTimeout):
		pid := ""
		if r, err := state.Record(); err == nil {
			pid = fmt.Sprintf(" (process %d)", r.PID)
		}
		return failedf("%s is unmounted, but after %v its server%s still has %s open: "+
			"another mount namespace may be using it", i.Dir, o.Timeout, pid, i.Source)
	case err != nil:
		return systemf("%s is unmounted, but waiting for its server failed: %w", i.Dir, err)
	}
	if r, err := state.Record(); err == nil && r.Failed != "" {
		return failedf("%s is unmounted, but its server has failed, and what was written last may be lost: %s", i.Dir, plain(r.Failed))
	}
	return nil
}

// findMount finds the mount that target names.
func findMount(target string) (Info, error) {
	mounts, err := Mounts()
	if err != nil {
		return Info{}, err
	}
	path, err := canonical(target)
	if err != nil {
		return Info{}, failedf("%s: %w", target, errors.Unwrap(err))
	}
	i, isMount := top(mounts, path)
	if !isMount {
		// A symbolic link to the mount point. Following it is safe now: it is
		// not itself the root of a mount.
		if real, err := filepath.EvalSymlinks(path); err == nil {
			path = real
		}
		i, isMount = top(mounts, path)
	}
	if isMount {
		if !ours(i.Type) {
			return Info{}, failedf("the mount on %s is %s, not ext4box's: use umount", path, i.Type)
		}
		return i, nil
	}
	found := bySource(mounts, os.Geteuid(), target, path)
	switch len(found) {
	case 0:
		return Info{}, failedf("%s is not mounted", target)
	case 1:
		return found[0], nil
	default:
		return Info{}, failedf("%s is mounted on %s and on %s: name the directory",
			target, found[0].Dir, found[1].Dir)
	}
}

// bySource finds the mounts of an image, by any of its names. Others can give theirs whatever name they like,
// so a user's own come first.
func bySource(mounts []Info, uid int, names ...string) (found []Info) {
	var others []Info
	for _, i := range mounts {
		image := i.image()
		if !ours(i.Type) || !slices.Contains(names, i.Source) && (image == "" || !slices.Contains(names, image)) {
			continue
		}
		if owner, ok := i.UserID(); ok && owner == uid {
			found = append(found, i)
		} else {
			others = append(others, i)
		}
	}
	if found == nil {
		return others
	}
	return found
}

// image is the image of a mount whose source is a loop device, if that is known.
func (i *Info) image() string {
	if i.Type != BlockType {
		return ""
	}
	s := findState(i)
	if s == nil {
		return ""
	}
	defer s.Close()
	r, err := s.Record()
	if err != nil {
		return ""
	}
	return r.Image
}

// detach unmounts dir, with flags of umount2(2), by itself or by fusermount3.
func detach(dir string, flags int) error {
	err := umountAt(dir, flags)
	if !errors.Is(err, unix.EPERM) {
		return err
	}
	program, perr := Fusermount()
	if perr != nil {
		return perr
	}
	args := []string{"-u"}
	if flags&unix.MNT_DETACH != 0 {
		args = append(args, "-z")
	}
	cmd := exec.Command(program, append(args, "--", dir)...)
	var text bytes.Buffer
	cmd.Stderr = &text
	if err := cmd.Run(); err != nil {
		if bytes.Contains(text.Bytes(), []byte("busy")) {
			return unix.EBUSY
		}
		return fusermountError(program, text.String(), err)
	}
	return nil
}

// umountAt is umount2(2) of a directory as the list of mounts has it, without symbolic links on the
// way. Whoever owns a directory there could make it one meanwhile, for root to unmount something else.
func umountAt(dir string, flags int) error {
	flags |= unix.UMOUNT_NOFOLLOW
	how := unix.OpenHow{Flags: unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_SYMLINKS}
	parent, err := unix.Openat2(unix.AT_FDCWD, filepath.Dir(dir), &how)
	switch {
	case errors.Is(err, unix.ENOSYS): // Linux before 5.6
		return unix.Unmount(dir, flags)
	case err != nil:
		return err
	}
	defer unix.Close(parent)
	return unix.Unmount(fmt.Sprintf("/proc/self/fd/%d/%s", parent, filepath.Base(dir)), flags)
}

func unmountError(dir string, err error) error {
	switch {
	case errors.Is(err, unix.EBUSY):
		return failedf("%s is in use: 'fuser -vm %s' shows by whom; "+
			"'ext4box umount --lazy %s' takes it off now and ends the server when the last user is gone",
			dir, dir, dir)
	case errors.Is(err, unix.EINVAL):
		return failedf("%s is not mounted", dir)
	default:
		if _, ok := errors.AsType[*Error](err); ok {
			return err
		}
		return failedf("unmount %s: %w", dir, err)
	}
}

// detachDevice takes the mount of source with device number dev off, wherever it
// is in this mount namespace by now, and nothing else. Busy ones are detached
// lazily. It tells whether there was one.
//
// A device number goes to the next mount as soon as its own is gone; the source
// keeps that one from being taken for this.
func detachDevice(dev Dev, source string) (mounted bool) {
	mounts, err := Mounts()
	if err != nil {
		return false
	}
	for n := len(mounts) - 1; n >= 0; n-- {
		i := &mounts[n]
		if i.Dev != dev || !ours(i.Type) || i.Source != source {
			continue
		}
		err := detach(i.Dir, 0)
		if errors.Is(err, unix.EBUSY) {
			err = detach(i.Dir, unix.MNT_DETACH)
		}
		mounted = mounted || err == nil
	}
	return mounted
}
