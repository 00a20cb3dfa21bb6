package main

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"ext4box/ext4"
)

// typeWord is a file type in words, as stat(1) has them.
func typeWord(mode uint32) string {
	switch mode & unix.S_IFMT {
	case unix.S_IFREG:
		return "regular file"
	case unix.S_IFDIR:
		return "directory"
	case unix.S_IFLNK:
		return "symbolic link"
	case unix.S_IFCHR:
		return "character device"
	case unix.S_IFBLK:
		return "block device"
	case unix.S_IFIFO:
		return "fifo"
	case unix.S_IFSOCK:
		return "socket"
	}
	return "unknown"
}

// modeString is a mode as ls(1) writes it.
func modeString(mode uint32) string {
	kinds := map[uint32]byte{
		unix.S_IFREG: '-', unix.S_IFDIR: 'd', unix.S_IFLNK: 'l', unix.S_IFCHR: 'c',
		unix.S_IFBLK: 'b', unix.S_IFIFO: 'p', unix.S_IFSOCK: 's',
	}
	s := []byte("?rwxrwxrwx")
	if k, ok := kinds[mode&unix.S_IFMT]; ok {
		s[0] = k
	}
	for i := range 9 {
		if mode&(0o400>>i) == 0 {
			s[i+1] = '-'
		}
	}
	for i, special := range []struct {
		bit        uint32
		with, bare byte
	}{{unix.S_ISUID, 's', 'S'}, {unix.S_ISGID, 's', 'S'}, {unix.S_ISVTX, 't', 'T'}} {
		if mode&special.bit != 0 {
			at := 3 * (i + 1)
			if s[at] == 'x' {
				s[at] = special.with
			} else {
				s[at] = special.bare
			}
		}
	}
	return string(s)
}

func hasDevice(st *ext4.Stat) bool {
	kind := st.Mode & unix.S_IFMT
	return kind == unix.S_IFCHR || kind == unix.S_IFBLK
}

// inodeFlags are the bits of EXT4_*_FL, in words, as in the field i_flags.
var inodeFlags = []struct {
	bit  uint32
	name string
}{
	{0x1, "secure-delete"}, {0x2, "undelete"}, {0x4, "compressed"}, {0x8, "sync"},
	{0x10, "immutable"}, {0x20, "append"}, {0x40, "nodump"}, {0x80, "noatime"},
	{0x800, "encrypted"}, {0x1000, "index"}, {0x2000, "imagic"}, {0x4000, "journal-data"},
	{0x8000, "notail"}, {0x10000, "dirsync"}, {0x20000, "topdir"}, {0x40000, "huge-file"},
	{0x80000, "extents"}, {0x100000, "verity"}, {0x200000, "ea-inode"},
	{0x2000000, "dax"}, {0x10000000, "inline-data"}, {0x20000000, "project-inherit"},
	{0x40000000, "casefold"},
}

func flagWords(flags uint32) []string {
	words := []string{}
	for _, f := range inodeFlags {
		if flags&f.bit != 0 {
			words = append(words, f.name)
			flags &^= f.bit
		}
	}
	if flags != 0 {
		words = append(words, fmt.Sprintf("%#x", flags))
	}
	return words
}

// xattrText is a value as getfattr(1) writes it: text in quotes, other bytes in
// hexadecimal.
func xattrText(value []byte) string {
	// A final zero byte is usual in security.selinux and no reason for hex.
	text := strings.TrimSuffix(string(value), "\x00")
	if utf8.ValidString(text) && strings.IndexFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }) < 0 {
		return fmt.Sprintf("%q", value)
	}
	return fmt.Sprintf("0x%x", value)
}
