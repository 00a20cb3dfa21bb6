package mount

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"ext4box/blockdev"
)

// BlockType is the type of mounts that hold a block device; see [BlockDevice].
const BlockType = "fuseblk." + Subtype

// ours tells whether a type in mountinfo is one that this package mounts.
func ours(typ string) bool { return typ == FSType || typ == BlockType }

// blockSize is the unit in which the kernel caches a device that it holds, in bytes.
// It is at least that of any device, and that of the page cache.
const blockSize = 4096

// BlockDevice is a device that is mounted with the type fuseblk: the kernel holds it
// as long as it is mounted, syncfs(2) reaches the server, and umount(2) returns when
// the server has closed the device. Only root of the machine can have that.
type BlockDevice struct {
	Path string // as fstab would name it
	// Claim is the device opened with O_EXCL. Until the kernel takes over it keeps
	// others off, and it is closed just before, or the kernel would be one of them.
	// What the server is given must have been opened without.
	Claim *os.File
	// Must says that no other mount will do.
	Must bool
	// ClaimOnly says that the device is not for the kernel to hold, but to keep others off
	// while it is mounted in another way.
	ClaimOnly bool
}

// mountBlock mounts the device. On error nothing is mounted, and the claim is there
// as before, unless somebody else has taken the device meanwhile.
func (t *Target) mountBlock(b *BlockDevice, o Options) (*Mounted, error) {
	dev, err := t.openFuse()
	if err != nil {
		return nil, err
	}
	again, err := blockdev.Reopen(b.Claim)
	if err != nil {
		dev.Close()
		return nil, systemf("%w", err)
	}
	defer again.Close()
	b.Claim.Close()
	b.Claim = nil
	if err = mountKernel(dev, t.dir, b.Path, &o, true); err != nil {
		dev.Close()
		return nil, errors.Join(failedf("mount on %s: %w", t.Path, err), b.reclaim(again))
	}
	return t.mounted(dev, b.Path)
}

// reclaim takes the device back when the kernel has not taken it.
func (b *BlockDevice) reclaim(f *os.File) error {
	flags, err := unix.FcntlInt(f.Fd(), unix.F_GETFL, 0)
	if err != nil {
		return systemf("%w", err)
	}
	fd, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", f.Fd()), flags&unix.O_ACCMODE|unix.O_EXCL|unix.O_CLOEXEC|unix.O_NOCTTY, 0)
	if err != nil {
		return failedf("%s was taken by somebody else: %w", b.Path, err)
	}
	b.Claim = os.NewFile(uintptr(fd), f.Name())
	return nil
}

// mount mounts in the best way that there is, and sets l.mounted.
func (l *launcher) mount() error {
	o := l.Request.Options
	l.Target.iomap = l.Iomap
	block := l.Block != nil && !l.Block.ClaimOnly
	if l.Iomap && l.Target.dir != nil && !(block && l.Block.Must) {
		// With fuse-iomap the kernel sends SYNCFS and DESTROY in any case.
		if m, err := l.Target.prepareSync(l.source(), &o); err == nil {
			return l.mountSync(m)
		}
		block = false
	}
	var err error
	if block {
		l.mounted, err = l.Target.mountBlock(l.Block, o)
		if err == nil || l.Block.Must || l.Block.Claim == nil {
			return err
		}
	}
	l.mounted, err = l.Target.Mount(l.Request.Source, o)
	return err
}

// source is what the list of mounts shows, except of block devices.
func (l *launcher) source() string {
	if name := l.Request.Options.FSName; name != "" {
		return name
	}
	return l.Request.Source
}

// MayMountBlock tells whether a device can be mounted, as far as that shows without
// trying.
func (t *Target) MayMountBlock() bool { return t.dir != nil && mayMount() }
