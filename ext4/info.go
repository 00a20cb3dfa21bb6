package ext4

import (
	"fmt"
	"iter"
	"time"

	"ext4box/ext4/internal/disk"
)

// Info is the superblock of a filesystem in words. Times are zero where none is
// recorded.
type Info struct {
	Type             string     `json:"type"` // "ext2", "ext3" or "ext4", by its features
	Label            string     `json:"label"`
	UUID             string     `json:"uuid"`
	LastMounted      string     `json:"last_mounted"`
	Revision         uint32     `json:"revision"`
	Features         []string   `json:"features"`                     // as mke2fs names them
	ReadOnlyFeatures []string   `json:"read_only_features,omitempty"` // allow only reading
	State            string     `json:"state"`
	Errors           string     `json:"errors"` // what to do on errors
	BlockSize        uint32     `json:"block_size"`
	ClusterSize      uint32     `json:"cluster_size"`
	InodeSize        uint32     `json:"inode_size"`
	Blocks           uint64     `json:"blocks"`
	ReservedBlocks   uint64     `json:"reserved_blocks"`
	FreeBlocks       uint64     `json:"free_blocks"` // as the superblock has it
	Inodes           uint32     `json:"inodes"`
	FreeInodes       uint32     `json:"free_inodes"`
	FirstDataBlock   uint32     `json:"first_data_block"`
	FirstInode       uint32     `json:"first_inode"`
	Groups           uint32     `json:"groups"`
	BlocksPerGroup   uint32     `json:"blocks_per_group"`
	InodesPerGroup   uint32     `json:"inodes_per_group"`
	DescSize         uint32     `json:"group_descriptor_size"`
	HashVersion      string     `json:"directory_hash"`
	Checksum         string     `json:"checksum"`
	JournalInode     uint32     `json:"journal_inode,omitempty"`
	JournalUUID      string     `json:"journal_uuid,omitempty"`
	Encoding         string     `json:"encoding,omitempty"`
	MountCount       uint16     `json:"mount_count"`
	MaxMountCount    int16      `json:"max_mount_count"`
	Created          time.Time  `json:"created,omitzero"`
	Mounted          time.Time  `json:"mounted,omitzero"`
	Written          time.Time  `json:"written,omitzero"`
	Checked          time.Time  `json:"checked,omitzero"`
	WrittenKBytes    uint64     `json:"written_kbytes"`
	ErrorCount       uint32     `json:"error_count"`
	FirstError       *ErrorInfo `json:"first_error,omitempty"`
	LastError        *ErrorInfo `json:"last_error,omitempty"`
	Recovery         Recovery   `json:"recovery"`
	MountOptions     string     `json:"mount_options,omitempty"`
	OverheadClusters uint64     `json:"overhead_clusters"`
}

// ErrorInfo is an error that a driver recorded in the superblock.
type ErrorInfo struct {
	Time     time.Time `json:"time"`
	Function string    `json:"function"`
	Line     uint32    `json:"line"`
	Inode    uint32    `json:"inode"`
	Block    uint64    `json:"block"`
	Code     uint8     `json:"code"`
	Error    string    `json:"error,omitempty"` // the name of the code
}

// presentSuper is the superblock as it is now.
func (fs *FS) presentSuper() *disk.Superblock {
	sb := fs.sb
	if fs.w != nil {
		s := &fs.w.super
		s.mu.Lock()
		sb = s.sb
		s.mu.Unlock()
		fs.w.damage.apply(&sb)
	}
	return &sb
}

// Info describes the filesystem.
func (fs *FS) Info() Info {
	sb := fs.presentSuper()
	i := Info{
		Type:             fs.kind(),
		Label:            disk.CString(sb.VolumeName[:]),
		UUID:             uuid(sb.UUID),
		LastMounted:      disk.CString(sb.LastMounted[:]),
		Revision:         sb.RevLevel,
		Features:         append(append(sb.Compat.Names(), sb.Incompat.Names()...), sb.ROCompat.Names()...),
		ReadOnlyFeatures: append((sb.Incompat &^ disk.IncompatWritable).Names(), (sb.ROCompat &^ disk.ROCompatWritable).Names()...),
		State:            state(sb.State),
		Errors:           errorsBehaviour(sb.Errors),
		BlockSize:        fs.geo.BlockSize,
		ClusterSize:      fs.geo.BlockSize << fs.geo.ClusterBits,
		InodeSize:        fs.geo.InodeSize,
		Blocks:           fs.geo.BlocksCount,
		ReservedBlocks:   sb.ReservedBlocks,
		FreeBlocks:       sb.FreeBlocks,
		Inodes:           sb.InodesCount,
		FreeInodes:       sb.FreeInodes,
		FirstDataBlock:   fs.geo.FirstDataBlock,
		FirstInode:       fs.geo.FirstIno,
		Groups:           fs.geo.Groups,
		BlocksPerGroup:   fs.geo.BlocksPerGroup,
		InodesPerGroup:   fs.geo.InodesPerGroup,
		DescSize:         fs.geo.DescSize,
		HashVersion:      hashName(sb),
		Checksum:         fs.checksumName(),
		JournalInode:     sb.JournalIno,
		MountCount:       sb.MountCount,
		MaxMountCount:    sb.MaxMountCount,
		Created:          infoTime(sb.MkfsTime),
		Mounted:          infoTime(sb.MountTime),
		Written:          infoTime(sb.WriteTime),
		Checked:          infoTime(sb.LastCheck),
		WrittenKBytes:    sb.KBytesWritten,
		ErrorCount:       sb.ErrorCount,
		Recovery:         fs.recovery,
		MountOptions:     disk.CString(sb.MountOpts[:]),
		OverheadClusters: fs.overheadClusters(),
	}
	if sb.Compat&disk.CompatHasJournal != 0 && sb.JournalIno == 0 {
		i.JournalUUID = uuid(sb.JournalUUID)
	}
	if sb.Incompat&disk.IncompatCasefold != 0 {
		i.Encoding = "utf8-12.1"
	}
	if sb.ErrorCount > 0 {
		i.FirstError = &ErrorInfo{infoTime(sb.FirstErrorTime), disk.CString(sb.FirstErrorFunc[:]), sb.FirstErrorLine, sb.FirstErrorIno, sb.FirstErrorBlock, sb.FirstErrorCode, disk.ErrorName(sb.FirstErrorCode)}
		i.LastError = &ErrorInfo{infoTime(sb.LastErrorTime), disk.CString(sb.LastErrorFunc[:]), sb.LastErrorLine, sb.LastErrorIno, sb.LastErrorBlock, sb.LastErrorCode, disk.ErrorName(sb.LastErrorCode)}
	}
	return i
}

