package testimage

import "slices"

// Oracle says who tells the truth about an image.
type Oracle int

const (
	Kernel  Oracle = iota // the kernel mounts the image, at least read-only
	Debugfs               // the kernel cannot, debugfs reads it
)

// Level says how much Populate makes.
type Level int

const (
	Rich  Level = iota // everything; needs some 20 MiB
	Small              // one or two of each kind; needs 4 MiB and 250 inodes
	Tiny               // fits a 2 MiB image with 128 inodes
)

// Config is one shape of filesystem.
type Config struct {
	Name string
	Size int64    // of the image, in bytes; images are sparse
	Args []string // for mke2fs, before the image

	// Prepare and Finish are commands run on the empty and on the filled
	// filesystem, with the image as their last argument. What the kernel of
	// the test may be unable to write is added by Finish, when the kernel has
	// done its part.
	Prepare, Finish [][]string

	Oracle          Oracle
	ExternalJournal bool
	MountOptions    string // for the kernel mount that fills the image
	Level           Level
	BigDir          int // entries of the largest directory, 0 = what Level says
}

const mib = 1 << 20

// unindexed is a number of names that a writer without directory indexes, the
// kernel or mke2fs -d, adds in bearable time: it reads the directory for each.
const unindexed = 6000

// Configs is the matrix. The names are stable and unique.
func Configs() []Config {
	return slices.Concat(generations(), geometry(), features(), modern(), foreign())
}

// Find returns the member of Configs with that name.
func Find(name string) (Config, bool) {
	all := Configs()
	i := slices.IndexFunc(all, func(c Config) bool { return c.Name == name })
	if i < 0 {
		return Config{}, false
	}
	return all[i], true
}

// ext4 is a shape made with mke2fs -t ext4 and 4 KiB blocks. The block size is
// spelled out because mke2fs chooses 1 KiB for images as small as these. Later
// arguments win, but only the last -O counts.
func ext4(name string, size int64, args ...string) Config {
	return Config{Name: name, Size: size, Args: slices.Concat([]string{"-t", "ext4", "-b", "4096"}, args)}
}

func (c Config) prepared(cmds ...[]string) Config { c.Prepare = cmds; return c }
func (c Config) finished(cmds ...[]string) Config { c.Finish = cmds; return c }
func (c Config) bigDir(n int) Config              { c.BigDir = n; return c }

func hashAlg(name string) []string    { return []string{"tune2fs", "-E", "hash_alg=" + name} }
func request(line string) []string    { return []string{"debugfs", "-w", "-R", line} }
func tune(features string) []string   { return []string{"tune2fs", "-O", features} }
func rehash() []string                { return []string{"e2fsck", "-fyD"} }
func repair() []string                { return []string{"e2fsck", "-fy"} } // counts the quota
func unsignedHash() []string          { return request("ssv flags 2") }
func linksCount(p, n string) []string { return request("sif " + p + " links_count " + n) }

// generations are what mke2fs wrote by default through 25 years.
func generations() []Config {
	return []Config{
		ext4("ext4", 96*mib).bigDir(100_000).finished(linksCount("/dirs/many", "1")),
		ext4("ext4-2023", 64*mib, "-O", "metadata_csum_seed,orphan_file"),
		ext4("ext4-2008", 64*mib, "-O", "^64bit,^metadata_csum,uninit_bg"),
		{Name: "ext3", Size: 64 * mib, Args: []string{"-t", "ext3", "-b", "4096"}},
		{Name: "ext3-nodirindex", Size: 64 * mib,
			Args: []string{"-t", "ext3", "-b", "4096", "-I", "128", "-O", "^dir_index,^resize_inode"}, BigDir: unindexed},
		{Name: "ext2", Size: 64 * mib, Args: []string{"-t", "ext2", "-b", "4096"}},
		{Name: "ext2-1k", Size: 64 * mib, Args: []string{"-t", "ext2", "-b", "1024", "-I", "128"}, BigDir: 100_000},
		{Name: "ext2-rev0", Size: 64 * mib, Args: []string{"-t", "ext2", "-b", "1024", "-r", "0"}, BigDir: unindexed},
		{Name: "ext2-plain", Size: 64 * mib, Args: []string{"-t", "ext2", "-b", "2048", "-O",
			"^filetype,^sparse_super,^large_file,^resize_inode,^dir_index"}, BigDir: unindexed},
		{Name: "tiny", Size: 2 * mib, Level: Tiny,
			Args: []string{"-t", "ext4", "-b", "1024", "-O", "^has_journal", "-N", "128"}},
	}
}

// geometry varies sizes and places.
func geometry() []Config {
	lazy := ext4("lazyinit", 128*mib, "-b", "1024", "-E", "lazy_itable_init=1,lazy_journal_init=1")
	lazy.MountOptions = "noinit_itable"
	return []Config{
		ext4("1k", 64*mib, "-b", "1024").bigDir(100_000),
		ext4("2k", 64*mib, "-b", "2048"),
		ext4("inode128", 64*mib, "-I", "128"),
		ext4("inode512", 64*mib, "-I", "512"),
		ext4("inode1024", 64*mib, "-I", "1024"),
		ext4("metabg", 64*mib, "-O", "meta_bg,^resize_inode"),
		ext4("metabg-smallgroups", 64*mib, "-b", "1024", "-g", "512", "-O", "meta_bg,^resize_inode"),
		ext4("metabg-32bit", 64*mib, "-b", "1024", "-g", "256", "-O", "meta_bg,^resize_inode,^64bit"),
		ext4("noflexbg", 64*mib, "-O", "^flex_bg"),
		ext4("flexbg2", 64*mib, "-b", "1024", "-G", "2"),
		ext4("groups256", 64*mib, "-b", "1024", "-g", "256"),
		ext4("noresize", 64*mib, "-O", "^resize_inode"),
		ext4("sparsesuper2", 128*mib, "-b", "1024", "-O", "sparse_super2,^resize_inode"),
		ext4("nosparsesuper", 64*mib, "-b", "1024", "-O", "^sparse_super,^resize_inode"),
		ext4("packedmeta", 64*mib, "-E", "packed_meta_blocks=1"),
		lazy,
		ext4("bigalloc", 128*mib, "-O", "bigalloc"),
		ext4("bigalloc-8k", 64*mib, "-O", "bigalloc", "-C", "8192"),
		ext4("bigalloc-1k-16k", 96*mib, "-b", "1024", "-O", "bigalloc", "-C", "16384"),
	}
}

