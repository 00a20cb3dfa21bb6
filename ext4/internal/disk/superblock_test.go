package disk_test

import (
	"encoding/binary"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"ext4box/ext4/internal/disk"
	"ext4box/internal/e2test"
)

const mib = 1 << 20

// shape is a way to make a filesystem.
type shape struct {
	name string
	size int64
	args []string
}

// shapes differ in what the superblock, the descriptors and their places say.
var shapes = []shape{
	{"rev0", 64 * mib, []string{"-t", "ext2", "-r", "0", "-b", "1024"}},
	{"ext2 1k", 64 * mib, []string{"-t", "ext2", "-b", "1024"}},
	{"ext3 no sparse", 64 * mib, []string{"-t", "ext3", "-b", "1024", "-O", "^sparse_super,^resize_inode"}},
	{"ext4 1k", 64 * mib, []string{"-t", "ext4", "-b", "1024"}},
	{"ext4 4k", 512 * mib, []string{"-t", "ext4", "-b", "4096"}},
	{"ext4 64k", 512 * mib, []string{"-t", "ext4", "-b", "65536"}},
	{"uninit_bg", 300 * mib, []string{"-t", "ext4", "-b", "4096", "-O", "^metadata_csum,uninit_bg,^64bit"}},
	{"uninit_bg 64bit", 64 * mib, []string{"-t", "ext4", "-b", "1024", "-O", "^metadata_csum,uninit_bg"}},
	{"csum 32bit", 64 * mib, []string{"-t", "ext4", "-b", "1024", "-O", "^64bit"}},
	{"csum_seed", 64 * mib, []string{"-t", "ext4", "-b", "1024", "-O", "metadata_csum_seed"}},
	{"sparse_super2", 96 * mib, []string{"-t", "ext4", "-b", "1024", "-O", "sparse_super2,^resize_inode"}},
	{"sparse_super2 one backup", 96 * mib, []string{"-t", "ext4", "-b", "1024", "-O", "sparse_super2,^resize_inode", "-E", "num_backup_sb=1"}},
	{"small groups", 64 * mib, []string{"-t", "ext4", "-b", "1024", "-g", "256"}},
	{"meta_bg", 96 * mib, []string{"-t", "ext4", "-b", "1024", "-g", "512", "-O", "meta_bg,^resize_inode"}},
	{"meta_bg 32bit", 96 * mib, []string{"-t", "ext4", "-b", "1024", "-g", "256", "-O", "meta_bg,^resize_inode,^64bit"}},
	{"meta_bg plain", 60 * mib, []string{"-t", "ext2", "-b", "1024", "-g", "256", "-O", "meta_bg,^resize_inode,^sparse_super"}},
	{"meta_bg bigalloc 1k", 512 * mib, []string{"-t", "ext4", "-b", "1024", "-g", "4096", "-C", "2048", "-O", "bigalloc,meta_bg,^resize_inode"}},
	{"bigalloc 1k", 96 * mib, []string{"-t", "ext4", "-b", "1024", "-C", "16384", "-O", "bigalloc"}},
	{"bigalloc 4k", 256 * mib, []string{"-t", "ext4", "-b", "4096", "-C", "65536", "-O", "bigalloc"}},
	{"hurd", 32 * mib, []string{"-t", "ext2", "-o", "hurd", "-b", "4096", "-I", "128"}},
	{"no flex_bg", 300 * mib, []string{"-t", "ext4", "-b", "4096", "-O", "^flex_bg"}},
	{"mmp", 8 * mib, []string{"-t", "ext4", "-b", "1024", "-O", "mmp", "-E", "mmp_update_interval=7"}},
	{"settings", 64 * mib, []string{"-t", "ext4", "-b", "1024", "-I", "512", "-m", "3", "-e", "panic", "-L", "a label of 16 ch",
		"-M", "/mnt/somewhere", "-G", "4", "-O", "quota,project,inline_data,ea_inode,metadata_csum_seed,orphan_file,large_dir," +
			"casefold,encrypt,verity,stable_inodes,fast_commit",
		"-E", "stride=4,stripe_width=8,encoding=utf8,encoding_flags=strict," +
			"hash_seed=11111111-2222-3333-4444-555566667777,quotatype=usrquota:grpquota:prjquota"}},
}

