package mount

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// AttachLoop makes a loop device of an image file, which is open, with direct I/O, and
// returns it opened with O_EXCL. The kernel takes it apart when nobody has it open
// any more; it keeps the image's lock till then.
func AttachLoop(image *os.File, readOnly bool) (*os.File, error) {
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return nil, failedf("attach a loop device: %w", err)
	}
	defer control.Close()
	c := unix.LoopConfig{Fd: uint32(image.Fd()), Size: loopSector(image)}
	c.Info.Flags = unix.LO_FLAGS_AUTOCLEAR | unix.LO_FLAGS_DIRECT_IO
	mode := os.O_RDWR
	if readOnly {
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

// loopSector is the sector size of a loop device that can do direct I/O to the file.
func loopSector(f *os.File) uint32 {
	var st unix.Statx_t
	err := unix.Statx(int(f.Fd()), "", unix.AT_EMPTY_PATH, unix.STATX_DIOALIGN, &st)
	if err == nil && st.Dio_offset_align >= 512 && st.Dio_offset_align <= blockSize {
		return st.Dio_offset_align
	}
	return 512
}
