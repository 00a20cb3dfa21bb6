package disk_test

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"regexp"
	"strings"
	"testing"
	"time"

	"ext4box/ext4/internal/disk"
	"ext4box/internal/e2test"
)

// stat is an inode as debugfs prints it, as far as it is printed for each kind
// of inode.
func stat(in *disk.Inode, ino uint32, large, huge bool, blockBits uint) map[string]string {
	acl := in.FileACL
	m := map[string]string{
		"Inode":      fmt.Sprint(ino),
		"Mode":       fmt.Sprintf("0%03o", in.Mode&0o7777),
		"Flags":      fmt.Sprintf("0x%x", uint32(in.Flags)),
		"Generation": fmt.Sprint(in.Generation),
		"User":       fmt.Sprint(int32(in.UID)),
		"Group":      fmt.Sprint(int32(in.GID)),
		"Size":       fmt.Sprint(in.Size),
		"ACL":        fmt.Sprint(acl),
		"Links":      fmt.Sprint(in.Links),
		"Blockcount": fmt.Sprint(in.Blocks),
		"Type": map[uint16]string{disk.ModeReg: "regular", disk.ModeDir: "directory", disk.ModeChar: "character special",
			disk.ModeBlock: "block special", disk.ModeFifo: "FIFO", disk.ModeSocket: "socket", disk.ModeLink: "symlink"}[in.Type()],
	}
	m["Version"] = fmt.Sprintf("0x%08x", in.Version)
	m["ctime"], m["atime"], m["mtime"] = moment(in.Ctime), moment(in.Atime), moment(in.Mtime)
	if large {
		m["Version"] = fmt.Sprintf("0x%08x:%08x", in.Version>>32, uint32(in.Version))
		m["Project"] = fmt.Sprint(in.ProjectID)
		m["crtime"] = moment(in.Crtime)
		m["extra"] = fmt.Sprint(in.ExtraIsize)
		m["checksum"] = fmt.Sprintf("0x%08x", in.Checksum)
	}
	return m
}

// moment prints seconds as ctime(3) does, and nanoseconds.
func moment(ts disk.Timestamp) string {
	return fmt.Sprintf("%s +%d", time.Unix(ts.Sec, 0).UTC().Format(time.ANSIC), ts.Nsec)
}

var statFields = map[string]*regexp.Regexp{
	"Inode": regexp.MustCompile(`Inode: (\d+)`), "Type": regexp.MustCompile(`Type: (.*?)  `), "Mode": regexp.MustCompile(`Mode: +(\d+)`),
	"Flags": regexp.MustCompile(`Flags: (0x[0-9a-f]+)`), "Generation": regexp.MustCompile(`Generation: (\d+)`),
	"Version": regexp.MustCompile(`Version: (\S+)`), "User": regexp.MustCompile(`User: +(-?\d+)`), "Group": regexp.MustCompile(`Group: +(-?\d+)`),
	"Project": regexp.MustCompile(`Project: +(\d+)`), "Size": regexp.MustCompile(`Size: (\d+)\n`), "ACL": regexp.MustCompile(`File ACL: (\d+)`),
	"Links": regexp.MustCompile(`Links: (\d+)`), "Blockcount": regexp.MustCompile(`Blockcount: (\d+)`),
	"extra": regexp.MustCompile(`extra inode fields: (\d+)`), "checksum": regexp.MustCompile(`Inode checksum: (0x[0-9a-f]+)`),
}

var statTimes = regexp.MustCompile(`(?m)^ ?(ctime|atime|mtime|crtime): 0x[0-9a-f]+(?::([0-9a-f]+))? -- (.*)$`)

// parseStat reads what debugfs prints.
func parseStat(t *testing.T, out string) map[string]string {
	t.Helper()
	m := map[string]string{}
	for key, re := range statFields {
		if found := re.FindStringSubmatch(out); found != nil {
			m[key] = found[1]
		}
	}
	for _, found := range statTimes.FindAllStringSubmatch(out, -1) {
		var extra uint32
		if found[2] != "" {
			if _, err := fmt.Sscanf(found[2], "%x", &extra); err != nil {
				t.Fatal(err)
			}
		}
		m[found[1]] = fmt.Sprintf("%s +%d", found[3], extra>>2)
	}
	return m
}

