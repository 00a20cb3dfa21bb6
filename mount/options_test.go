package mount

import (
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"
)

func TestParseOptions(t *testing.T) {
	safe := uintptr(unix.MS_NOSUID | unix.MS_NODEV)
	for _, tc := range []struct {
		list string
		want Options
	}{
		{"", Options{Flags: safe}},
		{"ro", Options{Flags: safe | unix.MS_RDONLY}},
		{"ro,rw", Options{Flags: safe}},
		{"rw,ro", Options{Flags: safe | unix.MS_RDONLY}},
		{"suid,dev", Options{}},
		{"suid,dev,nosuid,nodev", Options{Flags: safe}},
		{"noexec,noatime,nodiratime,sync,dirsync,lazytime", Options{Flags: safe | unix.MS_NOEXEC | unix.MS_NOATIME |
			unix.MS_NODIRATIME | unix.MS_SYNCHRONOUS | unix.MS_DIRSYNC | unix.MS_LAZYTIME}},
		{"noatime,strictatime", Options{Flags: safe | unix.MS_STRICTATIME}},
		{"strictatime,relatime", Options{Flags: safe | unix.MS_RELATIME}},
		{"allow_other,default_permissions", Options{Flags: safe, AllowOther: true}},
		{`fsname=a\,b c`, Options{Flags: safe, FSName: "a,b c"}},
		{`fsname="a,b=c",ro`, Options{Flags: safe | unix.MS_RDONLY, FSName: "a,b=c"}},
		{"max_read=131072", Options{Flags: safe, MaxRead: 131072}},
		{"iomap=on", Options{Flags: safe, Iomap: IomapOn}},
		{"opens=server", Options{Flags: safe, Opens: OpensServer}},
		{"opens=server,opens=kernel", Options{Flags: safe, Opens: OpensKernel}},
		{"iomap=on,iomap=auto", Options{Flags: safe, Iomap: IomapAuto}},
		{"iomap_minor=100", Options{Flags: safe, IomapMinor: 100}},
		{"iomap=off", Options{Flags: safe, Iomap: IomapOff}},
		{"commit=30,nobarrier", Options{Flags: safe, Ext4: Ext4Options{Commit: 30, NoBarrier: true}}},
		{"barrier=0,barrier", Options{Flags: safe}},
		{"norecovery", Options{Flags: safe, Ext4: Ext4Options{NoRecovery: true}}},
		{"noload,minixdf,noacl", Options{Flags: safe, Ext4: Ext4Options{NoRecovery: true, MinixDF: true, NoACL: true}}},
		{"minixdf,bsddf,noacl,acl", Options{Flags: safe}},
		{"sb=32768,offset=1M,sizelimit=0x1000", Options{Flags: safe, Ext4: Ext4Options{
			Superblock: 32768, Offset: 1 << 20, SizeLimit: 4096}}},
		{"journal_path=/dev/x", Options{Flags: safe, Ext4: Ext4Options{JournalPath: "/dev/x"}}},
		{"journal_dev=0x811", Options{Flags: safe, Ext4: Ext4Options{JournalPath: "/dev/block/8:17"}}},
		{"journal_dev=0x10310305", Options{Flags: safe, Ext4: Ext4Options{JournalPath: "/dev/block/259:66309"}}},
		{"errors=continue,errors=remount-ro", Options{Flags: safe, Ext4: Ext4Options{Errors: "remount-ro"}}},
		{"debug", Options{Flags: safe, Debug: true}},
		{"defaults,auto,noauto,nofail,_netdev,user,user=joe,users,owner,group,comment=hi there", Options{Flags: safe}},
		{"x-systemd.automount,x-systemd.requires=/a,X-mount.mkdir", Options{Flags: safe}},
		{"subtype=ext4box,nonempty", Options{Flags: safe}},
	} {
		got, err := ParseOptions([]string{tc.list}, false)
		if err != nil {
			t.Errorf("%q: %v", tc.list, err)
			continue
		}
		if got.Flags != tc.want.Flags || got.Ext4 != tc.want.Ext4 || got.FSName != tc.want.FSName ||
			got.AllowOther != tc.want.AllowOther || got.MaxRead != tc.want.MaxRead || got.Debug != tc.want.Debug {
			t.Errorf("%q: got %+v, want %+v", tc.list, got, tc.want)
		}
	}
}