// open returns the superblock of an image with its layout.
func open(t testing.TB, path string) (disk.Superblock, disk.Geometry) {
	t.Helper()
	sb := disk.DecodeSuperblock(e2test.Bytes(t, path, disk.SuperblockOffset, disk.SuperblockSize))
	g, err := sb.Geometry()
	if err != nil {
		t.Fatalf("geometry: %v", err)
	}
	return sb, g
}

// header is the superblock as dumpe2fs would print it, by its keys. Keys that
// map to an empty function are not of the superblock.
var header = map[string]func(sb *disk.Superblock, g *disk.Geometry) string{
	"Filesystem volume name":  func(sb *disk.Superblock, _ *disk.Geometry) string { return text(sb.VolumeName[:], "<none>") },
	"Last mounted on":         func(sb *disk.Superblock, _ *disk.Geometry) string { return text(sb.LastMounted[:], "<not available>") },
	"Filesystem UUID":         func(sb *disk.Superblock, _ *disk.Geometry) string { return uuid(sb.UUID) },
	"Filesystem magic number": func(sb *disk.Superblock, _ *disk.Geometry) string { return fmt.Sprintf("0x%04X", sb.Magic) },
	"Filesystem revision #":   func(sb *disk.Superblock, _ *disk.Geometry) string { return pick(sb.RevLevel, "original", "dynamic") },
	"Filesystem features":     func(sb *disk.Superblock, _ *disk.Geometry) string { return features(sb) },
	"Filesystem flags":        func(sb *disk.Superblock, _ *disk.Geometry) string { return flags(sb) },
	"Default mount options":   func(sb *disk.Superblock, _ *disk.Geometry) string { return mountOptions(sb) },
	"Filesystem state":        func(sb *disk.Superblock, _ *disk.Geometry) string { return state(sb) },
	"Errors behavior":         func(sb *disk.Superblock, _ *disk.Geometry) string { return errorsBehaviour(sb.Errors) },
	"Filesystem OS type":      func(sb *disk.Superblock, _ *disk.Geometry) string { return []string{"Linux", "Hurd"}[sb.CreatorOS] },
	"Inode count":             func(_ *disk.Superblock, g *disk.Geometry) string { return fmt.Sprint(g.InodesCount) },
	"Block count":             func(_ *disk.Superblock, g *disk.Geometry) string { return fmt.Sprint(g.BlocksCount) },
	"Reserved block count":    func(sb *disk.Superblock, _ *disk.Geometry) string { return fmt.Sprint(sb.ReservedBlocks) },
	"Overhead clusters":       func(sb *disk.Superblock, _ *disk.Geometry) string { return fmt.Sprint(sb.OverheadClusters) },
	"Free blocks":             func(sb *disk.Superblock, _ *disk.Geometry) string { return fmt.Sprint(sb.FreeBlocks) },
	"Free inodes":             func(sb *disk.Superblock, _ *disk.Geometry) string { return fmt.Sprint(sb.FreeInodes) },
	"First block":             func(_ *disk.Superblock, g *disk.Geometry) string { return fmt.Sprint(g.FirstDataBlock) },
	"Block size":              func(_ *disk.Superblock, g *disk.Geometry) string { return fmt.Sprint(g.BlockSize) },
	"Fragment size":           func(_ *disk.Superblock, g *disk.Geometry) string { return fmt.Sprint(g.BlockSize) },
	"Cluster size":            func(_ *disk.Superblock, g *disk.Geometry) string { return fmt.Sprint(g.BlockSize << g.ClusterBits) },
	"Group descriptor size":   func(_ *disk.Superblock, g *disk.Geometry) string { return fmt.Sprint(g.DescSize) },
	"Reserved GDT blocks":     func(sb *disk.Superblock, _ *disk.Geometry) string { return fmt.Sprint(sb.ReservedGDT) },
	"Blocks per group":        func(_ *disk.Superblock, g *disk.Geometry) string { return fmt.Sprint(g.BlocksPerGroup) },
	"Fragments per group":     func(_ *disk.Superblock, g *disk.Geometry) string { return fmt.Sprint(g.BlocksPerGroup) },
	"Clusters per group":      func(_ *disk.Superblock, g *disk.Geometry) string { return fmt.Sprint(g.ClustersPerGroup) },
	"Inodes per group":        func(_ *disk.Superblock, g *disk.Geometry) string { return fmt.Sprint(g.InodesPerGroup) },
	"Inode blocks per group":  func(_ *disk.Superblock, g *disk.Geometry) string { return fmt.Sprint(g.InodeTableBlocks) },
	"First meta block group":  func(sb *disk.Superblock, _ *disk.Geometry) string { return fmt.Sprint(sb.FirstMetaBG) },
	"RAID stride":             func(sb *disk.Superblock, _ *disk.Geometry) string { return fmt.Sprint(sb.RAIDStride) },
	"RAID stripe width":       func(sb *disk.Superblock, _ *disk.Geometry) string { return fmt.Sprint(sb.RAIDStripeWidth) },
	"Flex block group size":   func(sb *disk.Superblock, _ *disk.Geometry) string { return fmt.Sprint(1 << sb.LogGroupsPerFlex) },
	"Filesystem created":      func(sb *disk.Superblock, _ *disk.Geometry) string { return date(sb.MkfsTime) },
	"Last mount time":         func(sb *disk.Superblock, _ *disk.Geometry) string { return date(sb.MountTime) },
	"Last write time":         func(sb *disk.Superblock, _ *disk.Geometry) string { return date(sb.WriteTime) },
	"Last checked":            func(sb *disk.Superblock, _ *disk.Geometry) string { return date(sb.LastCheck) },
	"Mount count":             func(sb *disk.Superblock, _ *disk.Geometry) string { return fmt.Sprint(sb.MountCount) },
	"Maximum mount count":     func(sb *disk.Superblock, _ *disk.Geometry) string { return fmt.Sprint(sb.MaxMountCount) },
	"Check interval":          func(sb *disk.Superblock, _ *disk.Geometry) string { return fmt.Sprint(sb.CheckInterval) },
	"Lifetime writes":         func(sb *disk.Superblock, _ *disk.Geometry) string { return fmt.Sprint(sb.KBytesWritten, " kB") },
	"Reserved blocks uid":     func(sb *disk.Superblock, _ *disk.Geometry) string { return fmt.Sprint(sb.DefResUID) },
	"Reserved blocks gid":     func(sb *disk.Superblock, _ *disk.Geometry) string { return fmt.Sprint(sb.DefResGID) },
	"First inode":             func(sb *disk.Superblock, _ *disk.Geometry) string { return fmt.Sprint(sb.FirstIno) },
	"Inode size":              func(_ *disk.Superblock, g *disk.Geometry) string { return fmt.Sprint(g.InodeSize) },
	"Required extra isize":    func(sb *disk.Superblock, _ *disk.Geometry) string { return fmt.Sprint(sb.MinExtraIsize) },
	"Desired extra isize":     func(sb *disk.Superblock, _ *disk.Geometry) string { return fmt.Sprint(sb.WantExtraIsize) },
	"Journal inode":           func(sb *disk.Superblock, _ *disk.Geometry) string { return fmt.Sprint(sb.JournalIno) },
	"First orphan inode":      func(sb *disk.Superblock, _ *disk.Geometry) string { return fmt.Sprint(sb.LastOrphan) },
	"Default directory hash": func(sb *disk.Superblock, _ *disk.Geometry) string {
		return disk.HashVersion(sb.DefHashVersion).String()
	},
	"Directory Hash Seed":      func(sb *disk.Superblock, _ *disk.Geometry) string { return uuid(seedBytes(sb.HashSeed)) },
	"Journal backup":           func(sb *disk.Superblock, _ *disk.Geometry) string { return pickBackup(sb.JournalBackup) },
	"FS Error count":           func(sb *disk.Superblock, _ *disk.Geometry) string { return fmt.Sprint(sb.ErrorCount) },
	"First error time":         func(sb *disk.Superblock, _ *disk.Geometry) string { return date(sb.FirstErrorTime) },
	"First error function":     func(sb *disk.Superblock, _ *disk.Geometry) string { return text(sb.FirstErrorFunc[:], "") },
	"First error line #":       func(sb *disk.Superblock, _ *disk.Geometry) string { return fmt.Sprint(sb.FirstErrorLine) },
	"First error inode #":      func(sb *disk.Superblock, _ *disk.Geometry) string { return fmt.Sprint(sb.FirstErrorIno) },
	"First error block #":      func(sb *disk.Superblock, _ *disk.Geometry) string { return fmt.Sprint(sb.FirstErrorBlock) },
	"First error err":          func(sb *disk.Superblock, _ *disk.Geometry) string { return errorCode(sb.FirstErrorCode) },
	"Last error time":          func(sb *disk.Superblock, _ *disk.Geometry) string { return date(sb.LastErrorTime) },
	"Last error function":      func(sb *disk.Superblock, _ *disk.Geometry) string { return text(sb.LastErrorFunc[:], "") },
	"Last error line #":        func(sb *disk.Superblock, _ *disk.Geometry) string { return fmt.Sprint(sb.LastErrorLine) },
	"Last error inode #":       func(sb *disk.Superblock, _ *disk.Geometry) string { return fmt.Sprint(sb.LastErrorIno) },
	"Last error block #":       func(sb *disk.Superblock, _ *disk.Geometry) string { return fmt.Sprint(sb.LastErrorBlock) },
	"Last error err":           func(sb *disk.Superblock, _ *disk.Geometry) string { return errorCode(sb.LastErrorCode) },
	"Backup block groups":      func(sb *disk.Superblock, _ *disk.Geometry) string { return backups(sb.BackupBGs) },
	"MMP block number":         func(sb *disk.Superblock, _ *disk.Geometry) string { return fmt.Sprint(sb.MMPBlock) },
	"MMP update interval":      func(sb *disk.Superblock, _ *disk.Geometry) string { return fmt.Sprint(sb.MMPInterval) },
	"User quota inode":         func(sb *disk.Superblock, _ *disk.Geometry) string { return fmt.Sprint(sb.UserQuotaIno) },
	"Group quota inode":        func(sb *disk.Superblock, _ *disk.Geometry) string { return fmt.Sprint(sb.GroupQuotaIno) },
	"Project quota inode":      func(sb *disk.Superblock, _ *disk.Geometry) string { return fmt.Sprint(sb.ProjectQuotaIno) },
	"Checksum type":            func(sb *disk.Superblock, _ *disk.Geometry) string { return []string{"", "crc32c"}[sb.ChecksumType] },
	"Checksum":                 func(sb *disk.Superblock, _ *disk.Geometry) string { return fmt.Sprintf("0x%08x", sb.Checksum) },
	"Checksum seed":            func(sb *disk.Superblock, _ *disk.Geometry) string { return fmt.Sprintf("0x%08x", sb.ChecksumSeed) },
	"Character encoding":       func(sb *disk.Superblock, _ *disk.Geometry) string { return []string{"", "utf8-12.1"}[sb.Encoding] },
	"Character encoding flags": func(sb *disk.Superblock, _ *disk.Geometry) string { return []string{"", "strict"}[sb.EncodingFlags] },
	"Orphan file inode":        func(sb *disk.Superblock, _ *disk.Geometry) string { return fmt.Sprint(sb.OrphanFileIno) },
	"Mount options":            func(sb *disk.Superblock, _ *disk.Geometry) string { return text(sb.MountOpts[:], "") },
	"Next check after":         nil,
	"Journal features":         nil,
	"Total journal size":       nil,
	"Total journal blocks":     nil,
	"Max transaction length":   nil,
	"Fast commit length":       nil,
	"Journal sequence":         nil,
	"Journal start":            nil,
	"Journal checksum type":    nil,
	"Journal checksum":         nil,
	"MMP_block":                nil,
	"mmp_magic":                nil,
	"mmp_check_interval":       nil,
	"mmp_sequence":             nil,
	"mmp_update_date":          nil,
	"mmp_update_time":          nil,
	"mmp_node_name":            nil,
	"mmp_device_name":          nil,
}

