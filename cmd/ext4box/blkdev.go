package main

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"ext4box/blockdev"
	"ext4box/mount"
)

// deviceWanted says what a mount needs a block device for.
type deviceWanted struct {
	hold  bool // the kernel holds it while it is mounted
	must  bool // and no other mount will do
	iomap bool // the kernel moves file data itself
}

// blockDevice is the block device behind files[0], claimed, or nil if there is none or it
// is not needed. It replaces files[0], which is the exclusive one, by another that is not.
// An image file gets a loop device if it must.
func blockDevice(target *mount.Target, files []*os.File, o *imageOptions, want deviceWanted) (*mount.BlockDevice, error) {
	if want.hold && !target.MayMountBlock() {
		if want.must {
			return nil, &mount.Error{Status: mount.StatusUsage, Err: fmt.Errorf("blkdev=on needs root, and a directory to mount on")}
		}
		want.hold = false
	}
	if !want.hold && !want.iomap {
		return nil, nil
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(files[0].Fd()), &st); err != nil {
		return nil, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFBLK {
		if !want.must && !want.iomap {
			return nil, nil
		}
		if err := attachLoop(files, st.Size, o, want.iomap); err != nil {
			return nil, err
		}
		want.hold = want.must
	}
	claim := files[0]
	shared, err := blockdev.Reopen(claim)
	if err != nil {
		return nil, err
	}
	files[0] = shared
	return &mount.BlockDevice{Path: sourceName(claim.Name(), 0), Claim: claim, Must: want.must, ClaimOnly: !want.hold}, nil
}

// attachLoop replaces the image file files[0], of such a size, by a loop device of the
// part of it that is asked for. strict asks for direct I/O.
func attachLoop(files []*os.File, size int64, o *imageOptions, strict bool) error {
	lo := mount.LoopOptions{ReadOnly: !o.Writable, Direct: strict}
	// That a part begins behind the end is for the server to say.
	window := int64(o.Offset) < size
	if window {
		lo.Offset, lo.SizeLimit = int64(o.Offset), int64(o.SizeLimit)
	}
	loop, err := mount.AttachLoop(files[0], lo)
	if err != nil {
		return err
	}
	files[0].Close()
	files[0] = loop // so that it is closed if all fails
	o.AnySector = true
	if window {
		o.Offset, o.SizeLimit = 0, 0
	}
	return nil
}