func TestParseOptionsIgnored(t *testing.T) {
	o, err := ParseOptions([]string{"data_err=abort", "ro,nodelalloc,usrjquota="}, false)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"data_err=abort", "nodelalloc", "usrjquota="}
	if !slices.Equal(o.Ignored, want) {
		t.Errorf("ignored: %q, want %q", o.Ignored, want)
	}
}

func TestParseOptionsRefused(t *testing.T) {
	for list, want := range map[string]string{
		"ro,frobnicate":                `unknown mount option "frobnicate"`,
		"data=maybe":                   `"data" cannot be "maybe"`,
		"iomap=maybe":                  `"iomap" cannot be "maybe", only auto, on, off`,
		"iomap_minor=99":               `"99" is not a number above 99`,
		"iomap_minor=-1":               `"-1" is not a number`,
		"iomap":                        `"iomap" needs a value`,
		"errors=retry":                 `"errors" cannot be "retry"`,
		"dmask=5":                      `unknown mount option "dmask"`,
		"uid=nobody such":              `"nobody such" is neither a user`,
		"uid=4294967295":               `"4294967295" is neither a user`,
		"gid=-1":                       `"-1" is neither a group`,
		"umask=1777":                   `"1777" is not an octal number up to 777`,
		"umask=8":                      `"8" is not an octal number`,
		"idmap= ":                      "names no range",
		"idmap=0:0":                    `"0:0" is not [u:|g:|b:]ID-IN-IMAGE:ID-SHOWN:COUNT`,
		"idmap=x:0:0:1":                `"x:0:0:1" is not [u:`,
		"idmap=0:x:1":                  `"0:x:1" holds "x"`,
		"idmap=u:0:0:0":                `"u:0:0:0" is empty`,
		"idmap=0:4294967295:1":         "goes beyond the last id",
		"idmap=1:0:4294967295":         "goes beyond the last id",
		"idmap=u:0:10:5 b:7:14:1":      `"b:7:14:1" maps user ids that another`,
		"idmap=g:0:10:5,idmap=g:4:0:1": `"g:4:0:1" maps group ids that another`,
		"idmap=0:1:1,uid=1":            "leave out uid= and gid=",
		"fakeroot,umask=22":            "leave out uid=, gid=, umask= and idmap=",
		"fakeroot,idmap=0:0:1":         "leave out uid=",
		"fakeroot,allow_other":         "leave out allow_other",
		"allow_idmap,fakeroot":         "leave out allow_idmap",
		"ro=1":                         `"ro" takes no value`,
		"fsname":                       `"fsname" needs a value`,
		"fsname=":                      `"fsname" needs a value`,
		"errors=explode":               `"errors" cannot be "explode", only continue, remount-ro, panic`,
		"commit=x":                     `"x" is not a number`,
		"commit=-1":                    `"-1" is not a number`,
		"barrier=2":                    `"2" is neither 0 nor 1`,
		"max_read=12":                  `"12" is not a number of bytes from 4096 up`,
		"offset=1KB":                   `"1KB" is not a number of bytes`,
		"offset=9999999P":              `"9999999P" is not a number of bytes`,
		"offset=-1":                    `"-1" is not a number of bytes`,
		"sb=z":                         `"z" is not a number`,
		"journal_dev=sda":              `"sda" is not a device number`,
		"remount":                      "cannot be changed",
		"allow_root":                   "use allow_other",
		"dax=always":                   "mapped directly",
		"subtype=other":                `only ext4box`,
		`fsname="a`:                    "ends inside double quotes",
		"fsname=a\x00b":                "zero byte",
	} {
		_, err := ParseOptions([]string{list}, false)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %q", list, err, want)
			continue
		}
		if ExitStatus(err) != StatusUsage {
			t.Errorf("%q: status %d", list, ExitStatus(err))
		}
		if strings.ContainsAny(err.Error(), "\n") {
			t.Errorf("%q: more than one line: %q", list, err)
		}
	}
	if _, err := ParseOptions([]string{"frobnicate"}, true); err != nil {
		t.Errorf("sloppy: %v", err)
	}
	if _, err := ParseOptions([]string{"errors=explode"}, true); err == nil {
		t.Error("sloppy must not tolerate wrong values")
	}
}

