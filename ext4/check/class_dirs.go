package check

// Pass 2: directories.
const (
	DirHole           Class = "directory-hole"        // a block that is not there
	DirReadFailed     Class = "directory-read-failed" //
	DirCorrupt        Class = "directory-corrupt"     // records that do not tile the block
	DirNoChecksum     Class = "directory-no-checksum" // nor room for one
	DirChecksum       Class = "directory-checksum"    //
	DirInlineSize     Class = "directory-inline-size" //
	DotMissing        Class = "dot-missing"
	DotName           Class = "dot-name"  // the first entry is another one
	DotInode          Class = "dot-inode" // it is of another inode
	DotTerminator     Class = "dot-terminator"
	DotDuplicate      Class = "dot-duplicate"
	DotdotMissing     Class = "dotdot-missing"
	DotdotName        Class = "dotdot-name"
	DotdotTerminator  Class = "dotdot-terminator"
	DotdotDuplicate   Class = "dotdot-duplicate"
	EntryInode        Class = "entry-inode"        // a number that no file can have
	EntryUnused       Class = "entry-unused-inode" //
	EntryInodeUninit  Class = "entry-inode-uninit" // in a group without inodes
	EntryInodeBeyond  Class = "entry-inode-beyond" // in the part of the table that is not in use
	EntrySelf         Class = "entry-self"         // a link to the directory itself
	EntryRoot         Class = "entry-root"         // a link to the root
	EntryDirLink      Class = "entry-directory"    // a second link to a directory
	EntryNoName       Class = "entry-no-name"      //
	EntryName         Class = "entry-name"         // '/' or NUL
	EntryNotUTF8      Class = "entry-not-utf8"     //
	EntryDuplicate    Class = "entry-duplicate"    //
	EntryType         Class = "entry-type"         //
	EntryTypeSet      Class = "entry-type-set"     // without the feature
	EntryShort        Class = "entry-short"        // too short to be encrypted
	IndexChecksum     Class = "index-checksum"
	IndexLimit        Class = "index-limit"
	IndexCount        Class = "index-count"
	IndexOrder        Class = "index-order"
	IndexBlockNumber  Class = "index-block-number"
	IndexMismatch     Class = "index-mismatch" // hashes, depth or references of a block
	InodeMode         Class = "inode-mode"     // no type of file
	InodeDevice       Class = "inode-device"   // a device, FIFO or socket that cannot be
	InodeFieldNonzero Class = "inode-field-nonzero"
	InodeXattrBlock   Class = "inode-xattr-block"
)

// Pass 3: connectivity.
const (
	RootMissing    Class = "root-missing"
	DirUnconnected Class = "directory-unconnected"
	DirLoop        Class = "directory-loop"
	DotdotWrong    Class = "dotdot-wrong"
)

// Pass 4: link counts.
const (
	InodeUnattached      Class = "inode-unattached"
	InodeUnattachedEmpty Class = "inode-unattached-empty"
	LinkCount            Class = "link-count"
	LinkCountFeature     Class = "link-count-feature" // more links than there may be without dir_nlink
)
