package archive_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ext4box/cmd/ext4box/internal/archive"
	"ext4box/ext4"
)

// source is a made-up image: a root directory of entries that are all files.
type source struct {
	names []string
	stats []ext4.Stat
	data  map[ext4.Ino]string
	xattr map[ext4.Ino]map[string]string
}

func (s *source) add(name string, st ext4.Stat) {
	s.names, s.stats = append(s.names, name), append(s.stats, st)
}

func (s *source) Stat(ino ext4.Ino) (ext4.Stat, error) {
	if ino == ext4.RootIno {
		return ext4.Stat{Ino: ino, Mode: unix.S_IFDIR | 0o755, Nlink: 2}, nil
	}
	for _, st := range s.stats {
		if st.Ino == ino {
			return st, nil
		}
	}
	return ext4.Stat{}, syscall.ESTALE
}

func (s *source) ReadDir(_ ext4.Ino, pos int64, fn func(ext4.Dirent) bool) error {
	for i := pos; i < int64(len(s.names)); i++ {
		if !fn(ext4.Dirent{Ino: s.stats[i].Ino, Name: []byte(s.names[i]), Next: i + 1}) {
			break
		}
	}
	return nil
}

func (s *source) Readlink(ext4.Ino) (string, error) { return "target", nil }

func (s *source) Listxattr(ino ext4.Ino) (names []string, err error) {
	for n := range s.xattr[ino] {
		names = append(names, n)
	}
	return names, nil
}

func (s *source) Getxattr(ino ext4.Ino, name string) ([]byte, error) {
	return []byte(s.xattr[ino][name]), nil
}

func (s *source) ReadAt(ino ext4.Ino, p []byte, off int64) (int, error) {
	d := s.data[ino]
	if off >= int64(len(d)) {
		return 0, syscall.EUCLEAN
	}
	return copy(p, d[off:]), nil
}

func TestArchive(t *testing.T) {
	when := time.Unix(-5_000_000_000, 123_456_789)
	s := &source{
		data:  map[ext4.Ino]string{10: "content", 11: "only a part"},
		xattr: map[ext4.Ino]map[string]string{10: {"user.bin": "\x00\xff=\n", "user.a=b": "x"}},
	}
	s.add("file", ext4.Stat{Ino: 10, Mode: unix.S_IFREG | 0o4755, Nlink: 2, Size: 7, UID: 4_000_000_000, GID: 5, Mtime: when})
	s.add("hard", s.stats[0])
	s.add("damaged", ext4.Stat{Ino: 11, Mode: unix.S_IFREG | 0o644, Nlink: 1, Size: 5000})
	s.add("dev", ext4.Stat{Ino: 12, Mode: unix.S_IFBLK | 0o660, Nlink: 1, RdevMajor: 8, RdevMinor: 70000})
	s.add("sock", ext4.Stat{Ino: 13, Mode: unix.S_IFSOCK | 0o777, Nlink: 1})
	s.add("link", ext4.Stat{Ino: 14, Mode: unix.S_IFLNK | 0o777, Nlink: 1})
	s.add("weird", ext4.Stat{Ino: 15, Mode: 0o777, Nlink: 1})
	s.add("b\xe4d name\n", ext4.Stat{Ino: 16, Mode: unix.S_IFIFO | 0o600, Nlink: 1})

	var out bytes.Buffer
	problems := map[string]int{}
	w := archive.NewWriter(&out, s, func(path string, err error) { problems[path]++ })
	if err := errors.Join(w.Add(ext4.RootIno, "/base"), w.Close()); err != nil {
		t.Fatal(err)
	}
	if got, want := fmt.Sprint(problems), "map[damaged:1 file:1 sock:1 weird:1]"; got != want {
		t.Errorf("problems %s, want %s", got, want)
	}

	headers := map[string]*tar.Header{}
	content := map[string]string{}
	r := tar.NewReader(&out)
	for {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		headers[h.Name], content[h.Name] = h, string(text)
	}
	if len(headers) != 7 {
		t.Errorf("%d files", len(headers))
	}
	f := headers["base/file"]
	if f == nil || !f.ModTime.Equal(when) || f.Uid != 4_000_000_000 || f.Mode != 0o4755 ||
		f.PAXRecords["SCHILY.xattr.user.bin"] != "\x00\xff=\n" || content["base/file"] != "content" {
		t.Errorf("file: %+v, %q", f, content["base/file"])
	}
	if h := headers["base/hard"]; h == nil || h.Typeflag != tar.TypeLink || h.Linkname != "base/file" {
		t.Errorf("hard: %+v", h)
	}
	if h := headers["base/dev"]; h == nil || h.Typeflag != tar.TypeBlock || h.Devmajor != 8 || h.Devminor != 70000 {
		t.Errorf("dev: %+v", h)
	}
	if h := headers["base/link"]; h == nil || h.Linkname != "target" {
		t.Errorf("link: %+v", h)
	}
	if headers["base/b\xe4d name\n"] == nil || headers["base/"] == nil {
		t.Error("names are missing")
	}
	want := make([]byte, 5000)
	copy(want, "only a part")
	if content["base/damaged"] != string(want) {
		t.Error("damaged: other content")
	}
}

