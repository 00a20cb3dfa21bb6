package test

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// TestWriteByOthersStripsSetgid compares with the kernel what becomes of
// set-user-id and set-group-id, on files whose group may execute and on others,
// when somebody changes them whom the file was handed open: its owner, a member
// of its group, or neither.
func TestWriteByOthersStripsSetgid(t *testing.T) {
	const owner, group = 12345, 54321
	data := make([]byte, 100)
	ways := []struct {
		name string
		do   func(fd, from int) error
	}{
		{"write", func(fd, _ int) error { _, err := unix.Pwrite(fd, data, 10); return err }},
		{"shrink", func(fd, _ int) error { return unix.Ftruncate(fd, 100) }},
		{"grow", func(fd, _ int) error { return unix.Ftruncate(fd, 100000) }},
		{"allocate", func(fd, _ int) error { return unix.Fallocate(fd, 0, 0, 65536) }},
		{"allocate what is there", func(fd, _ int) error { return unix.Fallocate(fd, unix.FALLOC_FL_KEEP_SIZE, 0, 4096) }},
		{"punch", func(fd, _ int) error {
			return unix.Fallocate(fd, unix.FALLOC_FL_KEEP_SIZE|unix.FALLOC_FL_PUNCH_HOLE, 0, 4096)
		}},
		{"zero", func(fd, _ int) error { return unix.Fallocate(fd, unix.FALLOC_FL_ZERO_RANGE, 0, 4096) }},
		{"allocate nothing", func(fd, _ int) error { return unix.Fallocate(fd, 0, 0, 0) }},
		{"copy", func(fd, from int) error {
			_, err := unix.CopyFileRange(from, new(int64), fd, new(int64), 100, 0)
			return err
		}},
	}
	who := []struct {
		name     string
		uid, gid int
		groups   []uint32
	}{
		{"root", 0, 0, nil}, {"owner", owner, 1, nil}, {"member", 1, group, nil}, {"stranger", 1, 1, nil},
		{"member beside its first group", 1, 1, []uint32{7, group}}, // which the box is told by the keeper
		{"member of others", 1, 1, []uint32{7}},
	}
	look := func(t *testing.T, path string) string {
		var st unix.Stat_t
		if err := unix.Stat(path, &st); err != nil {
			t.Fatal(err)
		}
		return fmt.Sprintf("mode %#o", st.Mode)
	}
	bothWays(t, 32<<20, plainExt4, func(t *testing.T, dir string) string {
		var b strings.Builder
		source, err := os.Create(filepath.Join(dir, "source"))
		if err != nil {
			t.Fatal(err)
		}
		defer source.Close()
		if _, err := source.Write(make([]byte, 5000)); err != nil {
			t.Fatal(err)
		}
		n := 0
		for _, way := range ways {
			for _, mode := range []uint32{0o6777, 0o6023, 0o2766, 0o2033, 0o4700, 0o6000} {
				for _, w := range who {
					n++
					path := filepath.Join(dir, fmt.Sprint("file-", n))
					f, err := os.Create(path)
					if err != nil {
						t.Fatal(err)
					}
					if _, err := f.Write(make([]byte, 5000)); err != nil {
						t.Fatal(err)
					}
					fd := int(f.Fd())
					if err := unix.Fchown(fd, owner, group); err != nil {
						t.Fatal(err)
					}
					if err := unix.Fchmod(fd, mode); err != nil {
						t.Fatal(err)
					}
					said := withGroups(t, w.groups, func() string {
						return asGroup(w.uid, w.gid, func() string { return fmt.Sprint(way.do(fd, int(source.Fd()))) })
					})
					fmt.Fprintf(&b, "%d: %s of %#o by %s: %s, %s\n", n, way.name, mode, w.name, said, look(t, path))
					if err := f.Close(); err != nil {
						t.Fatal(err)
					}
				}
			}
		}
		return b.String()
	}, func(t *testing.T, dir string) string {
		var b strings.Builder
		for n := 1; ; n++ {
			path := filepath.Join(dir, fmt.Sprint("file-", n))
			if _, err := os.Stat(path); err != nil {
				return b.String()
			}
			fmt.Fprintf(&b, "%d anew: %s\n", n, look(t, path))
		}
	})
}

// withGroups does it on a thread that has other supplementary groups, and ends.
func withGroups(t *testing.T, groups []uint32, what func() string) (said string) {
	if groups == nil {
		return what()
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and not unlocked
		if _, _, errno := unix.RawSyscall(unix.SYS_SETGROUPS, uintptr(len(groups)), uintptr(unsafe.Pointer(&groups[0])), 0); errno != 0 {
			t.Error(errno)
			return
		}
		said = what()
	}()
	<-done
	return said
}