// features are the older features, switched on or off one by one.
func features() []Config {
	ext := ext4("externaljournal", 64*mib)
	ext.ExternalJournal = true
	return []Config{
		ext,
		ext4("no64bit", 64*mib, "-O", "^64bit"),
		ext4("nocsum", 64*mib, "-O", "^metadata_csum"),
		ext4("noextents", 64*mib, "-O", "^extents,^64bit"),
		ext4("noextents-1k", 64*mib, "-b", "1024", "-O", "^extents,^64bit"),
		ext4("nojournal", 64*mib, "-O", "^has_journal"),
		ext4("nohugefile", 64*mib, "-O", "^huge_file"),
		ext4("nofiletype", 64*mib, "-O", "^filetype"),
		ext4("ext4-sober", 64*mib, "-O", "^dir_nlink,^extra_isize,^large_file"),
		ext4("noextattr", 64*mib, "-O", "^ext_attr"),
		ext4("hash-legacy", 64*mib, "-b", "1024").prepared(hashAlg("legacy")),
		ext4("hash-tea", 64*mib, "-b", "1024").prepared(hashAlg("tea")),
		ext4("hash-legacy-unsigned", 64*mib, "-b", "1024").prepared(hashAlg("legacy"), unsignedHash()),
		ext4("hash-halfmd4-unsigned", 64*mib, "-b", "1024").prepared(unsignedHash()),
		ext4("hash-tea-unsigned", 64*mib, "-b", "1024").prepared(hashAlg("tea"), unsignedHash()),
		ext4("rehashed", 64*mib, "-b", "1024").finished(rehash()),
	}
}

// modern are the newer features. Quota is added to the filled image, for a
// kernel without quota support mounts such an image only read-only.
func modern() []Config {
	return []Config{
		ext4("inlinedata", 64*mib, "-O", "inline_data"),
		ext4("inlinedata-1k-inode1024", 64*mib, "-b", "1024", "-I", "1024", "-O", "inline_data"),
		ext4("inlinedata-nocsum", 64*mib, "-O", "inline_data,^metadata_csum"),
		ext4("eainode", 96*mib, "-O", "ea_inode"),
		ext4("eainode-1k", 96*mib, "-b", "1024", "-O", "ea_inode,^metadata_csum"),
		ext4("csumseed", 64*mib, "-O", "metadata_csum_seed"),
		ext4("largedir", 64*mib, "-b", "1024", "-O", "large_dir").bigDir(100_000),
		ext4("orphanfile", 64*mib, "-O", "orphan_file"),
		ext4("mmp", 64*mib, "-O", "mmp", "-E", "mmp_update_interval=1"),
		ext4("fastcommit", 64*mib, "-O", "fast_commit"),
		ext4("stableinodes", 64*mib, "-O", "stable_inodes"),
		ext4("encrypt", 64*mib, "-O", "encrypt"),
		ext4("verity", 64*mib, "-O", "verity"),
		ext4("quota", 64*mib).finished(tune("quota")),
		ext4("project", 64*mib).finished(tune("quota,project"),
			request("sif /files/empty projid 4242"), request("sif /files/hello projid 7"),
			request("sif /files/hello flags 0x20080000"), repair()),
		ext4("everything", 96*mib, "-I", "512", "-O",
			"inline_data,ea_inode,large_dir,metadata_csum_seed,orphan_file,fast_commit,stable_inodes,encrypt,verity").
			finished(tune("quota,project"), repair()),
	}
}

// foreign are the shapes that a kernel with 4 KiB pages and no Unicode support
// cannot mount.
func foreign() []Config {
	shape := func(name string, size int64, finish [][]string, args ...string) Config {
		return Config{Name: name, Size: size, Oracle: Debugfs, Finish: finish, Args: args, BigDir: unindexed}
	}
	more := [][]string{
		request("fallocate /sparse/start 1 5"),
		request("sif /files/hello atime @0xf0000000"),
		request("sif /files/hello mtime @0x1ffffffff"),
		request("sif /dirs/linear uid 70000"),
		rehash(),
	}
	return []Config{
		shape("8k", 64*mib, more, "-t", "ext4", "-b", "8192"),
		shape("16k", 128*mib, more, "-t", "ext4", "-b", "16384", "-O", "inline_data,ea_inode"),
		shape("32k", 128*mib, more, "-t", "ext4", "-b", "32768", "-O", "^metadata_csum"),
		shape("64k", 512*mib, more, "-t", "ext4", "-b", "65536"),
		shape("64k-ext2", 256*mib, [][]string{rehash()}, "-t", "ext2", "-b", "65536"),
		shape("casefold", 64*mib, [][]string{
			request("sif /dirs/linear flags 0x40080000"),
			request("sif /dirs/index flags 0x40080000"),
			rehash(),
		}, "-t", "ext4", "-b", "4096", "-O", "casefold"),
	}
}
