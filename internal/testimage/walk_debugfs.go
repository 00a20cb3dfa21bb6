package testimage

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// IgnoreDebugfs names what debugfs does not tell: entry types, and what the
// kernel derives.
var IgnoreDebugfs = Ignore{"DirentType"}

// WalkDebugfs makes the manifest of an image as debugfs sees it. Scratch is a
// directory for extracted content. Names must not contain '/' or newlines.
func WalkDebugfs(image, scratch string) (Manifest, error) {
	return walkDebugfs(image, scratch, func(*Record, inodeDetails) {})
}

// walkDebugfs shows each inode to visit once.
func walkDebugfs(image, scratch string, visit func(*Record, inodeDetails)) (Manifest, error) {
	d := &debugfs{image: image, scratch: scratch, inodes: map[uint64]*Record{}, visit: visit}
	var err error
	if d.block, err = blockSize(image); err != nil {
		return nil, err
	}
	m := Manifest{}
	rootStat, err := d.stat([]uint64{2})
	if err != nil {
		return nil, err
	}
	m[""] = *rootStat[2]
	type node struct {
		path string
		ino  uint64
	}
	level := []node{{"", 2}}
	for len(level) > 0 {
		var dirs []uint64
		for _, n := range level {
			dirs = append(dirs, n.ino)
		}
		lists, err := d.list(dirs)
		if err != nil {
			return nil, err
		}
		var files []uint64
		for _, list := range lists {
			for _, e := range list {
				files = append(files, e.ino)
			}
		}
		recs, err := d.stat(files)
		if err != nil {
			return nil, err
		}
		var next []node
		for i, list := range lists {
			for _, e := range list {
				path := strings.TrimPrefix(level[i].path+"/"+e.name, "/")
				rec := *recs[e.ino]
				rec.DirentIno = e.ino
				m[path] = rec
				if rec.Mode&unix.S_IFMT == unix.S_IFDIR {
					next = append(next, node{path, e.ino})
				}
			}
		}
		level = next
	}
	return m, nil
}

type debugfs struct {
	image, scratch string
	block          int64
	inodes         map[uint64]*Record
	visit          func(*Record, inodeDetails)
}

// run executes requests in one debugfs and returns the output of each.
func (d *debugfs) run(requests []string) ([][]byte, error) {
	if len(requests) == 0 {
		return nil, nil
	}
	p, err := tool("debugfs")
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(p, "-f", "-", d.image)
	cmd.Env = append(os.Environ(), "DEBUGFS_PAGER=__none__", "LC_ALL=C.UTF-8")
	cmd.Stdin = strings.NewReader(strings.Join(requests, "\n") + "\n")
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("debugfs %s: %w", d.image, err)
	}
	// With -f every request is echoed as a line "debugfs: REQUEST".
	var parts [][]byte
	for _, r := range requests {
		echo := []byte("debugfs: " + r + "\n")
		i := bytes.Index(out, echo)
		if i < 0 {
			return nil, fmt.Errorf("debugfs %s: request %q is not echoed", d.image, r)
		}
		if len(parts) > 0 {
			parts[len(parts)-1] = out[:i]
		}
		out = out[i+len(echo):]
		parts = append(parts, out)
	}
	return parts, nil
}

func (d *debugfs) list(dirs []uint64) ([][]dirent, error) {
	var requests []string
	for _, ino := range dirs {
		requests = append(requests, fmt.Sprintf("ls -p <%d>", ino))
	}
	outs, err := d.run(requests)
	if err != nil {
		return nil, err
	}
	lists := make([][]dirent, len(dirs))
	for i, out := range outs {
		for line := range bytes.SplitSeq(out, []byte("\n")) {
			// /inode/mode/uid/gid/name/size/
			f := strings.Split(string(line), "/")
			if len(f) < 7 || f[5] == "." || f[5] == ".." {
				continue
			}
			ino, err := strconv.ParseUint(f[1], 10, 64)
			if err != nil {
				return nil, fmt.Errorf("debugfs: %q: %w", line, err)
			}
			if ino != 0 {
				lists[i] = append(lists[i], dirent{name: f[5], ino: ino})
			}
		}
	}
	return lists, nil
}