func text(field []byte, none string) string {
	if s := disk.CString(field); s != "" {
		return s
	}
	return none
}

func uuid(u [16]byte) string {
	return fmt.Sprintf("%x-%x-%x-%x-%x", u[:4], u[4:6], u[6:8], u[8:10], u[10:])
}

func seedBytes(words [4]uint32) (b [16]byte) {
	for i, w := range words {
		binary.LittleEndian.PutUint32(b[4*i:], w)
	}
	return b
}

func pick(n uint32, names ...string) string { return fmt.Sprintf("%d (%s)", n, names[n]) }

func pickBackup(n uint8) string {
	if n == 1 {
		return "inode blocks"
	}
	return fmt.Sprintf("type %d", n)
}

func features(sb *disk.Superblock) string {
	all := slices.Concat(sb.Compat.Names(), sb.Incompat.Names(), sb.ROCompat.Names())
	if len(all) == 0 {
		return "(none)"
	}
	return strings.Join(all, " ")
}

func flags(sb *disk.Superblock) string {
	var s []string
	for bit, name := range []string{"signed_directory_hash", "unsigned_directory_hash", "test_filesystem"} {
		if sb.Flags&(1<<bit) != 0 {
			s = append(s, name)
		}
	}
	return strings.Join(s, " ")
}

