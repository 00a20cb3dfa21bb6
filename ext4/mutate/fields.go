package mutate

import (
	"fmt"

	"ext4box/ext4/internal/disk"
)

// class says which values of a field are interesting.
type class uint8

const (
	plain   class = iota
	isBlock       // the number of a device block, or its low half
	isInode
	isFlags
	isCount   // of entries or bytes
	isLogical // the number of a block in a file
	isName    // a byte of a name
)

// field is a part of a structure.
type field struct {
	name  string
	off   int
	width int // bytes
	class class
	big   bool // big endian
}

func (f *field) get(b []byte) (v uint64) {
	for i := range f.width {
		j := f.width - 1 - i
		if f.big {
			j = i
		}
		v = v<<8 | uint64(b[f.off+j])
	}
	return v
}

func (f *field) put(b []byte, v uint64) {
	for i := range f.width {
		j := i
		if f.big {
			j = f.width - 1 - i
		}
		b[f.off+j] = byte(v)
		v >>= 8
	}
}

var superFields = []field{
	{"s_inodes_count", 0x00, 4, isCount, false}, {"s_blocks_count", 0x04, 4, isCount, false}, {"s_r_blocks_count", 0x08, 4, isCount, false},
	{"s_free_blocks_count", 0x0C, 4, isCount, false}, {"s_free_inodes_count", 0x10, 4, isCount, false}, {"s_first_data_block", 0x14, 4, isBlock, false},
	{"s_log_block_size", 0x18, 4, isCount, false}, {"s_log_cluster_size", 0x1C, 4, isCount, false}, {"s_blocks_per_group", 0x20, 4, isCount, false},
	{"s_clusters_per_group", 0x24, 4, isCount, false}, {"s_inodes_per_group", 0x28, 4, isCount, false}, {"s_mtime", 0x2C, 4, plain, false},
	{"s_mnt_count", 0x34, 2, isCount, false}, {"s_magic", 0x38, 2, plain, false}, {"s_state", 0x3A, 2, isFlags, false}, {"s_errors", 0x3C, 2, plain, false},
	{"s_creator_os", 0x48, 4, plain, false}, {"s_rev_level", 0x4C, 4, plain, false}, {"s_first_ino", 0x54, 4, isInode, false},
	{"s_inode_size", 0x58, 2, isCount, false}, {"s_block_group_nr", 0x5A, 2, plain, false}, {"s_feature_compat", 0x5C, 4, isFlags, false},
	{"s_feature_incompat", 0x60, 4, isFlags, false}, {"s_feature_ro_compat", 0x64, 4, isFlags, false}, {"s_uuid", 0x68, 4, plain, false},
	{"s_reserved_gdt_blocks", 0xCE, 2, isCount, false}, {"s_journal_inum", 0xE0, 4, isInode, false}, {"s_journal_dev", 0xE4, 4, plain, false},
	{"s_last_orphan", 0xE8, 4, isInode, false}, {"s_hash_seed", 0xEC, 4, plain, false}, {"s_def_hash_version", 0xFC, 1, plain, false},
	{"s_jnl_backup_type", 0xFD, 1, plain, false}, {"s_desc_size", 0xFE, 2, isCount, false}, {"s_default_mount_opts", 0x100, 4, isFlags, false},
	{"s_first_meta_bg", 0x104, 4, isCount, false}, {"s_jnl_blocks[1]", 0x110, 4, isBlock, false}, {"s_blocks_count_hi", 0x150, 4, isCount, false},
	{"s_r_blocks_count_hi", 0x154, 4, isCount, false}, {"s_free_blocks_hi", 0x158, 4, isCount, false}, {"s_min_extra_isize", 0x15C, 2, isCount, false},
	{"s_want_extra_isize", 0x15E, 2, isCount, false}, {"s_flags", 0x160, 4, isFlags, false}, {"s_raid_stride", 0x164, 2, isCount, false},
	{"s_mmp_update_interval", 0x166, 2, isCount, false}, {"s_mmp_block", 0x168, 4, isBlock, false}, {"s_raid_stripe_width", 0x170, 4, isCount, false},
	{"s_log_groups_per_flex", 0x174, 1, isCount, false}, {"s_checksum_type", 0x175, 1, plain, false}, {"s_error_count", 0x194, 4, isCount, false},
	{"s_first_error_ino", 0x19C, 4, isInode, false}, {"s_mount_opts", 0x200, 4, plain, false}, {"s_usr_quota_inum", 0x240, 4, isInode, false},
	{"s_grp_quota_inum", 0x244, 4, isInode, false}, {"s_overhead_clusters", 0x248, 4, isCount, false}, {"s_backup_bgs[0]", 0x24C, 4, plain, false},
	{"s_backup_bgs[1]", 0x250, 4, plain, false}, {"s_encrypt_algos", 0x254, 4, plain, false}, {"s_lpf_ino", 0x268, 4, isInode, false},
	{"s_prj_quota_inum", 0x26C, 4, isInode, false}, {"s_checksum_seed", 0x270, 4, plain, false}, {"s_encoding", 0x27C, 2, plain, false},
	{"s_encoding_flags", 0x27E, 2, isFlags, false}, {"s_orphan_file_inum", 0x280, 4, isInode, false},
}