// stat reads inodes with their attributes and content, each once.
func (d *debugfs) stat(inos []uint64) (map[uint64]*Record, error) {
	var fresh []uint64
	var requests []string
	for _, ino := range inos {
		if _, ok := d.inodes[ino]; !ok {
			d.inodes[ino] = &Record{Ino: ino}
			fresh = append(fresh, ino)
			requests = append(requests, fmt.Sprintf("stat <%d>", ino))
		}
	}
	outs, err := d.run(requests)
	if err != nil {
		return nil, err
	}
	details := make([]inodeDetails, len(fresh))
	for i, out := range outs {
		details[i], err = parseStat(out, d.inodes[fresh[i]], d.block)
		if err != nil {
			return nil, fmt.Errorf("debugfs: stat <%d>: %w\n%s", fresh[i], err, out)
		}
	}
	return d.inodes, d.extract(fresh, details)
}

// extract reads attribute values, link targets and file content.
func (d *debugfs) extract(inos []uint64, details []inodeDetails) error {
	var requests []string
	file := func(kind string, i, k int) string {
		return filepath.Join(d.scratch, fmt.Sprintf("%s-%d-%d", kind, inos[i], k))
	}
	for i, ino := range inos {
		for k, name := range details[i].xattrs {
			requests = append(requests, fmt.Sprintf("ea_get -f %s <%d> %q", file("ea", i, k), ino, name))
		}
		if details[i].inline {
			requests = append(requests, fmt.Sprintf("dump <%d> %s", ino, file("dump", i, 0)))
		}
	}
	if _, err := d.run(requests); err != nil {
		return err
	}
	for i, ino := range inos {
		rec := d.inodes[ino]
		d.visit(rec, details[i])
		for k, name := range details[i].xattrs {
			value, err := os.ReadFile(file("ea", i, k))
			if err != nil {
				return err
			}
			if rec.Xattrs == nil {
				rec.Xattrs = map[string]string{}
			}
			if strings.HasPrefix(name, "system.posix_acl_") {
				clearUnusedIDs(value)
			}
			rec.Xattrs[name] = EncodeValue(value)
			_ = os.Remove(file("ea", i, k))
		}
		if err := d.content(rec, details[i], file("dump", i, 0)); err != nil {
			return err
		}
	}
	return nil
}

// clearUnusedIDs gives the entries of an ACL that name nobody the id that the
// kernel gives them; debugfs leaves zero there.
func clearUnusedIDs(acl []byte) {
	for b := acl[min(4, len(acl)):]; len(b) >= 8; b = b[8:] {
		const user, group = 2, 8
		if tag := binary.LittleEndian.Uint16(b); tag != user && tag != group {
			binary.LittleEndian.PutUint32(b[4:], 0xffffffff)
		}
	}
}