func mountOptions(sb *disk.Superblock) string {
	var s []string
	if mode := sb.DefaultMountOpts & disk.DefMountJMode; mode != 0 {
		s = append(s, []string{"", "journal_data", "journal_data_ordered", "journal_data_writeback"}[mode>>5])
	}
	for _, o := range []struct {
		bit  uint32
		name string
	}{
		{disk.DefMountDebug, "debug"}, {disk.DefMountBSDGroups, "bsdgroups"}, {disk.DefMountXattrUser, "user_xattr"},
		{disk.DefMountACL, "acl"}, {disk.DefMountUID16, "uid16"}, {disk.DefMountNoBarrier, "nobarrier"},
		{disk.DefMountBlockValid, "block_validity"}, {disk.DefMountDiscard, "discard"}, {disk.DefMountNoDelalloc, "nodelalloc"},
	} {
		if sb.DefaultMountOpts&o.bit != 0 {
			s = append(s, o.name)
		}
	}
	slices.Sort(s)
	if len(s) == 0 {
		return "(none)"
	}
	return strings.Join(s, " ")
}

func state(sb *disk.Superblock) string {
	s := "not clean"
	if sb.State&disk.StateValid != 0 {
		s = "clean"
	}
	if sb.State&disk.StateErrors != 0 {
		s += " with errors"
	}
	return s
}

