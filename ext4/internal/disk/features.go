package disk

import (
	"fmt"
	"math/bits"
)

// Compat is the mask of features that an implementation may ignore.
type Compat uint32

// Incompat is the mask of features without which an image cannot be read.
type Incompat uint32

// ROCompat is the mask of features without which an image cannot be written.
type ROCompat uint32

// Compatible features.
const (
	CompatDirPrealloc   Compat = 0x1
	CompatImagicInodes  Compat = 0x2
	CompatHasJournal    Compat = 0x4
	CompatExtAttr       Compat = 0x8
	CompatResizeInode   Compat = 0x10
	CompatDirIndex      Compat = 0x20
	CompatLazyBG        Compat = 0x40
	CompatExcludeInode  Compat = 0x80
	CompatExcludeBitmap Compat = 0x100
	CompatSparseSuper2  Compat = 0x200
	CompatFastCommit    Compat = 0x400
	CompatStableInodes  Compat = 0x800
	CompatOrphanFile    Compat = 0x1000
)

// Incompatible features.
const (
	IncompatCompression Incompat = 0x1
	IncompatFiletype    Incompat = 0x2
	IncompatRecover     Incompat = 0x4
	IncompatJournalDev  Incompat = 0x8
	IncompatMetaBG      Incompat = 0x10
	IncompatExtents     Incompat = 0x40
	Incompat64Bit       Incompat = 0x80
	IncompatMMP         Incompat = 0x100
	IncompatFlexBG      Incompat = 0x200
	IncompatEAInode     Incompat = 0x400
	IncompatDirdata     Incompat = 0x1000
	IncompatCsumSeed    Incompat = 0x2000
	IncompatLargeDir    Incompat = 0x4000
	IncompatInlineData  Incompat = 0x8000
	IncompatEncrypt     Incompat = 0x10000
	IncompatCasefold    Incompat = 0x20000
)

// Read-only compatible features.
const (
	ROCompatSparseSuper   ROCompat = 0x1
	ROCompatLargeFile     ROCompat = 0x2
	ROCompatBtreeDir      ROCompat = 0x4
	ROCompatHugeFile      ROCompat = 0x8
	ROCompatGDTCsum       ROCompat = 0x10
	ROCompatDirNlink      ROCompat = 0x20
	ROCompatExtraIsize    ROCompat = 0x40
	ROCompatSnapshot      ROCompat = 0x80
	ROCompatQuota         ROCompat = 0x100
	ROCompatBigalloc      ROCompat = 0x200
	ROCompatMetadataCsum  ROCompat = 0x400
	ROCompatReplica       ROCompat = 0x800
	ROCompatReadonly      ROCompat = 0x1000
	ROCompatProject       ROCompat = 0x2000
	ROCompatSharedBlocks  ROCompat = 0x4000
	ROCompatVerity        ROCompat = 0x8000
	ROCompatOrphanPresent ROCompat = 0x10000
)

// IncompatReadable are the incompatible features with which an image can be
// read. A bit outside this mask refuses the mount.
const IncompatReadable = IncompatWritable

// IncompatWritable are the incompatible features with which an image can be
// written. A bit outside this mask allows only reading, at best.
const IncompatWritable = IncompatFiletype | IncompatRecover | IncompatMetaBG | IncompatExtents |
	Incompat64Bit | IncompatMMP | IncompatFlexBG | IncompatCsumSeed | IncompatLargeDir | IncompatInlineData |
	IncompatEncrypt | IncompatCasefold | IncompatEAInode

// ROCompatWritable are the read-only compatible features with which an image
// can be written. A bit outside this mask allows only reading.
const ROCompatWritable = ROCompatSparseSuper | ROCompatLargeFile | ROCompatHugeFile | ROCompatGDTCsum |
	ROCompatDirNlink | ROCompatExtraIsize | ROCompatBigalloc | ROCompatMetadataCsum | ROCompatProject | ROCompatVerity |
	ROCompatOrphanPresent | ROCompatQuota

// The names are those that mke2fs and dumpe2fs use.
var (
	compatNames = map[uint32]string{
		0x1: "dir_prealloc", 0x2: "imagic_inodes", 0x4: "has_journal", 0x8: "ext_attr",
		0x10: "resize_inode", 0x20: "dir_index", 0x40: "lazy_bg",
		0x100: "snapshot_bitmap", 0x200: "sparse_super2", 0x400: "fast_commit",
		0x800: "stable_inodes", 0x1000: "orphan_file",
	}
	incompatNames = map[uint32]string{
		0x1: "compression", 0x2: "filetype", 0x4: "needs_recovery", 0x8: "journal_dev",
		0x10: "meta_bg", 0x40: "extent", 0x80: "64bit", 0x100: "mmp", 0x200: "flex_bg",
		0x400: "ea_inode", 0x1000: "dirdata", 0x2000: "metadata_csum_seed", 0x4000: "large_dir",
		0x8000: "inline_data", 0x10000: "encrypt", 0x20000: "casefold",
	}
	roCompatNames = map[uint32]string{
		0x1: "sparse_super", 0x2: "large_file", 0x4: "btree_dir", 0x8: "huge_file",
		0x10: "uninit_bg", 0x20: "dir_nlink", 0x40: "extra_isize", 0x80: "snapshot",
		0x100: "quota", 0x200: "bigalloc", 0x400: "metadata_csum", 0x800: "replica",
		0x1000: "read-only", 0x2000: "project", 0x4000: "shared_blocks", 0x8000: "verity",
		0x10000: "orphan_present",
	}
)

// Names lists the features of the mask, lowest bit first, as mke2fs names them.
// Unknown bits come out as FEATURE_C7 and the like, as e2fsprogs prints them.
func (m Compat) Names() []string { return maskNames(uint32(m), 'C', compatNames) }

// Names lists the features of the mask; see [Compat.Names].
func (m Incompat) Names() []string { return maskNames(uint32(m), 'I', incompatNames) }

// Names lists the features of the mask; see [Compat.Names].
func (m ROCompat) Names() []string { return maskNames(uint32(m), 'R', roCompatNames) }

func maskNames(mask uint32, class byte, known map[uint32]string) []string {
	var names []string
	for mask != 0 {
		bit := mask & -mask
		mask &^= bit
		name, ok := known[bit]
		if !ok {
			name = fmt.Sprintf("FEATURE_%c%d", class, bits.TrailingZeros32(bit))
		}
		names = append(names, name)
	}
	return names
}
