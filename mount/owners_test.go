package mount

import (
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// The options about owners are understood, and arrive at the server as they are.
func TestOwnerOptions(t *testing.T) {
	for list, want := range map[string]Owners{
		"ro":                        {},
		"uid=1000,gid=100,umask=22": {UID: new(uint32(1000)), GID: new(uint32(100)), Umask: new(uint32(0o22))},
		"uid=5,uid=root,umask=0":    {UID: new(uint32(0)), Umask: new(uint32(0))},
		"gid=root":                  {GID: new(uint32(0))},
		"fakeroot":                  {Fakeroot: true},
		"idmap=u:0:1000:1 g:0:100:2\tb:1000:5000:10": {
			Users:  []IDRange{{0, 1000, 1}, {1000, 5000, 10}},
			Groups: []IDRange{{0, 100, 2}, {1000, 5000, 10}},
		},
		"idmap=0:10:5,idmap=u:5:15:5,umask=77": {
			Users: []IDRange{{0, 10, 5}, {5, 15, 5}}, Groups: []IDRange{{0, 10, 5}}, Umask: new(uint32(0o77)),
		},
		"idmap=u:0:0:4294967295": {Users: []IDRange{{0, 0, math.MaxUint32}}},
	} {
		o, err := ParseOptions([]string{list}, false)
		if err != nil {
			t.Errorf("%q: %v", list, err)
			continue
		}
		text, err := json.Marshal(o)
		var got Options
		if err == nil {
			err = json.Unmarshal(text, &got)
		}
		if err != nil || !reflect.DeepEqual(got.Owners, want) {
			t.Errorf("%q: %v: %s", list, err, text)
		}
	}
	many := strings.Builder{}
	for i := range maxIDRanges + 1 {
		many.WriteString(" u:" + strings.Repeat("0", i%3) + strings.TrimSpace(jsonOf(i)) + ":" + jsonOf(i) + ":1")
	}
	if _, err := ParseOptions([]string{"idmap=" + many.String()}, false); err == nil || !strings.Contains(err.Error(), "more than 340") {
		t.Errorf("too many ranges: %v", err)
	}
}

func jsonOf(v any) string {
	text, _ := json.Marshal(v)
	return string(text)
}

// Flags that lend privilege go where files do not belong to whom the image says, and that
// is said if they were asked for.
func TestPermit(t *testing.T) {
	const forbidden = unix.MS_NOSUID | unix.MS_NODEV
	for list, want := range map[string]string{
		"uid=0,suid":         `"suid" has no effect`,
		"gid=0,dev,ro":       `"dev" has no effect`,
		"umask=22":           "",
		"umask=22,suid,dev":  `"dev" has no effect`,
		"fakeroot,suid":      "but fakeroot",
		"fakeroot,nosuid":    "",
		"suid,fakeroot,exec": `"suid" has no effect`,
	} {
		o, err := ParseOptions([]string{list}, false)
		if err != nil {
			t.Fatal(err)
		}
		var said []string
		if err := o.Permit(&Target{}, func(err error) { said = append(said, err.Error()) }); err != nil {
			t.Errorf("%q: %v", list, err)
		}
		if text := strings.Join(said, "\n"); o.Flags&forbidden != forbidden || !strings.Contains(text, want) || want == "" && text != "" {
			t.Errorf("%q: flags %#x, said %q", list, o.Flags, said)
		}
	}
	o, err := ParseOptions([]string{"suid,dev,idmap=0:0:1"}, false)
	if err != nil {
		t.Fatal(err)
	}
	err = o.Permit(&Target{}, func(error) {})
	if asked := o.Flags&forbidden == 0; err != nil || asked != (mayMount() && machineUsers()) {
		t.Errorf("of a mapped mount: %v, %#x", err, o.Flags)
	}
}

// fuse.conf is read as fusermount3 reads it.
func TestFuseConf(t *testing.T) {
	path := filepath.Join(t.TempDir(), "fuse.conf")
	for text, allows := range map[string]bool{
		"user_allow_other\n":                    true,
		"mount_max = 5\n\t user_allow_other #x": true,
		"#user_allow_other\n":                   false,
		"user_allow_other = 1\n":                false,
		"user_allow_others\n":                   false,
		"":                                      false,
	} {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		err := checkFuseConf(path)
		if allows != (err == nil) || err != nil && (ExitStatus(err) != StatusUsage || !strings.Contains(err.Error(), "user_allow_other")) {
			t.Errorf("%q: %v", text, err)
		}
	}
	if checkFuseConf(path+"-none") == nil {
		t.Error("without the file it is allowed")
	}
}