func errorsBehaviour(e uint16) string {
	return map[uint16]string{1: "Continue", 2: "Remount read-only", 3: "Panic"}[e]
}

func errorCode(c uint8) string {
	return map[uint8]string{1: "Unknown", 2: "EIO", 3: "ENOMEM", 4: "EFSBADCRC", 5: "EFSCORRUPTED", 6: "ENOSPC", 12: "EFAULT"}[c]
}

func backups(bgs [2]uint32) string {
	var s []string
	for _, bg := range bgs {
		if bg != 0 {
			s = append(s, fmt.Sprint(bg))
		}
	}
	return strings.Join(s, " ")
}

// date prints as ctime(3) does.
func date(secs int64) string {
	if secs == 0 {
		return "n/a"
	}
	return disk.Time(secs).UTC().Format(time.ANSIC)
}

// annotation is what dumpe2fs adds to a number for people.
var annotation = regexp.MustCompile(` \((user|group|<none>|[0-9]+ (day|hour|minute|month)|[0-9]+:).*\)$`)

// TestSuperblockEqualsDumpe2fs compares each field that dumpe2fs prints. A line
// that the test does not know fails it.
func TestSuperblockEqualsDumpe2fs(t *testing.T) {
	for _, s := range shapes {
		t.Run(s.name, func(t *testing.T) {
			path := e2test.Image(t, s.size, s.args...)
			if s.name == "settings" {
				e2test.Change(t, path, "ssv mtime 20400102030405", "ssv lastcheck 20370102030405", "ssv error_count 3",
					"ssv first_error_time 20330102030405", "ssv last_error_time 20350102030405",
					"ssv first_error_func ext4_iget", "ssv first_error_line 12", "ssv first_error_ino 13", "ssv first_error_block 14",
					"ssv last_error_func ext4_lookup", "ssv last_error_line 22", "ssv last_error_ino 23", "ssv last_error_block 24",
					"ssv state 2", "ssv last_orphan 14",
					"ssv mount_opts data=journal", "ssv want_extra_isize 48", "ssv mnt_count 4", "ssv max_mnt_count 9",
					"ssv checkinterval 86400", "ssv def_resuid 3", "ssv def_resgid 4", "ssv def_hash_version tea", "ssv kbytes_written 9")
				e2test.Output(t, "tune2fs", "-o", "journal_data_ordered,discard,block_validity,bsdgroups", "-f", path)
			}
			sb, g := open(t, path)
			seen := 0
			for key, want := range e2test.Dumpe2fs(t, path).Header {
				print, known := header[key]
				if !known {
					t.Errorf("dumpe2fs prints %q, which the test does not know", key)
					continue
				}
				if print == nil {
					continue
				}
				seen++
				want = annotation.ReplaceAllString(want, "")
				if key == "Default mount options" {
					words := strings.Fields(want)
					slices.Sort(words)
					want = strings.Join(words, " ")
				}
				if got := print(&sb, &g); got != want {
					t.Errorf("%s is %q, dumpe2fs says %q", key, got, want)
				}
			}
			if seen < 35 {
				t.Errorf("dumpe2fs printed only %d fields", seen)
			}
			if s.name == "settings" && seen < 68 {
				t.Errorf("dumpe2fs printed only %d fields of a superblock that has most set", seen)
			}
		})
	}
}