var descFields = []field{
	{"bg_block_bitmap", 0x00, 4, isBlock, false}, {"bg_inode_bitmap", 0x04, 4, isBlock, false}, {"bg_inode_table", 0x08, 4, isBlock, false},
	{"bg_free_blocks_count", 0x0C, 2, isCount, false}, {"bg_free_inodes_count", 0x0E, 2, isCount, false}, {"bg_used_dirs_count", 0x10, 2, isCount, false},
	{"bg_flags", 0x12, 2, isFlags, false}, {"bg_block_bitmap_csum", 0x18, 2, plain, false}, {"bg_inode_bitmap_csum", 0x1A, 2, plain, false},
	{"bg_itable_unused", 0x1C, 2, isCount, false},
}

var desc64Fields = []field{
	{"bg_block_bitmap_hi", 0x20, 4, plain, false}, {"bg_inode_bitmap_hi", 0x24, 4, plain, false}, {"bg_inode_table_hi", 0x28, 4, plain, false},
	{"bg_free_blocks_count_hi", 0x2C, 2, isCount, false}, {"bg_free_inodes_count_hi", 0x2E, 2, isCount, false}, {"bg_itable_unused_hi", 0x32, 2, isCount, false},
}

var inodeFields = []field{
	{"i_mode", 0x00, 2, isFlags, false}, {"i_uid", 0x02, 2, plain, false}, {"i_size_lo", 0x04, 4, isCount, false}, {"i_atime", 0x08, 4, plain, false},
	{"i_dtime", 0x14, 4, isInode, false}, {"i_gid", 0x18, 2, plain, false}, {"i_links_count", 0x1A, 2, isCount, false}, {"i_blocks_lo", 0x1C, 4, isCount, false},
	{"i_flags", 0x20, 4, isFlags, false}, {"i_version", 0x24, 4, plain, false}, {"i_generation", 0x64, 4, plain, false}, {"i_file_acl_lo", 0x68, 4, isBlock, false},
	{"i_size_high", 0x6C, 4, isCount, false}, {"i_blocks_high", 0x74, 2, isCount, false}, {"i_file_acl_high", 0x76, 2, plain, false},
	{"i_uid_high", 0x78, 2, plain, false}, {"i_gid_high", 0x7A, 2, plain, false},
}

var inodeExtraFields = []field{
	{"i_extra_isize", 0x80, 2, isCount, false}, {"i_ctime_extra", 0x84, 4, plain, false}, {"i_mtime_extra", 0x88, 4, plain, false},
	{"i_crtime_extra", 0x94, 4, plain, false}, {"i_version_hi", 0x98, 4, plain, false}, {"i_projid", 0x9C, 4, plain, false},
}

var journalFields = []field{
	{"h_magic", 0x00, 4, plain, true}, {"h_blocktype", 0x04, 4, plain, true}, {"s_blocksize", 0x0C, 4, isCount, true}, {"s_maxlen", 0x10, 4, isCount, true},
	{"s_first", 0x14, 4, isCount, true}, {"s_sequence", 0x18, 4, plain, true}, {"s_start", 0x1C, 4, isCount, true}, {"s_errno", 0x20, 4, plain, true},
	{"s_feature_compat", 0x24, 4, isFlags, true}, {"s_feature_incompat", 0x28, 4, isFlags, true}, {"s_feature_ro_compat", 0x2C, 4, isFlags, true},
	{"s_nr_users", 0x40, 4, isCount, true}, {"s_max_transaction", 0x48, 4, isCount, true}, {"s_checksum_type", 0x50, 1, plain, true},
	{"s_num_fc_blocks", 0x54, 4, isCount, true}, {"s_head", 0x58, 4, isCount, true},
}

