package check_test

import (
	"regexp"
	"strings"
	"testing"

	"ext4box/ext4/check"
	"ext4box/internal/e2test"
)

// phrase is how e2fsck words problems of a class. A text that begins with "..."
// is anywhere in a line. Without a class it is a remark, or goes on about the
// problem before it.
type phrase struct {
	text  string
	class check.Class
}

// Classes that are strings here are e2fsck's alone: the check never finds them.

// phrases are looked through in this order. The texts are regular expressions.
var phrases = compile([]phrase{
	// What e2fsck says before it begins.
	{`The superblock could not be read|.*: The superblock could not be read`, check.SuperblockCorrupt},
	{`.*Bad magic number in super-block`, check.SuperblockCorrupt},
	{`.*Superblock checksum does not match superblock while trying`, check.SuperblockChecksum},
	{`.*Superblock invalid, trying backup blocks`, check.SuperblockCorrupt},
	{`.*Group descriptors look bad\.\.\. trying backup blocks`, check.GroupDescBackup},
	{`.*was not cleanly unmounted|.*contains a file system with errors`, "errors-recorded"},
	{`Corruption found in superblock`, check.SuperblockField},
	{`The filesystem size \(according to the superblock\)`, check.FSSizeWrong},
	{`Superblock block_size|Superblock blocks_per_group|Superblock first_data_block`, check.SuperblockField},
	{`Inode count in superblock is`, "inode-count-wrong"},
	{`.*unsupported feature\(s\)|.*has unsupported read-only feature|Get a newer version of e2fsck|.*Filesystem has unsupported feature`, check.FeaturesUnsupported},
	{`.*journal_dev|.*is an external journal`, check.FeaturesUnsupported},
	{`Superblock 64bit filesystem needs extents|Superblock metadata_csum supersedes|Superblock metadata_csum_seed is not|Resize_inode and meta_bg features`, check.FeaturesConflict},
	{`First_meta_bg is too big`, check.SuperblockField},
	{`Superblock last (mount|write) time`, check.TimeInFuture},
	{`Bad (required|desired) extra isize`, check.ExtraIsizeField},
	{`Filesystem did not have a UUID|.*did not have a UUID`, check.UUIDMissing},
	{`Filesystem does not have resize_inode enabled`, check.ReservedGDT},
	{`Resize_inode not enabled, but`, check.ResizeInodeNonzero},
	{`Resize inode not valid`, check.ResizeInodeInvalid},
	{`Block bitmap for group \d+ is not in group`, check.GroupBlockBitmap},
	{`Inode bitmap for group \d+ is not in group`, check.GroupInodeBitmap},
	{`Inode table for group \d+ is not in group`, check.GroupInodeTable},
	{`Group descriptor \d+ checksum is`, check.GroupDescChecksum},
	{`Group descriptor \d+ marked uninitialized without feature`, check.GroupUninit},
	{`Group descriptor \d+ has invalid unused inodes count`, check.GroupUnusedInodes},
	{`Last group block bitmap uninitialized`, check.GroupLastUninit},
	{`One or more block group descriptor checksums`, check.GroupDescChecksum},
	{`Superblock has an invalid journal|Superblock has_journal flag is clear, but a journal inode`, check.JournalInode},
	{`Superblock has_journal flag is clear|Superblock needs_recovery flag`, check.JournalFlag},
	{`Can't find external journal`, check.JournalMissing},
	{`Journal superblock has an unknown (incompatible|read-only) feature`, check.JournalFeatures},
	{`External journal|Journal superblock (is corrupt|has an unknown|has)|Found invalid V2 journal|Journal checksum|Journal version|.*journal superblock is corrupt|.*Journal superblock`, check.JournalSuperblock},
	{`Filesystem journal superblock is unknown type`, check.JournalSuperblock},
	{`Journal inode is not in use`, check.JournalInodeUnused},
	{`Journal is not regular file`, check.JournalNotRegular},
	{`Illegal orphaned inode|Illegal inode \d+ in orphaned inode list|Illegal block .* found in orphaned inode|Already cleared block`, "orphan-list"},
	{`Orphan file \(inode \d+\) block \d+ is not clean`, check.OrphanFileNotClean},
	{`Orphan file \(inode|Feature orphan_present|Superblock has orphan file without|Failed to (truncate|initialize) orphan file`, check.OrphanFile},
	{`Orphan file inode \d+ is not regular`, check.OrphanFileNotRegular},
	{`Orphan file inode \d+ is not in use`, check.OrphanFileUnused},
	{`Superblock has invalid MMP|Superblock MMP block checksum|.*MMP:`, check.MMPInvalid},
	{`Invalid \S+ quota inode|Hiding \S+ quota inode`, check.QuotaInodeInvalid},
	{`Quota inode is not (in use)`, check.QuotaInodeUnused},
	{`Quota inode is (not a regular|visible)`, check.QuotaNotRegular},
	{`Superblock would have too many inodes`, check.SuperblockField},
	{`Filesystem has feature flag\(s\) set, but is a revision 0`, check.FeaturesConflict},

	// Pass 1.
	{`Root inode is not a directory`, check.RootNotDir},
	{`Root inode has dtime set`, check.RootDtime},
	{`Root inode not allocated|Cannot proceed without a root inode`, check.RootMissing},
	{`Reserved inode \d+ .* has invalid mode`, check.ReservedInodeMode},
	{`Deleted inode \d+ has zero dtime`, check.DeletedZeroDtime},
	{`Inode \d+ is in use, but has dtime set`, check.InUseDtime},
	{`Inode \d+ is a zero-length directory`, check.ZeroLengthDir},
	{`Inode \d+ was part of the orphaned inode list|Inodes that were part of a corrupted orphan`, check.OrphanedInode},
	{`Inode \d+ seems to contain garbage`, "inode-garbage"},
	{`Inode \d+ passes checks, but checksum does not match inode`, check.InodeChecksum},
	{`Inode \d+ has imagic flag set`, check.InodeMagicFlag},
	{`Inode \d+ has a extra size`, check.InodeExtraSize},
	{`Extended attribute in inode \d+ has a|Inode \d+ extended attribute is corrupt`, check.InodeXattrCorrupt},
	{`Inode \d+, i_blocks is`, check.InodeBlocks},
	{`Inode \d+, i_size is`, check.InodeSize},
	{`Timestamp\(s\) on inode`, check.InodeTimes},
	{`Special \(device/socket/fifo\) inode \d+ has non-zero size`, check.DeviceSize},
	{`Special \(device/socket/fifo/symlink\) file \(inode \d+\) has immutable`, check.DeviceFlags},
	{`Special \(device/socket/fifo\) file \(inode \d+\) has extents`, "device-extents"},
	{`Inode \d+ is a .* but it looks like it is really a directory`, check.LooksLikeDir},
	{`Inode \d+ has EXTENTS_FL flag set on filesystem without`, check.ExtentsFlagSet},
	{`Inode \d+ is in extent format, but superblock is missing`, check.ExtentsFlagFeature},
	{`Inode \d+ missing EXTENT_FL`, check.ExtentsFlagMissing},
	{`Inode \d+ has corrupt extent header|Inode \d+ has extent header but inline`, check.ExtentRootInvalid},
	{`Inode \d+ has an invalid extent node`, check.ExtentNodeInvalid},
	{`Inode \d+, end of extent exceeds`, check.ExtentOutOfBounds},
	{`Inode \d+ has zero length extent`, check.ExtentEmpty},
	{`Inode \d+ has out of order extents`, check.ExtentOutOfOrder},
	{`Inode \d+ has a duplicate extent`, check.ExtentDuplicate},
	{`Interior extent node level`, check.ExtentIndexStart},
	{`Inode \d+ extent block passes checks, but`, check.ExtentBlockChecksum},
	{`Error while reading over extent tree`, check.ExtentNodeInvalid},
	{`Inode \d+ has an invalid extent$`, check.ExtentBadStart},
	{`Directory inode \d+ has extent marked uninitialized`, check.ExtentUnwrittenDir},
	{`Inode \d+ has extent marked uninitialized`, "extent-unwritten"},
	{`Inode \d+ has illegal block\(s\)|Too many illegal blocks`, check.BlocksIllegal},
	{`Illegal .*block.* in inode \d+`, check.PointerIllegal},
	{`.* overlaps filesystem metadata in inode`, "block-is-metadata"},
	{`Inode \d+ block \d+ conflicts with critical metadata`, check.MetadataConflict},
	{`.* causes directory to be too big`, "directory-too-big"},
	{`.* causes (file|symlink) to be too big|Inode \d+ is too big`, check.FileTooBig},
	{`Directory inode \d+ block \d+ should be at block`, check.DirBlockOrder},
	{`Inode \d+ logical block .* violates cluster`, check.ClusterRule},
	{`Inode \d+ on bigalloc filesystem cannot be block mapped`, check.BigallocPointers},
	{`Inode \d+ has INLINE_DATA_FL flag on filesystem without|Inode \d+ has inline data, but superblock is missing`, check.InlineFlagFeature},
	{`Inode \d+ has INLINE_DATA_FL flag but extended attribute`, check.InlineNoXattr},
	{`Inode \d+ (seems to have|has) (inline data|block map)`, check.InlineAndExtents},
	{`Inode \d+ has INDEX_FL flag set on filesystem without`, check.IndexFlagFeature},
	{`Inode \d+ has INDEX_FL flag set but is not`, check.IndexFlagNotDir},
	{`HTREE directory inode \d+ has an invalid root node`, check.IndexRootInvalid},
	{`HTREE directory inode \d+ (has an unsupported hash|uses hash version|uses SipHash)`, check.IndexHashVersion},
	{`HTREE directory inode \d+ uses an incompatible htree root`, check.IndexFlags},
	{`HTREE directory inode \d+ has a tree depth`, check.IndexTooDeep},
	{`Fast symlink \d+ has EXTENT_FL`, check.SymlinkInvalid},
	{`Symlink .* \(inode #\d+\) is invalid`, check.SymlinkInvalid},
	{`Inode \d+ has the casefold flag set but is not`, check.CasefoldNotDir},
	{`Directory .* has the casefold flag, but`, check.CasefoldFeature},
	{`Inode \d+ has encrypt flag but no`, "encrypt-no-xattr"},
	{`Encrypted inode \d+ has corrupt`, "encrypt-xattr-corrupt"},
	{`Inode \d+ has a bad extended attribute block|Error reading extended attribute block`, check.XattrBlockIllegal},
	{`Extended attribute block \d+ has h_blocks`, check.XattrBlockMultiple},
	{`Extended attribute block \d+ is corrupt`, check.XattrBlockCorrupt},
	{`Inode \d+ extended attribute block \d+ passes checks, but`, check.XattrBlockChecksum},
	{`Extended attribute block \d+ has reference count`, check.XattrBlockRefs},
	{`Inode \d+ has (illegal|invalid) extended attribute`, check.XattrInode},
	{`EA inode \d+ for parent inode`, check.XattrInodeFlag},
	{`The bad block inode|Bad block inode|Bad block list|Illegal .* in bad block inode|Duplicate or bad block in use|Bad block \d+|The primary superblock|Block \d+ in the primary|Warning: Group \d+'s|If the block is really|You can remove this|in the filesystem\.|that the block is|should stop now`, check.BadBlocksInode},
	{`Group \d+'s .* (conflicts with|is bad)`, check.GroupTableConflict},
	{`Running additional passes to resolve blocks|Multiply-claimed block\(s\) in inode`, check.MultiplyClaimed},
	{`Inode \d+ extent tree .* could be|Inode \d+ extent tree could be`, check.ExtentTreeShape},
	{`Error reading inode|Error while scanning inodes`, "inode-table-unreadable"},

	// Pass 2.
	{`Directory inode \d+ has an unallocated`, check.DirHole},
	{`Error reading directory block`, check.DirReadFailed},
	{`Directory inode \d+, .*: directory corrupted`, check.DirCorrupt},
	{`Directory inode \d+, .*: filename too long`, check.DirCorrupt},
	{`Directory inode \d+, .*: directory has no checksum`, check.DirNoChecksum},
	{`Directory inode \d+, .*: directory passes checks but fails checksum`, check.DirChecksum},
	{`Inline directory inode \d+ size`, check.DirInlineSize},
	{`Missing '\.' in`, check.DotMissing},
	{`Missing '\.\.' in`, check.DotdotMissing},
	{`First entry '`, check.DotName},
	{`Second entry '`, check.DotdotName},
	{`Invalid inode number for '\.'`, check.DotInode},
	{`'\.' directory entry in directory inode .* is not NULL`, check.DotTerminator},
	{`'\.\.' directory entry in directory inode .* is not NULL`, check.DotdotTerminator},
	{`Directory entry for '\.' in .* is big`, "dot-big"},
	{`Entry '.*' in .* is duplicate '\.' entry`, check.DotDuplicate},
	{`Entry '.*' in .* is duplicate '\.\.' entry`, check.DotdotDuplicate},
	{`Entry '.*' in .* has invalid inode #`, check.EntryInode},
	{`Entry '.*' in .* has deleted/unused inode`, check.EntryUnused},
	{`Entry '.*' in .* is a link to '\.'`, check.EntrySelf},
	{`Entry '.*' in .* is a link to directory`, check.EntryDirLink},
	{`Entry '.*' in .* is a link to the root`, check.EntryRoot},
	{`Entry '.*' in .* has a zero-length name`, check.EntryNoName},
	{`Entry '.*' in .* has illegal characters`, check.EntryName},
	{`Entry '.*' in .* has illegal UTF-8`, check.EntryNotUTF8},
	{`Entry '.*' in .* has an incorrect filetype`, check.EntryType},
	{`Entry '.*' in .* has filetype set`, check.EntryTypeSet},
	{`Entry '.*' in .* references inode \d+ in group \d+ where _INODE_UNINIT`, check.EntryInodeUninit},
	{`Entry '.*' in .* references inode \d+ found in group`, check.EntryInodeBeyond},
	{`Entry '.*' in .* points to inode .* located in a bad block`, check.EntryInode},
	{`Entry '.*' in .* has rec_len of`, check.DirCorrupt},
	{`Entry '.*' in .* has a non-unique filename|Duplicate entry|Duplicate filename`, check.EntryDuplicate},
	{`Encrypted entry '.*' in .* is too short`, check.EntryShort},
	{`Encrypted entry '.*' in .* references unencrypted`, "entry-not-encrypted"},
	{`Encrypted entry '.*' in .* which has a different encryption policy`, "entry-policy"},
	{`Problem in HTREE directory inode \d+: root node is invalid`, check.IndexRootInvalid},
	{`Problem in HTREE directory inode \d+: (root|internal) node fails checksum`, check.IndexChecksum},
	{`Problem in HTREE directory inode .*: bad block number`, check.IndexBlockNumber},
	{`Problem in HTREE directory inode .* has invalid limit`, check.IndexLimit},
	{`Problem in HTREE directory inode .* has invalid count`, check.IndexCount},
	{`Problem in HTREE directory inode .* has an unordered hash table`, check.IndexOrder},
	{`Problem in HTREE directory inode .*(has invalid depth|has bad m(in|ax) hash|not referenced|referenced twice)`, check.IndexMismatch},
	{`Invalid HTREE directory inode`, check.IndexMismatch},
	{`Unexpected block in HTREE`, check.IndexMismatch},
	{`Inode \d+ \(.*\) has invalid mode`, check.InodeMode},
	{`Inode \d+ \(.*\) is an illegal`, check.InodeDevice},
	{`i_(faddr|frag|fsize|blocks_hi|size_high|file_acl_hi)\S* for inode`, check.InodeFieldNonzero},
	{`i_file_acl(_hi)? for inode|Extended attribute block for inode .* is invalid`, check.InodeXattrBlock},
	{`Filesystem has large directories, but lacks`, "large-dir-feature"},
	{`Filesystem contains large files, but lacks`, "large-file-feature"},

	// Pass 3.
	{`Unconnected directory inode`, check.DirUnconnected},
	{`Recursively looped directory`, check.DirLoop},
	{`'\.\.' in .* is .*, should be`, check.DotdotWrong},
	{`/lost\+found (not found|is not a directory|has inline|is encrypted)|Bad or non-existent /lost\+found`, "lost-found"},

	// Pass 4.
	{`Unattached zero-length inode`, check.InodeUnattachedEmpty},
	{`Unattached inode`, check.InodeUnattached},
	{`Inode \d+ ref count is|Directory inode \d+ ref count set to overflow`, check.LinkCount},
	{`Extended attribute inode \d+ ref count`, check.XattrInodeRefs},
	{`Directory exceeds max links, but no DIR_NLINK`, check.LinkCountFeature},

	// Pass 5.
	{`Padding at end of inode bitmap`, check.InodeBitmapPadding},
	{`Padding at end of block bitmap`, check.BlockBitmapPadding},
	{`Block bitmap differences`, check.BlockBitmapDiffers},
	{`Inode bitmap differences`, check.InodeBitmapDiffers},
	{`Group \d+ inode bitmap does not match checksum`, check.InodeBitmapChecksum},
	{`Group \d+ block bitmap does not match checksum`, check.BlockBitmapChecksum},
	{`Free blocks count wrong for group`, check.GroupFreeBlocks},
	{`Free inodes count wrong for group`, check.GroupFreeInodes},
	{`Directories count wrong for group`, check.GroupDirs},
	{`Free blocks count wrong`, check.FreeBlocks},
	{`Free inodes count wrong`, check.FreeInodes},
	{`Group \d+ block\(s\) in use but`, check.GroupBlocksUninit},
	{`Group \d+ inode\(s\) in use but`, check.GroupInodesUninit},
	{`\[QUOTA WARNING\]|Update quota info`, check.QuotaUsage},

	// What is said about several problems, or goes on about one.
	{`Illegal block number passed to|Error reading block \d+|Could this be|.*Trying to load superblock despite| [-\d]|Inode \d+$`, ""},
	{`Internal error: |Error writing block \d+|.*FILE SYSTEM WAS MODIFIED|Failed to iterate extents|.*Unknown checksum algorithm|Recovery flag not set|Note: if several|may lie only|filesystem \(and not|of the inode table|running e2fsck with|the backup block group|\(Or the filesystem|[A-Z][a-z]{0,8}$`, ""},
	{`Warning: skipping journal recovery|Warning!|WARNING|.*is mounted`, ""},
	{`\t|\(There are|  has \d+ multiply|File .* \(inode #\d+|Will fix in pass 1B|or append-only|or inline-data flag|casefold feature is not|is \d+; should be zero|Either the superblock or the partition|The physical size of the device|Logical start .* does not match|This version of e2fsck|from the block size|not compatible\. Resize|Those features|Rename to|Error while iterating over blocks|It is likely that|It is also possible|\tnow =|Extent tree|e2fsck: |/dev/|filesystem\.  If the device|is corrupt, and you might|    e2fsck -b| or|is \S+, should be|The journal superblock is|No room in|Marking|Insufficient space|The filesystem|Continuing|Journal inode`, ""},
	{`\S+: (Superblock|Filesystem|The|Group|Bad|Attempt|Block|Can't|Illegal|Corrupt|Invalid|Ext2|Inode|Journal|MMP|File|e2fsck)`, ""},
})