// holey is a source whose files are holes from end to end.
type holey struct{ source }

func (h *holey) Seek(_ ext4.Ino, off int64, whence int) (int64, error) {
	if whence == ext4.SeekData {
		return 0, syscall.ENXIO
	}
	return off, nil
}

// TestHostile has files that no archive can hold: the others are in it.
func TestHostile(t *testing.T) {
	s := &holey{source{xattr: map[ext4.Ino]map[string]string{10: {}}}}
	for i := range 100 {
		s.xattr[10][fmt.Sprint("user.", i)] = string(make([]byte, 64<<10))
	}
	s.add("attributes", ext4.Stat{Ino: 10, Mode: unix.S_IFREG | 0o644, Nlink: 1})
	s.add("giant", ext4.Stat{Ino: 11, Mode: unix.S_IFREG | 0o644, Nlink: 1, Size: 1<<63 - 1})
	s.add("last", ext4.Stat{Ino: 12, Mode: unix.S_IFREG | 0o644, Nlink: 1})
	var out bytes.Buffer
	problems := map[string]int{}
	w := archive.NewWriter(&out, s, func(path string, err error) { problems[path]++ })
	if err := errors.Join(w.Add(ext4.RootIno, "/"), w.Close()); err != nil {
		t.Fatal(err)
	}
	if got, want := fmt.Sprint(problems), "map[attributes:1 giant:1]"; got != want {
		t.Errorf("problems %s, want %s", got, want)
	}
	names := ""
	for r := tar.NewReader(&out); ; {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		names += " " + h.Name
	}
	if names != " ./ attributes last" {
		t.Errorf("the archive holds%s", names)
	}
}

func TestACL(t *testing.T) {
	const (
		access = "\x02\x00\x00\x00" +
			"\x01\x00\x06\x00\xff\xff\xff\xff" + "\x02\x00\x04\x00\xd2\x04\x00\x00" + "\x04\x00\x05\x00\xff\xff\xff\xff" +
			"\x08\x00\x03\x00\x37\x00\x00\x00" + "\x10\x00\x07\x00\xff\xff\xff\xff" + "\x20\x00\x00\x00\xff\xff\xff\xff"
		unknown = "\x02\x00\x00\x00" + "\x40\x00\x06\x00\xff\xff\xff\xff"
	)
	for value, want := range map[string]string{
		access:                      "user::rw-,user:1234:r--,group::r-x,group:55:-wx,mask::rwx,other::---",
		unknown:                     "",
		"":                          "",
		"\x01\x00\x00\x00":          "",
		"\x02\x00\x00\x00" + "half": "",
	} {
		s := &source{xattr: map[ext4.Ino]map[string]string{10: {
			"system.posix_acl_access": value, "system.posix_acl_default": value}}}
		s.add("file", ext4.Stat{Ino: 10, Mode: unix.S_IFIFO | 0o644, Nlink: 1})
		var out bytes.Buffer
		w := archive.NewWriter(&out, s, func(path string, err error) { t.Errorf("%s: %v", path, err) })
		if err := errors.Join(w.Add(10, "file"), w.Close()); err != nil {
			t.Fatal(err)
		}
		h, err := tar.NewReader(&out).Next()
		if err != nil {
			t.Fatal(err)
		}
		for _, key := range []string{"SCHILY.acl.access", "SCHILY.acl.default"} {
			if got := h.PAXRecords[key]; got != want {
				t.Errorf("%q: %s is %q, want %q", value, key, got, want)
			}
		}
	}
}

type fullDisk struct{}

func (fullDisk) Write([]byte) (int, error) { return 0, syscall.ENOSPC }

func TestWriteError(t *testing.T) {
	s := &source{data: map[ext4.Ino]string{10: "content"}}
	s.add("file", ext4.Stat{Ino: 10, Mode: unix.S_IFREG | 0o644, Nlink: 1, Size: 7})
	w := archive.NewWriter(fullDisk{}, s, func(path string, err error) { t.Errorf("%s: %v", path, err) })
	if err := errors.Join(w.Add(ext4.RootIno, ""), w.Close()); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("got %v", err)
	}
}