// TestInodeEqualsDebugfs compares each field of inodes with unusual content.
func TestInodeEqualsDebugfs(t *testing.T) {
	for _, c := range []struct {
		name string
		args []string
	}{
		{"128 bytes", []string{"-t", "ext2", "-I", "128", "-b", "1024", "-O", "huge_file"}},
		{"256 bytes", []string{"-t", "ext4", "-I", "256", "-b", "1024"}},
		{"1024 bytes", []string{"-t", "ext4", "-I", "1024", "-b", "4096"}},
		{"no 64bit", []string{"-t", "ext4", "-I", "256", "-b", "1024", "-O", "^64bit,^metadata_csum"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			tree := e2test.Tree(t, map[string]string{"f": "hello", "g": "", "d/": "", "old": "", "huge": ""})
			path := e2test.Image(t, 16*mib, append(c.args, "-d", tree)...)
			large := !strings.HasPrefix(c.name, "128")
			requests := []string{
				"sif f uid 70000", "sif f gid 0x123456", "sif f generation 0xdeadbeef", "sif f links_count 65000",
				"sif f atime 0x80000000", "sif f mtime 0xfffffff0", "sif f ctime 0x7fffffff", "sif f version 0x1234", "sif f mode 0107777",
				"sif g uid 0xffffffff", "sif g size 0x123456789a",
				"mknod c c 5 1", "mknod b b 8 17", "mknod p p", "symlink l /some/where", "ea_set d user.comment " + strings.Repeat("v", 400),
				"sif huge blocks 0x9abc12345678", "sif huge flags 0x40000",
			}
			if large {
				requests = append(requests, "sif f projid 99", "sif f version_hi 7",
					"sif f atime_extra 0x12345675", // 2038, epoch 1
					"sif f mtime_extra 0xee6b27fc", // before 1970, 999999999 ns
					"sif f ctime_extra 3",          // the last epoch
					"sif g crtime 0xffffffff", "sif g crtime_extra 2",
					"sif old extra_isize 4", "sif old mtime 77")
			}
			e2test.Change(t, path, requests...)
			im := load(t, path)
			for _, name := range []string{"/", "/f", "/g", "/d", "/c", "/b", "/p", "/l", "/huge", "/lost+found"} {
				ino := im.ino(name)
				in, _ := im.inode(ino)
				out := e2test.Debugfs(t, path, "stat "+name)
				got, want := stat(&in, ino, large, true, im.g.BlockBits), parseStat(t, out)
				if !im.sums.Metadata {
					delete(got, "checksum")
				}
				for key := range got {
					if got[key] != want[key] {
						t.Errorf("%s: %s is %q, debugfs says %q", name, key, got[key], want[key])
					}
				}
				if len(got) != len(want) {
					t.Errorf("%s: debugfs shows %d fields, not %d:\n%s", name, len(want), len(got), out)
				}
			}
			if large {
				in, _ := im.inode(im.ino("/old"))
				if in.ExtraIsize != 4 || in.HasCrtime || in.Mtime.Nsec != 0 || in.ProjectID != 0 || !in.HasHiCsum {
					t.Errorf("an inode with 4 extra bytes shows more: %+v", in)
				}
			}
		})
	}
}

// TestRdevEqualsDebugfs stores device numbers in both encodings.
func TestRdevEqualsDebugfs(t *testing.T) {
	path := e2test.Image(t, 4*mib, "-t", "ext2", "-b", "1024")
	e2test.Change(t, path, "mknod dev b 1 1")
	printed := regexp.MustCompile(`Device major/minor number: (\d+):(\d+)`)
	for _, c := range [][2]uint32{{0x0801, 0}, {0xFFFF, 0}, {1, 0}, {0, 0x00000801}, {0, 0x12B34567}, {0, 0xFFFFFFFF}, {0, 0}, {0x0502, 0xFFFF}} {
		e2test.Change(t, path, fmt.Sprintf("sif dev block[0] %#x", c[0]), fmt.Sprintf("sif dev block[1] %#x", c[1]))
		im := load(t, path)
		in, _ := im.inode(im.ino("/dev"))
		major, minor := in.Rdev()
		m := printed.FindStringSubmatch(e2test.Debugfs(t, path, "stat /dev"))
		if m == nil {
			t.Fatal("debugfs prints no device number")
		}
		var wantMajor, wantMinor uint32
		if _, err := fmt.Sscanf(m[1]+" "+m[2], "%d %d", &wantMajor, &wantMinor); err != nil {
			t.Fatal(err)
		}
		if major != wantMajor || minor != wantMinor {
			t.Errorf("stored %#x: device %d:%d, debugfs says %d:%d", c, major, minor, wantMajor, wantMinor)
		}
	}
}

