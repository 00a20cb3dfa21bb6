package mount

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// LoopOptions say which part of an image a loop device shows, and how.
type LoopOptions struct {
	ReadOnly bool
	// Offset and SizeLimit are the part, in bytes. A SizeLimit of 0 is the rest.
	Offset, SizeLimit int64
	// Direct asks for a device that bypasses the page cache of the image in any case.
	// Without, one that cannot goes through it.
	Direct bool
}

// AttachLoop makes a loop device of an image file, which is open, with direct I/O, and
// returns it opened with O_EXCL. Its sectors are the smallest that direct I/O to the
// image allows, for a file system cannot have smaller blocks. The kernel takes it apart
// when nobody has it open any more, however that came; it keeps the image's lock till
// then.
//
// An image that another loop device shows is refused, unless both only read.
func AttachLoop(image *os.File, o LoopOptions) (*os.File, error) {
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return nil, failedf("attach a loop device: %w", err)
	}
	defer control.Close()
	if other := loopOf(image, o.ReadOnly); other != "" {
		return nil, failedf("attach a loop device: %s is in use by %s already: %w", image.Name(), other, unix.EBUSY)
	}
	c := unix.LoopConfig{Fd: uint32(image.Fd()), Size: loopSector(image)}
	c.Info.Flags = unix.LO_FLAGS_AUTOCLEAR | unix.LO_FLAGS_DIRECT_IO
	c.Info.Offset, c.Info.Sizelimit = uint64(o.Offset), uint64(o.SizeLimit)
	mode := os.O_RDWR
	if o.ReadOnly {
		c.Info.Flags |= unix.LO_FLAGS_READ_ONLY
		mode = os.O_RDONLY
	}
	copy(c.Info.File_name[:len(c.Info.File_name)-1], image.Name())
	for range 64 { // others may be faster
		n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return nil, failedf("attach a loop device: %w", err)
		}
		path := fmt.Sprintf("/dev/loop%d", n)
		loop, err := os.OpenFile(path, mode|unix.O_EXCL, 0)
		if err == nil {
			if err = unix.IoctlLoopConfigure(int(loop.Fd()), &c); err == nil {
				err = checkLoop(loop, image, &o)
			}
			if err == nil {
				return loop, nil
			}
			loop.Close()
		}
		if !errors.Is(err, unix.EBUSY) {
			return nil, failedf("attach %s to %s: %w", path, image.Name(), err)
		}
	}
	return nil, failedf("attach a loop device: all are in use")
}

// checkLoop looks at a new loop device: the kernel gives up direct I/O without a word.
func checkLoop(loop, image *os.File, o *LoopOptions) error {
	if !o.Direct {
		return nil
	}
	info, err := unix.IoctlLoopGetStatus64(int(loop.Fd()))
	if err != nil {
		return err
	}
	if info.Flags&unix.LO_FLAGS_DIRECT_IO == 0 {
		return fmt.Errorf("no direct I/O to %s from offset %d: %w", image.Name(), o.Offset, unix.EOPNOTSUPP)
	}
	return nil
}

// loopOf finds a loop device that shows the file, or "". If reading is all that is meant
// to be done, others that only read are not in the way.
//
// The device itself tells which file it has, whatever became of the file's name.
func loopOf(image *os.File, readOnly bool) string {
	var st unix.Stat_t
	if unix.Fstat(int(image.Fd()), &st) != nil {
		return ""
	}
	attached, err := filepath.Glob("/sys/block/loop*/loop")
	if err != nil {
		return ""
	}
	for _, dir := range attached {
		path := filepath.Join("/dev", filepath.Base(filepath.Dir(dir)))
		info, err := loopInfo(path)
		if err != nil || info.Device != st.Dev || info.Inode != st.Ino {
			continue // another file, or detached meanwhile
		}
		if readOnly && info.Flags&unix.LO_FLAGS_READ_ONLY != 0 {
			continue
		}
		return path
	}
	return ""
}

func loopInfo(path string) (*unix.LoopInfo64, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return unix.IoctlLoopGetStatus64(int(f.Fd()))
}

// loopSector is the sector size of a loop device that can do direct I/O to the file.
func loopSector(f *os.File) uint32 {
	var st unix.Statx_t
	err := unix.Statx(int(f.Fd()), "", unix.AT_EMPTY_PATH, unix.STATX_DIOALIGN, &st)
	if err == nil && st.Dio_offset_align >= 512 && st.Dio_offset_align <= blockSize {
		return st.Dio_offset_align
	}
	return 512
}