// Every option is well formed: what is refused says why, what sets a flag does
// not clear it.
func TestOptionTable(t *testing.T) {
	for name, o := range options {
		if strings.ContainsAny(name, "=, ") {
			t.Errorf("%q is not a name", name)
		}
		if o.refuse != "" && (o.apply != nil || o.set != 0) {
			t.Errorf("%q is refused and has an effect", name)
		}
		if o.ignored && (o.apply != nil || o.set|o.clear != 0) {
			t.Errorf("%q is ignored and has an effect", name)
		}
	}
}

// joinOptions is the inverse of [SplitOptions], in libfuse's way of writing.
func joinOptions(items []string) string {
	var b strings.Builder
	for i, s := range items {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(optionEscaper.Replace(s))
	}
	return b.String()
}

var optionEscaper = strings.NewReplacer(`\`, `\\`, `,`, `\,`, `"`, `\"`)

func TestSplitJoin(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		items := rapid.SliceOf(rapid.StringMatching("[^\x00]+")).Draw(t, "items")
		got, err := SplitOptions(joinOptions(items))
		if err != nil {
			t.Fatal(err)
		}
		if len(got)+len(items) > 0 && !slices.Equal(got, items) {
			t.Fatalf("got %q, want %q", got, items)
		}
	})
}

func FuzzParseOptions(f *testing.F) {
	f.Add("ro,nosuid,fsname=a\\,b,offset=1M")
	f.Add(`fsname="a,b",errors=panic,x-foo`)
	f.Fuzz(func(t *testing.T, list string) {
		items, err := SplitOptions(list)
		if err == nil {
			again, err := SplitOptions(joinOptions(items))
			if err != nil || !slices.Equal(items, again) {
				t.Fatalf("%q splits into %q, and that into %q, %v", list, items, again, err)
			}
		}
		for _, sloppy := range []bool{false, true} {
			o, err := ParseOptions([]string{list}, sloppy)
			if err != nil && ExitStatus(err) != StatusUsage {
				t.Fatalf("status %d", ExitStatus(err))
			}
			if err == nil && (o.Ext4.Offset < 0 || o.Ext4.SizeLimit < 0 || o.Ext4.Superblock < 0) {
				t.Fatalf("%q: negative: %+v", list, o.Ext4)
			}
		}
	})
}

func TestParseSize(t *testing.T) {
	for s, want := range map[string]int64{
		"0": 0, "1": 1, "4k": 4096, "4K": 4096, "4KiB": 4096, "3M": 3 << 20, "2g": 2 << 30, "1T": 1 << 40,
		"1P": 1 << 50, "0x10": 16, "0x10K": 16 << 10, "9223372036854775807": 1<<63 - 1,
		"": -1, "K": -1, "KiB": -1, "1KB": -1, "1 K": -1, "x": -1, "-1": -1, "+1": -1, "1.5M": -1,
		"9223372036854775808": -1, "8192P": -1, "8191P": 8191 << 50, "iB": -1, "0x": -1,
	} {
		got, err := ParseSize(s)
		if (err != nil) != (want < 0) || err == nil && got != want {
			t.Errorf("%q: got %d, %v, want %d", s, got, err, want)
		}
	}
}

