package vfs

import (
	"fmt"
	"syscall"

	"ext4box/blockdev"
	"ext4box/fuse"
)

// backing is a device that the server has registered.
type backing struct {
	id        uint32
	dev       blockdev.Device
	blocksize uint64 // of its own page cache
}

// maxBackings is the largest number of a registered device.
const maxBackings = 1024

// backing returns the device that a mapping names, nil if there is none.
func (fs *FS) backing(id uint32) *backing {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if id == 0 || uint64(id) > uint64(len(fs.devices)) {
		return nil
	}
	return fs.devices[id-1]
}

// ioctl serves those of /dev/fuse.
func (fs *FS) ioctl(cmd uint32, arg []byte) (int, syscall.Errno) {
	if !fs.tamper(&Message{Ioctl: cmd, Payload: arg}) {
		return 0, 0
	}
	switch cmd {
	case fuse.DevIocBackingOpen:
		m := decode[fuse.BackingMap](arg)
		line := fs.trace.note(fmt.Sprintf("ioctl BACKING_OPEN fd=%d type=%d", m.FD, m.Flags))
		id, errno := fs.backingOpen(m, arg)
		fs.trace.end(line, errno, fmt.Sprint(id))
		return id, errno
	case fuse.DevIocBackingClose:
		fs.trace.note("ioctl BACKING_CLOSE")
		return 0, fs.backingClose(decode[uint32](arg))
	case fuse.DevIocIomapSetBlocksize:
		in := decode[fuse.IomapBackingInfo](arg)
		line := fs.trace.note(fmt.Sprintf("ioctl SET_BLOCKSIZE dev=%d size=%d", in.ID, in.Blocksize))
		errno := fs.setBlocksize(in)
		fs.trace.end(line, errno, "")
		return 0, errno
	case fuse.DevIocSetNofs:
		if v := decode[uint32](arg); v > 1 {
			fs.violate("SET_NOFS with %d", v)
			return 0, syscall.EINVAL
		}
		return 0, 0
	case fuse.DevIocAddIomap:
		if fs.cfg.Generation == Later {
			return 0, syscall.EINVAL
		}
		return 0, 0
	}
	return 0, syscall.ENOTTY
}

// backingOpen registers a device. What a server may try without knowing better is no violation.
func (fs *FS) backingOpen(m fuse.BackingMap, arg []byte) (int, syscall.Errno) {
	const typeMask = 0xFF
	switch {
	case m.Flags&typeMask == 0:
		return 0, syscall.EPERM // passthrough is not modelled
	case m.Flags&typeMask != fuse.BackingIomap:
		fs.violate("BACKING_OPEN of type %d", m.Flags&typeMask)
		return 0, syscall.EOPNOTSUPP
	case fs.k.Session.Protocol() == nil || !fs.k.Session.Protocol().Iomap:
		return 0, syscall.EPERM
	case m.Flags&^typeMask != 0:
		fs.violate("BACKING_OPEN with flags %#x", m.Flags)
		return 0, syscall.EINVAL
	case len(arg) < 16 || decode[uint64](arg[8:]) != 0:
		fs.violate("BACKING_OPEN with padding that is not zero")
		return 0, syscall.EINVAL
	case m.FD < 0:
		return 0, syscall.EBADF
	}
	dev := fs.cfg.Devices[int(m.FD)]
	if dev == nil {
		return 0, syscall.ENODEV
	}
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if len(fs.devices) == maxBackings {
		return 0, syscall.ENOSPC
	}
	fs.devices = append(fs.devices, &backing{id: uint32(len(fs.devices) + 1), dev: dev, blocksize: 4096})
	return len(fs.devices), 0
}

func (fs *FS) backingClose(id uint32) syscall.Errno {
	if fs.backing(id) == nil {
		return syscall.ENOENT
	}
	if fs.cfg.Generation == V7 {
		return syscall.EBUSY
	}
	fs.mu.Lock()
	defer fs.mu.Unlock()
	for _, in := range fs.inodes {
		if in.flags.iomap {
			return syscall.EBUSY
		}
	}
	fs.devices[id-1] = nil
	return 0
}

func (fs *FS) setBlocksize(in fuse.IomapBackingInfo) syscall.Errno {
	switch b := fs.backing(in.ID); {
	case fs.k.Session.Protocol() == nil || !fs.k.Session.Protocol().Iomap:
		return syscall.EOPNOTSUPP
	case b == nil:
		fs.violate("SET_BLOCKSIZE of device %d, which is not registered", in.ID)
		return syscall.ENOENT
	case !validBlocksize(in.Blocksize):
		fs.violate("SET_BLOCKSIZE to %d", in.Blocksize)
		return syscall.EINVAL
	default:
		b.blocksize = uint64(in.Blocksize)
		return 0
	}
}

// sectorSize is the unit of direct I/O.
const sectorSize = 512

// readDevice reads data from where a mapping says.
func (in *inode) readDevice(m *mapping, p []byte, pos uint64) syscall.Errno {
	addr := m.addr + (pos - m.offset)
	in.fs.hold(&Event{Stage: DeviceRead, NodeID: in.nodeid, Pos: pos, Count: uint64(len(p)), Dev: m.dev, Addr: addr}, nil)
	b := in.fs.backing(m.dev)
	if b == nil || addr+uint64(len(p)) > uint64(b.dev.Size()) {
		in.fs.violate("node %d: data at %d is read from %d of device %d, behind its end", in.nodeid, pos, addr, m.dev)
		return syscall.EIO
	}
	if n, err := b.dev.ReadAt(p, int64(addr)); n < len(p) {
		return ioErrno(err)
	}
	return 0
}

// writeDevice writes data to an address.
func (in *inode) writeDevice(dev uint32, addr uint64, p []byte, pos uint64, detached func()) syscall.Errno {
	in.fs.hold(&Event{Stage: DeviceWrite, NodeID: in.nodeid, Pos: pos, Count: uint64(len(p)), Dev: dev, Addr: addr}, detached)
	b := in.fs.backing(dev)
	if b == nil || addr+uint64(len(p)) > uint64(b.dev.Size()) {
		in.fs.violate("node %d: data at %d is written to %d of device %d, behind its end", in.nodeid, pos, addr, dev)
		return syscall.EIO
	}
	if in.fs.dead.Load() {
		return syscall.EIO // whatever is not on the device when the server dies never gets there
	}
	if _, err := b.dev.WriteAt(p, int64(addr)); err != nil {
		return ioErrno(err)
	}
	return 0
}

// ioErrno is what the block layer makes of the failure of a device.
func ioErrno(err error) syscall.Errno {
	switch e := errnoIn(err); e {
	case syscall.ENOSPC, syscall.ETIMEDOUT, syscall.ENODATA:
		return e
	default:
		return syscall.EIO
	}
}