type compiled struct {
	re    *regexp.Regexp
	class check.Class
}

func compile(list []phrase) (out []compiled) {
	for _, p := range list {
		out = append(out, compiled{regexp.MustCompile("^(?:" + p.text + ")"), p.class})
	}
	return out
}

// classOf finds the class of a line of e2fsck's. known is false if no phrase fits.
func classOf(line string) (class check.Class, known bool) {
	for _, p := range phrases {
		if p.re.MatchString(line) {
			return p.class, true
		}
	}
	return "", false
}

// verdict is what is compared: whether an image is clean, and if not what comes
// first.
type verdict struct {
	clean bool
	first check.Class

	// forgiven is what e2fsck says before it leaves an image alone with the status of
	// a clean one: it takes a backup, or less than there should be. The kernel refuses
	// these, and for the check they are not clean.
	forgiven check.Class
}

// judge says what e2fsck thinks of an image.
func judge(t *testing.T, path string) (v verdict, f e2test.Fsck, unknown []string) {
	t.Helper()
	f = e2test.RunFsck(t, path)
	v.clean = f.Clean()
	for i, p := range f.Problems {
		class, known := classOf(p.Text)
		// What is invalid about an extent is in the next line.
		if class == check.ExtentBadStart && i+1 < len(f.Problems) && strings.Contains(f.Problems[i+1].Text, "invalid len") {
			class = check.ExtentEndsBeyond
		}
		if !known {
			unknown = append(unknown, p.Text)
		}
		if v.first == "" && !v.clean {
			v.first = class
		}
		if v.forgiven == "" && v.clean {
			switch class {
			case check.SuperblockCorrupt, check.SuperblockChecksum, check.GroupDescBackup, check.FSSizeWrong:
				v.forgiven = class
			}
		}
	}
	return v, f, unknown
}