// TestFeatureNames sets each bit of the masks and asks dumpe2fs for its name.
func TestFeatureNames(t *testing.T) {
	path := e2test.Image(t, 4*mib, "-t", "ext2", "-b", "1024")
	known := map[string]bool{"btree_dir": true, "snapshot": true}
	for _, mask := range []struct {
		field string
		off   int64
		names func(bit uint32) []string
	}{
		{"compat", 0x5C, func(b uint32) []string { return disk.Compat(b).Names() }},
		{"incompat", 0x60, func(b uint32) []string { return disk.Incompat(b).Names() }},
		{"ro_compat", 0x64, func(b uint32) []string { return disk.ROCompat(b).Names() }},
	} {
		for bit := range 32 {
			if mask.field == "incompat" && disk.Incompat(1<<bit)&(disk.IncompatJournalDev|disk.Incompat64Bit) != 0 ||
				mask.field == "ro_compat" && disk.ROCompat(1<<bit) == disk.ROCompatMetadataCsum {
				continue // dumpe2fs would not take the image any more
			}
			raw := make([]byte, 12)
			binary.LittleEndian.PutUint32(raw[mask.off-0x5C:], 1<<bit)
			e2test.Patch(t, path, disk.SuperblockOffset+0x5C, raw)
			_, want, _ := strings.Cut(e2test.Output(t, "dumpe2fs", "-fh", path), "Filesystem features:")
			want, _, _ = strings.Cut(want, "\n")
			got := mask.names(1 << bit)
			if nameless := strings.Contains(want, "FEATURE_"); nameless && len(got) == 1 && known[got[0]] {
				continue // features of old that e2fsprogs has forgotten
			}
			if len(got) != 1 || got[0] != strings.TrimSpace(want) {
				t.Errorf("%s bit %d is called %q, dumpe2fs says %q", mask.field, bit, got, strings.TrimSpace(want))
			}
		}
	}
	journal := e2test.Output(t, "dumpe2fs", "-h", e2test.Image(t, 8*mib, "-b", "4096", "-O", "journal_dev"))
	if name := disk.IncompatJournalDev.Names()[0]; !regexp.MustCompile(`features: +` + name + `\n`).MatchString(journal) {
		t.Errorf("a journal device is called %q, dumpe2fs says %s", name, journal)
	}
	if got := disk.Incompat(0).Names(); got != nil {
		t.Errorf("no features have the names %q", got)
	}
	if got := strings.Join((disk.IncompatExtents | disk.IncompatFiletype | 1<<31).Names(), " "); got != "filetype extent FEATURE_I31" {
		t.Errorf("three features are named %q", got)
	}
}

