package check

// Class is what kind of thing is wrong: a word that stays the same between
// versions, after e2fsck's problems.
type Class string

// Pass 0: the superblock, descriptors, journal and orphans.
const (
	SuperblockCorrupt   Class = "superblock-corrupt"   // nothing can be checked
	SuperblockChecksum  Class = "superblock-checksum"  // only the checksum is wrong
	SuperblockBackup    Class = "superblock-backup"    // a backup has to serve
	SuperblockField     Class = "superblock-field"     // a value that makes no sense
	FSSizeWrong         Class = "fs-size-wrong"        // larger than the device
	FeaturesConflict    Class = "features-conflict"    // features that exclude or need each other
	FeaturesUnsupported Class = "features-unsupported" // the check does not know them
	TimeInFuture        Class = "time-in-future"       // last mount or write
	UUIDMissing         Class = "uuid-missing"         //
	ExtraIsizeField     Class = "extra-isize-field"    // s_min_extra_isize, s_want_extra_isize
	ReservedGDT         Class = "reserved-gdt"         // s_reserved_gdt_blocks without resize_inode
	ResizeInodeInvalid  Class = "resize-inode-invalid" //
	ResizeInodeNonzero  Class = "resize-inode-nonzero" // without the feature
	GroupBlockBitmap    Class = "group-block-bitmap"   // its place
	GroupInodeBitmap    Class = "group-inode-bitmap"   // its place
	GroupInodeTable     Class = "group-inode-table"    // its place
	GroupDescChecksum   Class = "group-desc-checksum"  //
	GroupDescUnreadable Class = "group-desc-unreadable"
	GroupDescBackup     Class = "group-desc-backup"   // the primary descriptors cannot be used
	GroupUninit         Class = "group-uninit"        // marked uninitialised without the feature
	GroupUnusedInodes   Class = "group-unused-inodes" // bg_itable_unused
	GroupLastUninit     Class = "group-last-uninit"   // the last group has no block bitmap
	JournalInode        Class = "journal-inode"       //
	JournalSuperblock   Class = "journal-superblock"  //
	JournalFeatures     Class = "journal-features"    //
	JournalMissing      Class = "journal-missing"     // external, and not at hand
	JournalFlag         Class = "journal-flag"        // has_journal or needs_recovery do not fit
	OrphanFile          Class = "orphan-file"         //
	MMPInvalid          Class = "mmp-invalid"         //
	QuotaInodeInvalid   Class = "quota-inode-invalid" //
)