// infoTime is the time of a superblock field. Its seconds have 40 bits; what is
// behind the years that can be written down is cut to the last day of these.
func infoTime(secs int64) time.Time {
	const last = 253402128000 // 9999-12-30
	return disk.Time(min(secs, last))
}

// kind names the filesystem by the oldest driver that could write it.
func (fs *FS) kind() string {
	const ext3RO = disk.ROCompatSparseSuper | disk.ROCompatLargeFile | disk.ROCompatBtreeDir
	const ext3In = disk.IncompatFiletype | disk.IncompatRecover | disk.IncompatMetaBG
	switch {
	case fs.sb.ROCompat&^ext3RO != 0 || fs.sb.Incompat&^ext3In != 0:
		return "ext4"
	case fs.sb.Compat&disk.CompatHasJournal != 0:
		return "ext3"
	}
	return "ext2"
}

func state(s uint16) string {
	word := "not clean"
	if s&disk.StateValid != 0 {
		word = "clean"
	}
	if s&disk.StateErrors != 0 {
		word += " with errors"
	}
	return word
}

func errorsBehaviour(e uint16) string {
	switch e {
	case 1:
		return "continue"
	case 2:
		return "remount-ro"
	case 3:
		return "panic"
	}
	return fmt.Sprintf("unknown (%d)", e)
}

func hashName(sb *disk.Superblock) string {
	version := disk.HashVersion(sb.DefHashVersion)
	if sb.UnsignedHash() {
		version = version.Unsigned()
	}
	return version.String()
}

func (fs *FS) checksumName() string {
	switch {
	case fs.sums.Metadata:
		return "crc32c"
	case fs.sums.GDT:
		return "crc16 of group descriptors"
	}
	return "none"
}

func uuid(u [16]byte) string {
	return fmt.Sprintf("%x-%x-%x-%x-%x", u[0:4], u[4:6], u[6:8], u[8:10], u[10:16])
}

// GroupInfo describes one block group.
type GroupInfo struct {
	Group       uint32 `json:"group"`
	FirstBlock  uint64 `json:"first_block"`
	Blocks      uint32 `json:"blocks"`
	Superblock  bool   `json:"superblock"` // has a copy of the superblock
	BlockBitmap uint64 `json:"block_bitmap"`
	InodeBitmap uint64 `json:"inode_bitmap"`
	InodeTable  uint64 `json:"inode_table"`
	FreeBlocks  uint32 `json:"free_blocks"` // clusters with bigalloc
	FreeInodes  uint32 `json:"free_inodes"`
	Directories uint32 `json:"directories"`
	Unused      uint32 `json:"unused_inodes"` // at the end of the table, never used
	InodeUninit bool   `json:"inode_uninit"`
	BlockUninit bool   `json:"block_uninit"`
	ItableZero  bool   `json:"itable_zeroed"`
}

// Groups goes through the block groups in order. A descriptor that fails its
// checks is yielded with the error.
func (fs *FS) Groups() iter.Seq2[GroupInfo, error] {
	return func(yield func(GroupInfo, error) bool) {
		for group := range fs.geo.Groups {
			d, err := fs.group(group)
			g := GroupInfo{
				Group:       group,
				FirstBlock:  fs.geo.GroupFirstBlock(group),
				Blocks:      fs.geo.GroupBlocks(group),
				Superblock:  fs.geo.HasSuper(group),
				BlockBitmap: d.BlockBitmap,
				InodeBitmap: d.InodeBitmap,
				InodeTable:  d.InodeTable,
				FreeBlocks:  d.FreeBlocks,
				FreeInodes:  d.FreeInodes,
				Directories: d.UsedDirs,
				Unused:      d.ItableUnused,
				InodeUninit: d.Flags&disk.GroupInodeUninit != 0,
				BlockUninit: d.Flags&disk.GroupBlockUninit != 0,
				ItableZero:  d.Flags&disk.GroupZeroed != 0,
			}
			if !yield(g, err) {
				return
			}
		}
	}
}