var xattrHeaderFields = []field{
	{"h_magic", 0x0, 4, plain, false}, {"h_refcount", 0x4, 4, isCount, false}, {"h_blocks", 0x8, 4, isCount, false}, {"h_hash", 0xC, 4, plain, false},
}

var mmpFields = []field{
	{"mmp_magic", 0x0, 4, plain, false}, {"mmp_check_interval", 0x70, 2, isCount, false}, {"mmp_nodename", 0x10, 4, plain, false},
}

var dxRootFields = []field{
	{".inode", 0, 4, isInode, false}, {".rec_len", 4, 2, isCount, false}, {".name_len", 6, 1, isCount, false}, {"..inode", 12, 4, isInode, false},
	{"..rec_len", 16, 2, isCount, false}, {"..name_len", 18, 1, isCount, false}, {"hash_version", 28, 1, plain, false}, {"info_length", 29, 1, isCount, false},
	{"indirect_levels", 30, 1, isCount, false}, {"unused_flags", 31, 1, isFlags, false},
}

// fields are those of the structure at a site, whose current content is b.
func (w *work) fields(s *site, b []byte) (list []field) {
	switch s.kind {
	case kindSuper, kindBackup:
		return superFields
	case kindDesc:
		return prefixed("", descFields, 0, desc64Fields, len(b) >= disk.GroupDescSize64)
	case kindBackupDesc:
		return prefixed("", descFields, 0, desc64Fields, w.b.geo.DescSize >= disk.GroupDescSize64)
	case kindInode:
		list = prefixed("", inodeFields, 0, inodeExtraFields, len(b) > disk.InodeSizeOld)
		return append(list, w.inodeParts(b)...)
	case kindExtents:
		return extentFields(b, 0)
	case kindIndirect, kindQuota, kindOrphan:
		return words(s.kind, b)
	case kindDir:
		return dirFields(b)
	case kindDxRoot:
		return append(dxFields(b, 32), dxRootFields...)
	case kindDxNode:
		return append(dxFields(b, 8), field{"fake.inode", 0, 4, isInode, false}, field{"fake.rec_len", 4, 2, isCount, false})
	case kindXattr:
		return append(xattrFields(b, disk.XattrHeaderSize), xattrHeaderFields...)
	case kindJournal:
		return journalFields
	case kindLog:
		return logFields(b)
	case kindMMP:
		return mmpFields
	}
	return []field{{"bytes", 0, 4, plain, false}}
}

func prefixed(prefix string, a []field, off int, more []field, also bool) (list []field) {
	if !also {
		more = nil
	}
	for _, f := range a {
		f.name, f.off = prefix+f.name, f.off+off
		list = append(list, f)
	}
	for _, f := range more {
		f.name, f.off = prefix+f.name, f.off+off
		list = append(list, f)
	}
	return list
}

// inodeParts are the fields in i_block, by what it holds, and those of attributes.
func (w *work) inodeParts(b []byte) (list []field) {
	in := disk.DecodeInode(b, false)
	const iblock = 0x28
	switch {
	case in.Flags&disk.FlagExtents != 0:
		list = extentFields(b[iblock:iblock+disk.InodeBlockSize], iblock)
	case in.Flags&disk.FlagInlineData != 0 && in.IsDir():
		list = append(list, field{"inline parent", iblock, 4, isInode, false})
		for _, f := range dirFields(b[iblock+4 : iblock+disk.InodeBlockSize]) {
			f.name, f.off = "inline "+f.name, f.off+iblock+4
			list = append(list, f)
		}
	default:
		for i := range 15 {
			list = append(list, field{fmt.Sprintf("i_block[%d]", i), iblock + 4*i, 4, isBlock, false})
		}
	}
	if first := disk.InodeSizeOld + int(in.ExtraIsize); len(b) > disk.InodeSizeOld && first+4 < len(b) && first%4 == 0 {
		list = append(list, field{"ibody.h_magic", first, 4, plain, false})
		list = append(list, xattrFields(b, first+4)...)
	}
	return list
}

