package fuse

import (
	"errors"
	"fmt"
	"sync"
	"syscall"
	"unsafe"
)

// Controller is a Transport whose connection takes the ioctls of /dev/fuse.
type Controller interface {
	Transport
	// Control issues an ioctl on the connection. arg is what the argument points to, and takes what
	// comes back; empty for ioctls that take none. Errors keep the errno; ENOTTY is a kernel that
	// does not know it.
	Control(cmd uint32, arg []byte) (int, error)
}

// control is Control of the session's transport.
func (s *Session) control(what string, cmd uint32, arg []byte) (int, error) {
	c, ok := s.t.(Controller)
	if !ok {
		return 0, fmt.Errorf("%s: the transport has no ioctls: %w", what, syscall.ENOTTY)
	}
	n, err := c.Control(cmd, arg)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", what, err)
	}
	return n, nil
}

// grantIomap decides on fuse-iomap, once everything else is settled. The version comes first, because the
// bit that offers it means something else in others, and then the question that only a kernel with the
// extension answers.
func (s *Session) grantIomap(p *Protocol) {
	want := &s.want
	switch {
	case !want.Iomap:
		p.refuseIomap("it was not asked for")
		return
	case p.KernelMinor < IomapMinor:
		p.refuseIomap(fmt.Sprintf("the kernel speaks FUSE %d.%d and does not have it", Major, p.KernelMinor))
		return
	case p.KernelMinor > IomapMinor && p.KernelMinor != want.IomapMinor:
		p.refuseIomap(fmt.Sprintf("the kernel speaks FUSE %d.%d, of which it is not known", Major, p.KernelMinor))
		return
	case p.Offered&InitIomap == 0:
		p.refuseIomap("the kernel does not offer it: it is switched off, or the mounter lacks CAP_SYS_RAWIO")
		return
	}
	support := IomapSupport{}
	_, err := s.control("ask for fuse-iomap", DevIocIomapSupport, raw(&support))
	p.IomapSupport = support.Flags
	switch {
	case errors.Is(err, syscall.ENOTTY):
		p.refuseIomap("the kernel does not have it")
	case err != nil:
		p.refuseIomap(err.Error())
	case support.Flags&IomapSupportFileIO == 0:
		p.refuseIomap("the kernel does not allow it here")
	default:
		p.Iomap, p.Minor, p.NoIomap = true, IomapMinor, ""
	}
}

// refuseIomap leaves the connection without fuse-iomap.
func (p *Protocol) refuseIomap(why string) {
	p.Iomap, p.Minor, p.NoIomap = false, min(p.KernelMinor, MaxMinor), why
}

// OpenBacking registers a block device, opened for reading and writing, by its descriptor, and returns
// the number that mappings name it by. It stays registered until the connection ends.
func (s *Session) OpenBacking(fd int) (uint32, error) {
	n, err := s.control("register the device", DevIocBackingOpen, raw(&BackingMap{FD: int32(fd), Flags: BackingIomap}))
	return uint32(n), err
}

// SetBackingBlocksize sets the block size of the page cache of a registered device.
func (s *Session) SetBackingBlocksize(dev, size uint32) error {
	_, err := s.control("set the block size of the device", DevIocIomapSetBlocksize, raw(&IomapBackingInfo{ID: dev, Blocksize: size}))
	return err
}

// UpsertMappings puts mappings into the kernel's cache. It may be called from IomapBegin, and with
// locks held that operations take. Only from its success on may IomapBegin answer IomapRetryCache for
// the inode. The errno tells what the kernel made of it: ESTALE, it does not know the inode; EINVAL, the
// inode has another number or no mappings; EUCLEAN, a mapping breaks a rule. It is never to be called
// for an inode that was not announced with AttrIomap: early kernels do not check that.
func (s *Session) UpsertMappings(m *IomapUpsertMappings) error {
	const what = "IOMAP_UPSERT_MAPPINGS"
	if !s.iomap() {
		return s.notify(what, NotifyIomapUpsertMappings, false)
	}
	n := upserts.Get().(*upsert)
	defer upserts.Put(n)
	n.msg.Len, n.msg.Error = uint32(unsafe.Sizeof(n.msg)), NotifyIomapUpsertMappings
	n.msg.IomapUpsertMappings = *m
	n.parts[0] = raw(&n.msg)
	if err := s.t.Notify(n.parts[:]...); err != nil {
		return fmt.Errorf("notify %s: %w", what, err)
	}
	return nil
}

// upsert is the memory of one UpsertMappings, which comes with nearly every BEGIN and is to cost no
// allocation.
type upsert struct {
	msg struct {
		OutHeader
		IomapUpsertMappings
	}
	parts [1][]byte
}

var upserts = sync.Pool{New: func() any { return new(upsert) }}

// InvalMappings drops mappings from the kernel's cache, but no data. It may be called wherever
// UpsertMappings may. That the kernel does not know the inode is success.
func (s *Session) InvalMappings(m *IomapInvalMappings) error {
	err := s.tolerate(s.notify("IOMAP_INVAL_MAPPINGS", NotifyIomapInvalMappings, s.iomap(), raw(m)))
	if errors.Is(err, syscall.ESTALE) {
		return nil
	}
	return err
}

// InvalDevice drops what the page cache of a registered device has of a range, without writing it. Who
// reads and writes the device past its page cache does not need it. The kernel locks the device: no
// lock may be held that a write to it waits for.
func (s *Session) InvalDevice(m *IomapDevInval) error {
	return s.notify("IOMAP_DEV_INVAL", NotifyIomapDevInval, s.iomap(), raw(m))
}

func (s *Session) iomap() bool {
	p := s.Protocol()
	return p != nil && p.Iomap
}