// Pass 1: inodes and what they claim.
const (
	RootNotDir           Class = "root-not-directory"
	RootDtime            Class = "root-dtime"
	ReservedInodeMode    Class = "reserved-inode-mode"
	DeletedZeroDtime     Class = "deleted-zero-dtime"
	InUseDtime           Class = "in-use-dtime"
	ZeroLengthDir        Class = "zero-length-directory"
	OrphanedInode        Class = "orphaned-inode" // part of a corrupted orphan list
	InodeChecksum        Class = "inode-checksum"
	InodeMagicFlag       Class = "inode-magic-flag"
	InodeExtraSize       Class = "inode-extra-size"
	InodeXattrCorrupt    Class = "inode-xattr-corrupt"
	InodeBlocks          Class = "inode-blocks"
	InodeSize            Class = "inode-size"
	InodeTimes           Class = "inode-times"
	DeviceSize           Class = "device-size"  // a device, FIFO or socket with a size
	DeviceFlags          Class = "device-flags" // immutable or append-only device, FIFO or socket
	LooksLikeDir         Class = "looks-like-directory"
	JournalInodeUnused   Class = "journal-inode-unused" // not in use, but has data
	JournalNotRegular    Class = "journal-not-regular"
	QuotaNotRegular      Class = "quota-not-regular"
	QuotaInodeUnused     Class = "quota-inode-unused"
	OrphanFileNotRegular Class = "orphan-file-not-regular"
	OrphanFileUnused     Class = "orphan-file-unused"
	ExtentsFlagSet       Class = "extents-flag-set"     // without the feature
	ExtentsFlagFeature   Class = "extents-flag-feature" // in extent format, without the feature
	ExtentsFlagMissing   Class = "extents-flag-missing"
	ExtentRootInvalid    Class = "extent-root-invalid"
	ExtentNodeInvalid    Class = "extent-node-invalid"
	ExtentBadStart       Class = "extent-bad-start"
	ExtentEndsBeyond     Class = "extent-ends-beyond"
	ExtentEmpty          Class = "extent-empty"
	ExtentOutOfOrder     Class = "extent-out-of-order"
	ExtentOutOfBounds    Class = "extent-out-of-bounds"
	ExtentDuplicate      Class = "extent-duplicate"
	ExtentIndexStart     Class = "extent-index-start"
	ExtentBlockChecksum  Class = "extent-block-checksum"
	ExtentTreeShape      Class = "extent-tree-shape" // deeper than it need be
	ExtentUnwrittenDir   Class = "extent-unwritten-directory"
	PointerIllegal       Class = "pointer-illegal"
	BlocksIllegal        Class = "blocks-illegal" // e2fsck's summary of an inode
	MetadataConflict     Class = "critical-metadata"
	FileTooBig           Class = "file-too-big"
	DirBlockOrder        Class = "directory-block-order"
	ClusterRule          Class = "cluster-rule"
	BigallocPointers     Class = "bigalloc-pointers"
	InlineFlagFeature    Class = "inline-flag-feature"
	InlineNoXattr        Class = "inline-no-xattr"
	InlineAndExtents     Class = "inline-and-extents"
	IndexFlagFeature     Class = "index-flag-feature"
	IndexFlagNotDir      Class = "index-flag-not-directory"
	IndexRootInvalid     Class = "index-root-invalid"
	IndexHashVersion     Class = "index-hash-version"
	IndexFlags           Class = "index-flags"
	IndexTooDeep         Class = "index-too-deep"
	SymlinkInvalid       Class = "symlink-invalid"
	CasefoldNotDir       Class = "casefold-not-directory"
	CasefoldFeature      Class = "casefold-feature"
	XattrBlockIllegal    Class = "xattr-block-illegal"
	XattrBlockMultiple   Class = "xattr-block-multiple" // h_blocks > 1
	XattrBlockCorrupt    Class = "xattr-block-corrupt"
	XattrBlockChecksum   Class = "xattr-block-checksum"
	XattrBlockRefs       Class = "xattr-block-refs"
	XattrInode           Class = "xattr-inode" // a value in an inode that cannot be one
	XattrInodeFlag       Class = "xattr-inode-flag"
	XattrInodeRefs       Class = "xattr-inode-refs" // pass 4
	BadBlocksInode       Class = "bad-blocks-inode"
	GroupTableConflict   Class = "group-table-conflict" // bitmaps or inode tables on each other
	MultiplyClaimed      Class = "multiply-claimed"     // pass 1B to 1D
)

// Pass 5: bitmaps and counts.
const (
	BlockBitmapPadding    Class = "block-bitmap-padding"
	InodeBitmapPadding    Class = "inode-bitmap-padding"
	BlockBitmapDiffers    Class = "block-bitmap-differs"
	InodeBitmapDiffers    Class = "inode-bitmap-differs"
	BlockBitmapChecksum   Class = "block-bitmap-checksum"
	InodeBitmapChecksum   Class = "inode-bitmap-checksum"
	GroupFreeBlocks       Class = "group-free-blocks"
	GroupFreeInodes       Class = "group-free-inodes"
	GroupDirs             Class = "group-directories"
	FreeBlocks            Class = "free-blocks"
	FreeInodes            Class = "free-inodes"
	GroupBlocksUninit     Class = "group-blocks-uninit" // in use where none are said to be
	GroupInodesUninit     Class = "group-inodes-uninit"
	OrphanFileNotClean    Class = "orphan-file-not-clean"
	QuotaUsage            Class = "quota-usage"
	BlockBitmapUnreadable Class = "block-bitmap-unreadable"
	InodeBitmapUnreadable Class = "inode-bitmap-unreadable"
)