func TestMemLimit(t *testing.T) {
	for s, want := range map[string]uint64{"64M": 64 << 20, "1g": 1 << 30, "63M": 0, "0": 0, "x": 0, "-1": 0} {
		o, err := ParseOptions([]string{"memlimit=" + s}, false)
		if (err == nil) != (want > 0) || o.MemLimit != want {
			t.Errorf("memlimit=%s is %d: %v", s, o.MemLimit, err)
		}
	}
}

func TestMountinfo(t *testing.T) {
	const text = `22 28 0:20 / /proc rw,relatime - proc proc rw
36 35 98:0 /mnt1 /mnt\0402 rw,noatime master:1 - ext3 /dev/root\134x rw,errors=continue
64 28 0:45 / /m ro,nosuid,nodev shared:3 propagate_from:2 - fuse.ext4box /a\040b.img ro,user_id=1000,group_id=5,allow_other
short line
a b c d e f - g h i
`
	got, err := parseMountinfo(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	want := []Info{
		{22, Dev{0, 20}, "/", "/proc", "proc", "proc", "rw"},
		{36, Dev{98, 0}, "/mnt1", "/mnt 2", "ext3", `/dev/root\x`, "rw,errors=continue"},
		{64, Dev{0, 45}, "/", "/m", "fuse.ext4box", "/a b.img", "ro,user_id=1000,group_id=5,allow_other"},
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %+v\nwant %+v", got, want)
	}
	if uid, ok := got[2].UserID(); uid != 1000 || !ok {
		t.Errorf("user: %d, %v", uid, ok)
	}
	if _, ok := got[0].UserID(); ok {
		t.Error("proc has no user")
	}
}

func FuzzMountinfo(f *testing.F) {
	f.Add(`36 35 98:0 /mnt1 /mnt\0402 rw,noatime master:1 - ext3 /dev/root\134x rw,errors=continue`)
	f.Fuzz(func(t *testing.T, line string) { parseMountinfoLine(line) })
}

// The manual page names every option, so that nobody has to read the table, and no others.
func TestOptionsDocumented(t *testing.T) {
	page, err := os.ReadFile("../docs/ext4box.1")
	if err != nil {
		t.Fatal(err)
	}
	_, text, ok := strings.Cut(string(page), ".SH MOUNT OPTIONS")
	text, _, _ = strings.Cut(text, ".SH EXIT STATUS")
	if !ok {
		t.Fatal("the page has no section MOUNT OPTIONS")
	}
	words := make(map[string]bool)
	for _, w := range strings.FieldsFunc(text, func(r rune) bool {
		return r != '_' && !('a' <= r && r <= 'z') && !('A' <= r && r <= 'Z') && !('0' <= r && r <= '9')
	}) {
		words[w] = true
	}
	for name := range options {
		if !words[name] {
			t.Errorf("docs/ext4box.1 does not name %q", name)
		}
	}
	tag := false
	for line := range strings.Lines(text) {
		list, isBold := strings.CutPrefix(line, ".B")
		if isBold && (tag || strings.Contains(list, `", "`)) {
			_, list, _ = strings.Cut(list, " ")
			list = strings.NewReplacer(`", "`, ",", `"`, "", `\fR`, "", `\-`, "-", `\ `, "").Replace(list)
			for item := range strings.SplitSeq(list, ",") {
				name, _, _ := strings.Cut(strings.TrimSpace(item), " ")
				name, _, _ = strings.Cut(name, "=")
				if _, ok := options[name]; !ok && name != "" && name != "x-*" && name != "X-*" {
					t.Errorf("docs/ext4box.1 has the option %q, which is unknown: %s", name, line)
				}
			}
		}
		tag = strings.HasPrefix(line, ".TP")
	}
}
