package probe

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"ext4box/mount"
)

// iomap tells whether the kernel can move file data itself.
func iomap(kernel mount.Iomap) Check {
	const name = "fuse-iomap"
	if kernel.Why != "" {
		return no(name, kernel.Why, kernel.Advice)
	}
	return yes(name, "the kernel has it, it is switched on, and this user may use it")
}

// dataPath tells which way the data of files would go, were the image mounted: the
// file, or one like those in the directory.
func dataPath(kernel mount.Iomap, o Options) Check {
	const name = "data-path"
	server := func(why string) Check { return no(name, "file data goes through the server: "+why, "") }
	if kernel.Why != "" {
		return server(kernel.Why)
	}
	path, what := o.File, o.File
	if path == "" {
		path, what = o.Dir, "an image file"
	}
	st, err := os.Stat(path)
	if err != nil {
		return Check{Name: name, Answer: Unknown, Detail: err.Error()}
	}
	if st.Mode()&os.ModeDevice != 0 {
		return yes(name, "the kernel moves file data itself, on "+what)
	}
	if why := noLoop(o.File); why != "" {
		return server("there is no block device to be had: " + why)
	}
	return yes(name, "the kernel moves file data itself, on "+what+" behind a loop device")
}

// noLoop says why a file cannot get a loop device with direct I/O, as far as that shows
// without trying; or nothing.
func noLoop(file string) string {
	control, err := unix.Open(loopControl, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Sprintf("open %s: %v", loopControl, err)
	}
	unix.Close(control)
	if file == "" {
		return ""
	}
	fd, err := unix.Open(file, unix.O_RDONLY|unix.O_DIRECT|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP) {
		return "no direct I/O to " + file
	}
	if err != nil {
		return strings.TrimSpace(fmt.Sprintf("open %s: %v", file, err))
	}
	unix.Close(fd)
	return ""
}