// content reads a file or the target of a link: from the blocks that stat
// named, for debugfs' dump reads every block of a hole, or, where the inode
// holds it, from what debugfs dumped.
func (d *debugfs) content(r *Record, det inodeDetails, dump string) error {
	typ := r.Mode & unix.S_IFMT
	if typ != unix.S_IFREG && (typ != unix.S_IFLNK || r.Link != "") {
		return nil
	}
	path := d.image
	if det.inline {
		path = dump
		defer os.Remove(dump)
		det.data = []extent{{Range{0, r.Size}, 0}}
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	content := &extentReader{f, det.data, r.Size}
	if typ == unix.S_IFLNK {
		target := make([]byte, r.Size)
		_, err := content.ReadAt(target, 0)
		r.Link = string(target)
		return err
	}
	var ranges []Range
	for _, e := range det.data {
		ranges = append(ranges, e.Range)
	}
	r.Map = EncodeMap(ranges, r.Size)
	r.Sum, err = ContentSum(content, r.Size, ranges)
	return err
}

// An extent is a data range and its place in the image.
type extent struct {
	Range
	place int64
}

// extentReader reads a file whose extents are known, zeros between them.
type extentReader struct {
	image   io.ReaderAt
	extents []extent
	size    int64
}

func (r *extentReader) ReadAt(p []byte, off int64) (int, error) {
	clear(p)
	end := min(off+int64(len(p)), r.size)
	for _, e := range r.extents {
		from, to := max(off, e.Off), min(end, e.End)
		if from >= to {
			continue
		}
		n, err := r.image.ReadAt(p[from-off:to-off], e.place+from-e.Off)
		if int64(n) < to-from {
			return 0, err
		}
	}
	if n := int(end - off); n < len(p) {
		return n, io.EOF
	}
	return len(p), nil
}

// inodeDetails is what stat says beside the fields of Record.
type inodeDetails struct {
	xattrs []string
	data   []extent
	inline bool
}

var debugfsTypes = map[string]uint32{
	"regular": unix.S_IFREG, "directory": unix.S_IFDIR, "symlink": unix.S_IFLNK, "FIFO": unix.S_IFIFO,
	"character special": unix.S_IFCHR, "block special": unix.S_IFBLK, "socket": unix.S_IFSOCK,
}

// parseStat reads the output of debugfs' stat.
func parseStat(out []byte, r *Record, block int64) (inodeDetails, error) {
	var det inodeDetails
	s := bufio.NewScanner(bytes.NewReader(out))
	s.Buffer(nil, 64<<20)
	var section string
	for s.Scan() {
		line := s.Text()
		if section == "xattrs" && strings.HasPrefix(line, "  ") {
			name, _, ok := strings.Cut(line[2:], " (")
			if ok && name != "system.data" { // that is inline content
				det.xattrs = append(det.xattrs, plainName(name))
			}
			continue
		}
		if section == "blocks" {
			if err := parseBlocks(line, block, &det); err != nil {
				return det, err
			}
			continue
		}
		section = ""
		switch {
		case strings.HasPrefix(line, "Fragment:"):
			// has another Size
		case line == "Extended attributes:":
			section = "xattrs"
		case line == "EXTENTS:" || line == "BLOCKS:":
			section = "blocks"
		case strings.HasPrefix(line, "Size of inline data: "):
			det.inline = true
			if r.Mode&unix.S_IFMT == unix.S_IFREG {
				r.Blocks += uint64(r.Size+511) / 512 // as the kernel reports it
			}
		case strings.HasPrefix(line, `Fast link dest: "`):
			r.Link = strings.TrimSuffix(strings.TrimPrefix(line, `Fast link dest: "`), `"`)
		case strings.Contains(line, "Device major/minor number: "):
			_, rest, _ := strings.Cut(line, "number: ")
			if _, err := fmt.Sscanf(rest, "%d:%d", &r.Major, &r.Minor); err != nil {
				return det, err
			}
		default:
			if err := parseFields(line, r); err != nil {
				return det, fmt.Errorf("%q: %w", line, err)
			}
		}
	}
	return det, s.Err()
}

// plainName undoes debugfs' writing names that are not ASCII as hexadecimal
// bytes.
func plainName(name string) string {
	words := strings.Fields(name)
	raw, err := hex.DecodeString(strings.Join(words, ""))
	if err != nil || len(raw) != len(words) {
		return name
	}
	return string(raw)
}

// parseFields reads a line of one or more "Key: value" pairs.
func parseFields(line string, r *Record) error {
	if key, rest, ok := strings.Cut(strings.TrimSpace(line), ": 0x"); ok {
		t, isTime := map[string]*Time{"ctime": &r.Ctime, "atime": &r.Atime, "mtime": &r.Mtime, "crtime": &r.Btime}[key]
		if isTime {
			return parseTime(rest, t)
		}
	}
	for _, key := range []string{"Type", "Mode", "Flags", "Generation", "User", "Group", "Project", "Size", "Links", "Blockcount"} {
		_, rest, ok := strings.Cut(line, key+":")
		if !ok {
			continue
		}
		rest = strings.TrimLeft(rest, " ")
		if key == "Type" {
			name, _, _ := strings.Cut(rest, "    ")
			typ, ok := debugfsTypes[strings.TrimSpace(name)]
			if !ok {
				return fmt.Errorf("unknown type %q", name)
			}
			r.Mode |= typ
			continue
		}
		word, _, _ := strings.Cut(rest, " ")
		base := 10
		switch key {
		case "Mode":
			base = 8
		case "Flags":
			base = 0
		}
		v, err := strconv.ParseUint(word, base, 64)
		if err != nil { // ids are printed as if they had a sign
			signed, serr := strconv.ParseInt(word, 10, 32)
			if serr != nil {
				return err
			}
			v = uint64(uint32(signed))
		}
		switch key {
		case "Mode":
			r.Mode |= uint32(v)
		case "Flags":
			r.Flags = uint32(v)
		case "Generation":
			r.Generation = uint32(v)
		case "User":
			r.UID = uint32(v)
		case "Group":
			r.GID = uint32(v)
		case "Project":
			r.Project = uint32(v)
		case "Size":
			r.Size = int64(v)
		case "Links":
			r.Nlink = uint32(v)
		case "Blockcount":
			r.Blocks = v
		}
	}
	return nil
}

// parseTime reads "SECONDS:EXTRA -- ..." or, of old inodes, "SECONDS -- ...",
// in hexadecimal. The extra word holds two bits of epoch under 30 bits of
// nanoseconds.
func parseTime(s string, t *Time) error {
	var sec, extra uint32
	word, _, _ := strings.Cut(s, " ")
	if _, err := fmt.Sscanf(word, "%x:%x", &sec, &extra); err != nil {
		if _, err := fmt.Sscanf(word, "%x", &sec); err != nil {
			return err
		}
	}
	*t = Time{true, int64(int32(sec)) + int64(extra&3)<<32, extra >> 2}
	return nil
}

// parseBlocks reads a line of "(LOGICAL[-LOGICAL]):PHYSICAL[-PHYSICAL], ...";
// in extent form a logical block with "[u]" is unwritten, and what is not a
// number is the map's own.
func parseBlocks(line string, block int64, det *inodeDetails) error {
	for item := range strings.SplitSeq(line, ", ") {
		logical, physical, ok := strings.Cut(strings.TrimPrefix(item, "("), "):")
		if !ok || strings.Contains(logical, "[u]") || strings.ContainsAny(logical, "ETBIND") {
			continue
		}
		var n [3]int64
		first, last, isRange := strings.Cut(logical, "-")
		if !isRange {
			last = first
		}
		physical, _, _ = strings.Cut(physical, "-")
		for i, word := range []string{first, last, physical} {
			var err error
			if n[i], err = strconv.ParseInt(word, 10, 64); err != nil {
				return err
			}
		}
		det.data = append(det.data, extent{Range{n[0] * block, (n[1] + 1) * block}, n[2] * block})
	}
	return nil
}

// blockSize reads s_log_block_size, at 0x18 of the superblock.
func blockSize(image string) (int64, error) {
	f, err := os.Open(image)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	var b [1]byte
	if _, err := f.ReadAt(b[:], 1024+0x18); err != nil {
		return 0, err
	}
	if b[0] > 6 {
		return 0, fmt.Errorf("%s: block size 1024<<%d", image, b[0])
	}
	return 1024 << b[0], nil
}

// ContentBlocks are the blocks of an image that hold nothing but the content of
// regular files, counted in units of 1 KiB.
func ContentBlocks(image, scratch string) (map[int64]bool, error) {
	blocks := map[int64]bool{}
	_, err := walkDebugfs(image, scratch, func(r *Record, det inodeDetails) {
		if r.Mode&unix.S_IFMT != unix.S_IFREG {
			return
		}
		for _, e := range det.data {
			for b := range (e.End - e.Off) / 1024 {
				blocks[e.place/1024+b] = true
			}
		}
	})
	return blocks, err
}
