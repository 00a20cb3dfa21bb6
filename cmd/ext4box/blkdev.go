package main

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"ext4box/mount"
)

// blockDevice is the block device behind files[0], to be held by the kernel while it
// is mounted, or nil if there is none or that cannot be had. It replaces files[0],
// which is the exclusive one, by another that is not. With blkdev=on an image file gets
// a loop device.
func blockDevice(target *mount.Target, files []*os.File, opts *mount.Options, writable bool) (*mount.BlockDevice, error) {
	must := opts.BlkDev == "on"
	if !target.MayMountBlock() {
		if must {
			return nil, &mount.Error{Status: mount.StatusUsage, Err: fmt.Errorf("blkdev=on needs root, and a directory to mount on")}
		}
		return nil, nil
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(files[0].Fd()), &st); err != nil {
		return nil, err
	}
	device := files[0]
	if st.Mode&unix.S_IFMT != unix.S_IFBLK {
		if !must {
			return nil, nil
		}
		loop, err := mount.AttachLoop(device, mount.LoopOptions{ReadOnly: !writable})
		if err != nil {
			return nil, err
		}
		device.Close()
		files[0] = loop // so that it is closed if all fails
		device = loop
	}
	shared, err := mount.Unclaimed(device)
	if err != nil {
		return nil, err
	}
	files[0] = shared
	return &mount.BlockDevice{Path: sourceName(device.Name(), 0), Claim: device, Must: must}, nil
}
