package main

import (
	"fmt"
	"os"

	"ext4box/blockdev"
	"ext4box/ext4"
	"ext4box/mount"
	"ext4box/server"
)

// iomapOptions say whether the kernel is to move file data itself (fuse-iomap).
type iomapOptions struct {
	Mode   string `json:"mode"`   // of the mount option; empty: mount.IomapAuto
	Device string `json:"device"` // the block device, by its path
	Why    string `json:"why"`    // why it cannot, half a sentence; empty: as far as the keeper knows it can
}

// wantDevice finds the block device that a mount needs, if it needs one, and says in
// o.Iomap whether the kernel can move file data itself on it. It may replace files[0].
func wantDevice(target *mount.Target, files []*os.File, o *imageOptions, opts *mount.Options, hold bool, warn func(error)) (*mount.BlockDevice, error) {
	want := deviceWanted{hold: hold, must: opts.BlkDev == "on", iomap: o.Iomap.Why == ""}
	block, err := blockDevice(target, files, o, want)
	if block != nil {
		o.Iomap.Device = block.Path
	}
	if err == nil || !want.iomap {
		return block, err
	}
	o.Iomap.Why = fmt.Sprintf("there is no block device to be had: %v", err)
	if opts.Iomap == mount.IomapOn {
		return nil, mountError(fmt.Errorf("mount option \"iomap=on\": there is no block device to be had: %w", err))
	}
	want.iomap = false
	block, err = blockDevice(target, files, o, want)
	if err == nil {
		warn(fmt.Errorf("file data goes through the server: %s", o.Iomap.Why))
	}
	return block, err
}

// iomapModes are the values of the mount option iomap=.
var iomapModes = map[string]server.IomapMode{
	"": server.IomapAuto, mount.IomapAuto: server.IomapAuto, mount.IomapOn: server.IomapOn, mount.IomapOff: server.IomapOff,
}

// giveDevice fills in the device of an open file system, or returns why the kernel cannot
// move data on it, which it notes as well.
func giveDevice(m *server.Iomap, path string, dev *blockdev.File, fs *ext4.FS) string {
	limits, why := movable(dev, fs)
	if why != "" {
		m.NoDevice = why
		return why
	}
	m.Device, m.Name, m.Offset = int(dev.Fd()), path, uint64(dev.Base())
	m.SectorSize, m.AtomicMin, m.AtomicMax = limits.SectorSize, limits.AtomicMin, limits.AtomicMax
	return ""
}

// movable says why the kernel cannot move the data of an open file system itself, or
// nothing. From then on there is only direct I/O to the device, for what the kernel writes
// shows in no cache.
func movable(dev *blockdev.File, fs *ext4.FS) (limits blockdev.Limits, why string) {
	if why := fs.DataElsewhere(); why != "" {
		return limits, why
	}
	limits, err := dev.Limits()
	if err != nil {
		return limits, err.Error()
	}
	if size := fs.Info().BlockSize; limits.SectorSize > size {
		return limits, fmt.Sprintf("the sectors of the device, of %d bytes, are larger than the blocks of the file system, of %d", limits.SectorSize, size)
	}
	if err := dev.KeepDirect(); err != nil {
		return limits, err.Error()
	}
	return limits, ""
}