// extentFields are those of a node; base is added to the offsets.
func extentFields(node []byte, base int) []field {
	list := []field{
		{"eh_magic", base, 2, plain, false}, {"eh_entries", base + 2, 2, isCount, false}, {"eh_max", base + 4, 2, isCount, false}, {"eh_depth", base + 6, 2, isCount, false},
	}
	h := disk.DecodeExtentHeader(node)
	for i := range min(int(h.Entries), (len(node)-disk.ExtentHeaderSize)/disk.ExtentEntrySize) {
		at, n := base+disk.ExtentHeaderSize+i*disk.ExtentEntrySize, fmt.Sprintf("[%d].", i)
		list = append(list, field{n + "ee_block", at, 4, isLogical, false})
		if h.Depth > 0 {
			list = append(list, field{n + "ei_leaf_lo", at + 4, 4, isBlock, false}, field{n + "ei_leaf_hi", at + 8, 2, plain, false})
		} else {
			list = append(list, field{n + "ee_len", at + 4, 2, isCount, false}, field{n + "ee_start_lo", at + 8, 4, isBlock, false}, field{n + "ee_start_hi", at + 6, 2, plain, false})
		}
	}
	return list
}

// words are all words of a block, the first ones and those in use mostly.
func words(k kind, b []byte) (list []field) {
	c := isBlock
	switch k {
	case kindOrphan:
		c = isInode
	case kindQuota:
		c = isCount
	}
	for off := 0; off+4 <= len(b); off += 4 {
		if off < 32 || off >= len(b)-16 || le.Uint32(b[off:]) != 0 {
			list = append(list, field{fmt.Sprintf("word %#x", off), off, 4, c, false})
		}
	}
	return list
}

// entries calls fn with the offsets of the entries of a directory block, as far
// as they can be followed.
func entries(b []byte, fn func(off, recLen int)) {
	for off := 0; off+disk.DirEntryHeader <= len(b); {
		n := int(le.Uint16(b[off+4:]))
		if n == 65535 || n == 0 && len(b) == 65536 {
			n = 65536
		}
		fn(off, n)
		if n < disk.DirEntryHeader {
			return
		}
		off += n
	}
}

func dirFields(b []byte) (list []field) {
	entries(b, func(off, _ int) {
		n := fmt.Sprintf("entry at %d ", off)
		list = append(list, field{n + "inode", off, 4, isInode, false}, field{n + "rec_len", off + 4, 2, isCount, false},
			field{n + "name_len", off + 6, 1, isCount, false}, field{n + "file_type", off + 7, 1, plain, false})
		if l := int(b[off+6]); l > 0 && off+8+l <= len(b) {
			list = append(list, field{n + "name[0]", off + 8, 1, isName, false}, field{n + "name[last]", off + 7 + l, 1, isName, false})
		}
	})
	return list
}

// dxFields are those of the index entries from off on.
func dxFields(b []byte, off int) []field {
	list := []field{{"limit", off, 2, isCount, false}, {"count", off + 2, 2, isCount, false}, {"[0].block", off + 4, 4, isLogical, false}}
	for i := 1; i < int(le.Uint16(b[off+2:])) && off+8*i+8 <= len(b); i++ {
		list = append(list, field{fmt.Sprintf("[%d].hash", i), off + 8*i, 4, plain, false}, field{fmt.Sprintf("[%d].block", i), off + 8*i + 4, 4, isLogical, false})
	}
	return list
}

func xattrFields(b []byte, off int) (list []field) {
	for i := 0; ; i++ {
		_, next, last, problem := disk.NextXattr(b, off)
		if problem != "" || last {
			return list
		}
		n := fmt.Sprintf("attribute %d ", i)
		list = append(list, field{n + "e_name_len", off, 1, isCount, false}, field{n + "e_name_index", off + 1, 1, plain, false},
			field{n + "e_value_offs", off + 2, 2, isCount, false}, field{n + "e_value_inum", off + 4, 4, isInode, false},
			field{n + "e_value_size", off + 8, 4, isCount, false}, field{n + "e_hash", off + 12, 4, plain, false})
		if next > off+disk.XattrEntrySize {
			list = append(list, field{n + "e_name[0]", off + disk.XattrEntrySize, 1, isName, false})
		}
		off = next
	}
}

// logFields are those of a block of the log.
func logFields(b []byte) []field {
	list := []field{{"h_magic", 0, 4, plain, true}, {"h_blocktype", 4, 4, isCount, true}, {"h_sequence", 8, 4, plain, true}, {"r_count", 12, 4, isCount, true}}
	for off := 16; off < min(len(b), 256); off += 4 {
		list = append(list, field{fmt.Sprintf("word %#x", off), off, 4, isBlock, true})
	}
	return list
}
