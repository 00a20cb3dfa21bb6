package server

import (
	"encoding/binary"
	"syscall"

	"ext4box/ext4"
	"ext4box/fuse"

	"golang.org/x/sys/unix"
)

// The ioctls that the kernel passes to file servers: those of lsattr(1) and
// tune2fs -L, as far as they only read. Some are missing from x/sys.
const (
	fsIocGetVersion = 0x80087601 // _IOR('v', 1, long)
	fsIocFSGetXattr = 0x801C581F // _IOR('X', 31, struct fsxattr)
	fsIocGetFSLabel = 0x81009431 // _IOR(0x94, 49, char[256])
	fsLabelMax      = 256
	fsxattrSize     = 28
)

// xflags are the flags of struct fsxattr that stand for inode flags.
var xflags = [...]struct{ flag, xflag uint32 }{
	{ext4.FlagSync, 0x20},
	{ext4.FlagImmutable, 0x8},
	{ext4.FlagAppend, 0x10},
	{ext4.FlagNodump, 0x80},
	{ext4.FlagNoatime, 0x40},
	{ext4.FlagDAX, 0x8000},
	{ext4.FlagProjInherit, 0x200},
	{ext4.FlagVerity, 0x20000},
}

// Ioctl answers the questions about an inode that have no operation of their
// own.
func (s *Server) Ioctl(r *fuse.Request, in *fuse.IoctlIn, _ []byte, _ *fuse.IoctlOut, buf []byte) (int, syscall.Errno) {
	var answer []byte
	le := binary.NativeEndian
	switch in.Cmd {
	case unix.FS_IOC_GETFLAGS, fsIocFSGetXattr, fsIocGetVersion:
		st, err := s.fs.Stat(inode(r.NodeID))
		if err != nil {
			return 0, s.errno(r, err)
		}
		flags := st.Flags & ext4.FlagsVisible
		switch in.Cmd {
		case unix.FS_IOC_GETFLAGS:
			answer = le.AppendUint32(nil, flags)
		case fsIocGetVersion:
			answer = le.AppendUint32(nil, st.Generation)
		default:
			answer = make([]byte, fsxattrSize)
			x := uint32(0)
			for _, f := range xflags {
				if flags&f.flag != 0 {
					x |= f.xflag
				}
			}
			le.PutUint32(answer, x)
			le.PutUint32(answer[12:], st.ProjectID)
		}
	case fsIocGetFSLabel:
		answer = make([]byte, fsLabelMax)
		copy(answer, s.fs.Info().Label)
	default:
		return 0, syscall.ENOTTY
	}
	return copy(buf, answer), 0
}
