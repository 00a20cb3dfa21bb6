package ext4

import (
	"time"

	"ext4box/ext4/internal/disk"
)

// Stat is the attributes of an inode.
type Stat struct {
	Ino        Ino       `json:"ino"`
	Generation uint32    `json:"generation"`
	Mode       uint32    `json:"mode"` // st_mode of stat(2), with the file type
	Nlink      uint32    `json:"nlink"`
	UID        uint32    `json:"uid"`
	GID        uint32    `json:"gid"`
	Size       int64     `json:"size"`   // bytes
	Blocks     uint64    `json:"blocks"` // units of 512 bytes
	BlockSize  uint32    `json:"blksize"`
	RdevMajor  uint32    `json:"rdev_major"`
	RdevMinor  uint32    `json:"rdev_minor"`
	Atime      time.Time `json:"atime"`
	Mtime      time.Time `json:"mtime"`
	Ctime      time.Time `json:"ctime"`
	Btime      time.Time `json:"btime,omitzero"` // zero where none is recorded
	Flags      uint32    `json:"flags"`          // EXT4_*_FL, as lsattr(1) shows them
	ProjectID  uint32    `json:"project_id"`
}

// IsDir tells whether the inode is a directory.
func (s *Stat) IsDir() bool { return s.Mode&disk.ModeFmt == disk.ModeDir }

// IsRegular tells whether the inode is a regular file.
func (s *Stat) IsRegular() bool { return s.Mode&disk.ModeFmt == disk.ModeReg }

// IsSymlink tells whether the inode is a symbolic link.
func (s *Stat) IsSymlink() bool { return s.Mode&disk.ModeFmt == disk.ModeLink }

// Inode flags of Stat.Flags that programs ask for.
const (
	FlagCompressed  = uint32(disk.FlagCompr)
	FlagSync        = uint32(disk.FlagSync)
	FlagImmutable   = uint32(disk.FlagImmutable)
	FlagAppend      = uint32(disk.FlagAppend)
	FlagNodump      = uint32(disk.FlagNodump)
	FlagNoatime     = uint32(disk.FlagNoatime)
	FlagEncrypted   = uint32(disk.FlagEncrypt)
	FlagVerity      = uint32(disk.FlagVerity)
	FlagDAX         = uint32(disk.FlagDAX)
	FlagProjInherit = uint32(disk.FlagProjInherit)
	FlagInlineData  = uint32(disk.FlagInlineData)
	FlagCasefold    = uint32(disk.FlagCasefold)

	// FlagsVisible are the flags that lsattr(1) gets to see.
	FlagsVisible = uint32(disk.FlagsUserVisible)
)

// Stat returns the attributes of an inode.
func (fs *FS) Stat(ino Ino) (Stat, error) {
	in, err := fs.rlock(ino)
	if err != nil {
		return Stat{}, err
	}
	defer in.runlock()
	return fs.stat(in)
}

// stat is Stat of an inode that is locked.
func (fs *FS) stat(in *inode) (Stat, error) {
	ino := in.ino
	var err error
	s := Stat{
		Ino:        ino,
		Generation: in.Generation,
		Mode:       uint32(in.Mode),
		Nlink:      uint32(in.Links),
		UID:        in.UID,
		GID:        in.GID,
		Size:       int64(in.size),
		Blocks:     in.Sectors(fs.sb.ROCompat&disk.ROCompatHugeFile != 0, fs.geo.BlockBits),
		BlockSize:  fs.geo.BlockSize,
		Atime:      goTime(in.Atime),
		Mtime:      goTime(in.Mtime),
		Ctime:      goTime(in.Ctime),
		Flags:      uint32(in.Flags),
		ProjectID:  in.ProjectID,
	}
	if in.HasCrtime {
		s.Btime = goTime(in.Crtime)
	}
	switch in.Type() {
	case disk.ModeChar, disk.ModeBlock:
		s.RdevMajor, s.RdevMinor = in.Rdev()
	case disk.ModeLink:
		if in.encrypted() {
			// The size on disk is that of the ciphertext and its length.
			target, err := fs.readlink(in)
			if err != nil {
				return s, err
			}
			s.Size = int64(len(target))
		}
	case disk.ModeDir:
		if fi := fs.fastInode(ino); fi != nil && fi.Image != nil {
			if s.Blocks, err = fs.storedSectors(ino, fi); err != nil {
				return s, err
			}
		}
	case disk.ModeReg:
		s.Flags &^= FlagProjInherit // means something for directories only
		if fi := fs.fastInode(ino); fi != nil && fi.Image != nil {
			if s.Blocks, err = fs.countSectors(in); err != nil {
				return s, err
			}
		}
		if in.inline() {
			// As the kernel does, so that nobody takes the file for a hole.
			s.Blocks += (in.size + 511) / 512
		}
		if fs.outside != nil {
			// As the kernel does, so that nobody takes for a hole what is not written yet.
			s.Blocks += uint64(in.pendingBlocks-in.aheadBlocks) << (fs.geo.BlockBits - 9)
		}
		if fs.isOrphan(ino) {
			beyond, err := fs.sectorsBeyondEOF(in)
			if err != nil {
				return s, err
			}
			s.Blocks -= min(beyond, s.Blocks)
		}
	}
	return s, nil
}

func goTime(t disk.Timestamp) time.Time { return time.Unix(t.Sec, int64(t.Nsec)) }

// FileSize is the length of a file in bytes.
func (fs *FS) FileSize(ino Ino) (uint64, error) {
	in, err := fs.rlock(ino)
	if err != nil {
		return 0, err
	}
	defer in.runlock()
	return in.size, nil
}
