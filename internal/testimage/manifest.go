package testimage

import (
	"cmp"
	"encoding/hex"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"
)

// A Time is a timestamp as the format has it, without the range limits of
// time.Duration arithmetic. Known is false where there is none.
type Time struct {
	Known bool
	Sec   int64
	Nsec  uint32
}

// TimeOf converts a time.Time; the zero Time means that it is not recorded.
func TimeOf(t time.Time) Time {
	if t.IsZero() {
		return Time{}
	}
	return Time{true, t.Unix(), uint32(t.Nanosecond())}
}

// A Record is what a reader can see of one path.
type Record struct {
	Mode         uint32 // st_mode, with the type
	UID, GID     uint32
	Nlink        uint32
	Ino          uint64
	Size         int64
	Blocks       uint64 // of 512 bytes
	Major, Minor uint32 // of devices
	Atime, Mtime Time
	Ctime, Btime Time
	DirentType   uint8 // DT_*, 0 when the directory does not say
	DirentIno    uint64
	Generation   uint32
	Flags        uint32            // chattr flags of files and directories
	Project      uint32            // project id of files and directories
	Xattrs       map[string]string // name to hexadecimal value
	Link         string
	Sum          string // SHA-256 of the content, see contentSum
	Map          string // data ranges by SEEK_DATA and SEEK_HOLE
}

// CopyContent copies what a walker reads once for all links of an inode, all
// but what the directory entry and the stat call say.
func (r *Record) CopyContent(from Record) {
	r.Generation, r.Flags, r.Project = from.Generation, from.Flags, from.Project
	r.Xattrs, r.Link, r.Sum, r.Map = from.Xattrs, from.Link, from.Sum, from.Map
}

// Manifest is a tree: the path from the root, "" for the root itself, to what
// is there.
type Manifest map[string]Record

// Ignore names fields of Record that Diff does not compare, for readers that
// have no way to see them.
type Ignore []string

// maxDifferences is how many differences Diff spells out.
const maxDifferences = 20

// Diff compares got with the truth and returns a readable list of the first
// differences, one per line, or "" when there is none. A reader may know an
// entry type that the truth leaves open, not the other way round.
func (want Manifest) Diff(got Manifest, ignore Ignore) string {
	var lines []string
	for _, path := range slices.Sorted(maps.Keys(want)) {
		g, ok := got[path]
		if !ok {
			lines = append(lines, fmt.Sprintf("%s: missing", show(path)))
			continue
		}
		for _, d := range diffRecord(want[path], g, ignore) {
			lines = append(lines, show(path)+": "+d)
		}
	}
	for _, path := range slices.Sorted(maps.Keys(got)) {
		if _, ok := want[path]; !ok {
			lines = append(lines, fmt.Sprintf("%s: should not be there", show(path)))
		}
	}
	if n := len(lines); n > maxDifferences {
		lines = append(lines[:maxDifferences], fmt.Sprintf("... %d more differences", n-maxDifferences))
	}
	return strings.Join(lines, "\n")
}

// show makes long and unprintable paths readable.
func show(path string) string {
	if len(path) > 100 {
		path = path[:60] + "..." + path[len(path)-37:]
	}
	return fmt.Sprintf("%q", "/"+path)
}

func diffRecord(want, got Record, ignore Ignore) []string {
	var lines []string
	w, g := reflect.ValueOf(want), reflect.ValueOf(got)
	for i := range w.NumField() {
		name := w.Type().Field(i).Name
		if slices.Contains(ignore, name) || reflect.DeepEqual(w.Field(i).Interface(), g.Field(i).Interface()) {
			continue
		}
		switch name {
		case "Xattrs":
			lines = append(lines, diffXattrs(want.Xattrs, got.Xattrs)...)
		case "DirentType":
			if want.DirentType != 0 {
				lines = append(lines, fmt.Sprintf("DirentType is %d, want %d", got.DirentType, want.DirentType))
			}
		case "Mode", "Flags":
			lines = append(lines, fmt.Sprintf("%s is %#o (%#[2]x), want %#o (%#[3]x)", name, g.Field(i).Uint(), w.Field(i).Uint()))
		default:
			lines = append(lines, fmt.Sprintf("%s is %s, want %s", name, brief(g.Field(i)), brief(w.Field(i))))
		}
	}
	return lines
}

// brief shows a value, and of a long map only where it is.
func brief(v reflect.Value) string {
	s := fmt.Sprintf("%+v", v.Interface())
	if len(s) > 160 {
		s = s[:160] + "..."
	}
	return s
}

func diffXattrs(want, got map[string]string) []string {
	var lines []string
	for _, name := range slices.Sorted(maps.Keys(want)) {
		if g, ok := got[name]; !ok {
			lines = append(lines, fmt.Sprintf("attribute %q is missing", name))
		} else if g != want[name] {
			lines = append(lines, fmt.Sprintf("attribute %q is %.80s (%d bytes), want %.80s (%d bytes)",
				name, g, len(g)/2, want[name], len(want[name])/2))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(got)) {
		if _, ok := want[name]; !ok {
			lines = append(lines, fmt.Sprintf("attribute %q should not be there", name))
		}
	}
	return lines
}

// EncodeValue is the form in which a Record keeps an attribute's value.
func EncodeValue(v []byte) string { return hex.EncodeToString(v) }

// A Range is a piece of a file.
type Range struct{ Off, End int64 }

// EncodeMap is the form in which a Record keeps the data ranges of a file:
// touching ranges become one, and nothing lies behind the end.
func EncodeMap(data []Range, size int64) string {
	var b strings.Builder
	for _, r := range joinRanges(data, size) {
		fmt.Fprintf(&b, "%d-%d ", r.Off, r.End)
	}
	return strings.TrimSuffix(b.String(), " ")
}

func joinRanges(data []Range, size int64) []Range {
	data = slices.Clone(data)
	slices.SortFunc(data, func(a, b Range) int { return cmp.Compare(a.Off, b.Off) })
	var out []Range
	for _, r := range data {
		r.End = min(r.End, size)
		switch n := len(out); {
		case r.Off >= r.End:
		case n > 0 && out[n-1].End >= r.Off:
			out[n-1].End = max(out[n-1].End, r.End)
		default:
			out = append(out, r)
		}
	}
	return out
}