// TestDecodeTime has the values of the table in the kernel's
// Documentation/filesystems/ext4/inodes.rst.
func TestDecodeTime(t *testing.T) {
	for _, c := range []struct {
		secs, extra uint32
		want        disk.Timestamp
		date        string
	}{
		{0x80000000, 0, disk.Timestamp{Sec: -0x80000000}, "1901-12-13T20:45:52Z"},
		{0xffffffff, 0, disk.Timestamp{Sec: -1}, "1969-12-31T23:59:59Z"},
		{0, 0, disk.Timestamp{}, "1970-01-01T00:00:00Z"},
		{0x7fffffff, 0, disk.Timestamp{Sec: 0x7fffffff}, "2038-01-19T03:14:07Z"},
		{0x80000000, 1, disk.Timestamp{Sec: 0x80000000}, "2038-01-19T03:14:08Z"},
		{0xffffffff, 1, disk.Timestamp{Sec: 0xffffffff}, "2106-02-07T06:28:15Z"},
		{0, 1, disk.Timestamp{Sec: 0x100000000}, "2106-02-07T06:28:16Z"},
		{0x7fffffff, 1, disk.Timestamp{Sec: 0x17fffffff}, "2174-02-25T09:42:23Z"},
		{0x80000000, 2, disk.Timestamp{Sec: 0x180000000}, "2174-02-25T09:42:24Z"},
		{0x7fffffff, 2, disk.Timestamp{Sec: 0x27fffffff}, "2310-04-04T16:10:39Z"},
		{0x80000000, 3, disk.Timestamp{Sec: 0x280000000}, "2310-04-04T16:10:40Z"},
		{0x7fffffff, 3, disk.Timestamp{Sec: 0x37fffffff}, "2446-05-10T22:38:55Z"},
		{5, 999999999<<2 | 1, disk.Timestamp{Sec: 0x100000005, Nsec: 999999999}, "2106-02-07T06:28:21Z"},
	} {
		got := disk.DecodeTime(c.secs, c.extra)
		if date := time.Unix(got.Sec, 0).UTC().Format(time.RFC3339); got != c.want || date != c.date {
			t.Errorf("time %#x extra %#x is %+v (%s), not %+v (%s)", c.secs, c.extra, got, date, c.want, c.date)
		}
	}
}

func TestSectors(t *testing.T) {
	for _, c := range []struct {
		in       disk.Inode
		hugeFile bool
		want     uint64
	}{
		{disk.Inode{Blocks: 8}, false, 8},
		{disk.Inode{Blocks: 5<<32 | 8}, false, 8},
		{disk.Inode{Blocks: 5<<32 | 8}, true, 5<<32 | 8},
		{disk.Inode{Blocks: 5<<32 | 8, Flags: disk.FlagHugeFile}, true, (5<<32 | 8) * 8},
		{disk.Inode{Blocks: 8, Flags: disk.FlagHugeFile}, false, 8},
	} {
		if got := c.in.Sectors(c.hugeFile, 12); got != c.want {
			t.Errorf("%d blocks, flags %#x, huge_file %v: %d sectors, not %d", c.in.Blocks, c.in.Flags, c.hugeFile, got, c.want)
		}
	}
}

// TestInodeHurd leaves out what the Hurd uses for something else.
func TestInodeHurd(t *testing.T) {
	raw := make([]byte, 128)
	for i := 0x74; i < 0x7C; i++ {
		raw[i] = 0xFF
	}
	if in := disk.DecodeInode(raw, true); in.UID != 0 || in.GID != 0 || in.FileACL != 0 || in.Blocks != 0 {
		t.Errorf("fields of the Hurd are taken for Linux's: %+v", in)
	}
	if in := disk.DecodeInode(raw, false); in.UID != 0xFFFF0000 || in.GID != 0xFFFF0000 || in.FileACL != 0xFFFF<<32 || in.Blocks != 0xFFFF<<32 {
		t.Errorf("high halves are not used: %+v", in)
	}
}

// TestInodeExtraIsize checks, for every stored size of the extra fields, that
// exactly the fields inside it are used.
func TestInodeExtraIsize(t *testing.T) {
	le := binary.LittleEndian
	fields := []struct {
		end int
		get func(in *disk.Inode) bool
	}{
		{0x84, func(in *disk.Inode) bool { return in.Checksum>>16 != 0 }},
		{0x88, func(in *disk.Inode) bool { return in.Ctime.Nsec != 0 }},
		{0x8C, func(in *disk.Inode) bool { return in.Mtime.Nsec != 0 }},
		{0x90, func(in *disk.Inode) bool { return in.Atime.Nsec != 0 }},
		{0x94, func(in *disk.Inode) bool { return in.HasCrtime }},
		{0x94, func(in *disk.Inode) bool { return uint32(in.Crtime.Sec) != 0 }},
		{0x98, func(in *disk.Inode) bool { return in.Crtime.Nsec != 0 }},
		{0x9C, func(in *disk.Inode) bool { return in.Version>>32 != 0 }},
		{0xA0, func(in *disk.Inode) bool { return in.ProjectID != 0 }},
	}
	r := rand.New(rand.NewPCG(1, 2))
	for _, size := range []int{128, 256, 512} {
		raw := make([]byte, size)
		for i := range raw {
			raw[i] = byte(r.UintN(255) + 1)
		}
		for extra := range 0x10000 {
			if size > 128 {
				le.PutUint16(raw[0x80:], uint16(extra))
			}
			in := disk.DecodeInode(raw, false)
			for _, f := range fields {
				if want := size > 128 && 128+extra >= f.end; f.get(&in) != want {
					t.Fatalf("inode of %d bytes with %d extra: field that ends at %#x used: %v", size, extra, f.end, !want)
				}
			}
		}
	}
}