// TestSuperblockHighTimes checks the bytes that extend times past 2106, which
// dumpe2fs of this age does not print.
func TestSuperblockHighTimes(t *testing.T) {
	b := make([]byte, disk.SuperblockSize)
	le := binary.LittleEndian
	le.PutUint32(b[0x4C:], disk.RevDynamic)
	fields := []struct {
		lo, hi int
		get    func(*disk.Superblock) int64
	}{
		{0x2C, 0x275, func(sb *disk.Superblock) int64 { return sb.MountTime }},
		{0x30, 0x274, func(sb *disk.Superblock) int64 { return sb.WriteTime }},
		{0x40, 0x277, func(sb *disk.Superblock) int64 { return sb.LastCheck }},
		{0x108, 0x276, func(sb *disk.Superblock) int64 { return sb.MkfsTime }},
		{0x198, 0x278, func(sb *disk.Superblock) int64 { return sb.FirstErrorTime }},
		{0x1CC, 0x279, func(sb *disk.Superblock) int64 { return sb.LastErrorTime }},
	}
	for i, f := range fields {
		le.PutUint32(b[f.lo:], 0xF0000000+uint32(i))
		b[f.hi] = byte(1 + i)
	}
	sb := disk.DecodeSuperblock(b)
	for i, f := range fields {
		if got, want := f.get(&sb), int64(1+i)<<32|0xF0000000+int64(i); got != want {
			t.Errorf("time at %#x is %#x, not %#x", f.lo, got, want)
		}
	}
}

// TestSuperblockWordsByOffset checks each field's place with a superblock in
// which every byte is different from its neighbours, for those fields that the
// tools do not print.
func TestSuperblockWordsByOffset(t *testing.T) {
	b := make([]byte, disk.SuperblockSize)
	for i := range b {
		b[i] = byte(i*7 + i>>8)
	}
	le := binary.LittleEndian
	sb := disk.DecodeSuperblock(b)
	for name, v := range map[string][2]uint64{
		"minor revision":    {uint64(sb.MinorRevLevel), uint64(le.Uint16(b[0x3E:]))},
		"block group":       {uint64(sb.BlockGroupNr), uint64(le.Uint16(b[0x5A:]))},
		"journal device":    {uint64(sb.JournalDev), uint64(le.Uint32(b[0xE4:]))},
		"journal uuid":      {le.Uint64(sb.JournalUUID[:]), le.Uint64(b[0xD0:])},
		"journal blocks 0":  {uint64(sb.JournalBlocks[0]), uint64(le.Uint32(b[0x10C:]))},
		"journal blocks 16": {uint64(sb.JournalBlocks[16]), uint64(le.Uint32(b[0x14C:]))},
		"default options":   {uint64(sb.DefaultMountOpts), uint64(le.Uint32(b[0x100:]))},
		"lost+found":        {uint64(sb.LostFoundIno), uint64(le.Uint32(b[0x268:]))},
		"cluster size":      {uint64(sb.LogClusterSize), uint64(le.Uint32(b[0x1C:]))},
		"clusters":          {uint64(sb.ClustersPerGroup), uint64(le.Uint32(b[0x24:]))},
		"state":             {uint64(sb.State), uint64(le.Uint16(b[0x3A:]))},
	} {
		if v[0] != v[1] {
			t.Errorf("%s is %#x, not %#x", name, v[0], v[1])
		}
	}
}

// TestUnsignedHash checks both values of the flag on images.
func TestUnsignedHash(t *testing.T) {
	path := e2test.Image(t, 4*mib, "-t", "ext4", "-b", "1024")
	for _, flag := range []int{disk.FlagSignedHash, disk.FlagUnsignedHash} {
		e2test.Change(t, path, "ssv flags "+strconv.Itoa(flag))
		if sb, _ := open(t, path); sb.UnsignedHash() != (flag == disk.FlagUnsignedHash) {
			t.Errorf("flags %d: unsigned hash is %v", flag, sb.UnsignedHash())
		}
	}
}
