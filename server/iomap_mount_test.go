package server_test

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"ext4box/ext4"
	"ext4box/fuse/fusetest/vfs"
)

// TestModelMounts does a little of everything on each kind of filesystem, with both kinds of kernel.
func TestModelMounts(t *testing.T) {
	for _, image := range slices.Sorted(maps.Keys(images)) {
		t.Run(image, func(t *testing.T) {
			generations(t, func(t *testing.T, g vfs.Generation) {
				testMounted(t, mountModelWith(t, modelConfig{Config: vfs.Config{Generation: g}, mke2fs: images[image]}))
			})
		})
	}
	t.Run("root node 2", func(t *testing.T) {
		generations(t, func(t *testing.T, g vfs.Generation) {
			testMounted(t, mountModelWith(t, modelConfig{Config: vfs.Config{Generation: g, RootNodeID: 2}}))
		})
	})
	t.Run("little space", func(t *testing.T) {
		generations(t, func(t *testing.T, g vfs.Generation) {
			m := mountModelWith(t, modelConfig{Config: vfs.Config{Generation: g}, size: 4 << 20, mke2fs: []string{"-t", "ext4", "-b", "1024", "-O", "^has_journal"}})
			testMounted(t, m)
		})
	})
}

// TestModelTogether has several programs write, punch, read and sync parts of one file, which are theirs, while
// the kernel writes back and forgets what it likes.
func TestModelTogether(t *testing.T) {
	for _, image := range []string{"extents", "indirect", "clusters"} {
		t.Run(image, func(t *testing.T) {
			generations(t, func(t *testing.T, g vfs.Generation) {
				m := mountModelWith(t, modelConfig{Config: vfs.Config{Generation: g, Socket: true}, mke2fs: images[image], prepare: func(fs *ext4.FS) {
					file(t, fs, "f", nil, parts*part)
				}})
				testTogether(t, m)
			})
		})
	}
}

const (
	parts = 4
	part  = 1 << 20 // bytes
)

func testTogether(t *testing.T, m *mounted) {
	want := make([]byte, parts*part)
	var workers, kernel sync.WaitGroup
	for i := range parts {
		mine, base := want[i*part:(i+1)*part], int64(i*part)
		workers.Go(func() {
			flags := syscall.O_RDWR
			if i == 0 {
				flags |= syscall.O_DIRECT
			}
			f, err := m.Open("f", flags, 0)
			if err != nil {
				t.Error(err)
				return
			}
			defer f.Close()
			rng := rand.New(rand.NewPCG(uint64(i), 7))
			for n := range 60 {
				off, length := rng.IntN(part/4096)*4096, (1+rng.IntN(8))*4096
				length = min(length, part-off)
				switch rng.IntN(6) {
				case 0, 1, 2:
					p := bytes.Repeat([]byte{byte(1 + n)}, length)
					copy(mine[off:], p)
					_, err = f.WriteAt(p, base+int64(off))
				case 3:
					if err = f.Fallocate(ext4.FallocPunchHole|ext4.FallocKeepSize, base+int64(off), int64(length)); err == nil {
						clear(mine[off : off+length])
					}
				case 4:
					err = f.Fsync()
				default:
					got := make([]byte, length)
					if _, err = f.ReadAt(got, base+int64(off)); err == nil && !bytes.Equal(got, mine[off:off+length]) {
						t.Errorf("part %d at %d+%d reads as something else", i, off, length)
					}
				}
				if err != nil && !errors.Is(err, syscall.EOPNOTSUPP) {
					t.Errorf("part %d: %v", i, err)
					return
				}
			}
		})
	}
	stop := make(chan struct{})
	kernel.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				m.WriteBack()
				m.DropCaches()
			}
		}
	})
	workers.Wait()
	close(stop)
	kernel.Wait()
	m.content(t, "f", want)
}

// model is a file as it should be.
type model []byte

func (d *model) write(p []byte, off int) {
	if n := off + len(p) - len(*d); n > 0 {
		*d = append(*d, make([]byte, n)...)
	}
	copy((*d)[off:], p)
}

func testMounted(t *testing.T, m *mounted) {
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(m.Mkdir("dir", 0o755))
	f, err := m.Open("dir/file", syscall.O_RDWR|syscall.O_CREAT|syscall.O_EXCL, 0o644)
	must(err)
	var want model
	put := func(p []byte, off int) {
		t.Helper()
		write(t, f, p, int64(off))
		want.write(p, off)
	}
	check := func() {
		t.Helper()
		got := make([]byte, len(want)+1)
		if n, err := f.ReadAt(got, 0); n != len(want) || !bytes.Equal(got[:n], want) {
			t.Fatalf("%d bytes instead of %d, or others; %v", n, len(want), err)
		}
	}
	put([]byte("small"), 0)
	put([]byte("er"), 5)
	check()
	put(xs(9000), 3000) // out of the inode, across a hole
	check()
	must(f.Fsync())
	put(xs(10), 100000)
	must(f.Truncate(99999))
	want = want[:99999]
	put([]byte("end"), 99990)
	check()
	mem, err := f.Mmap()
	must(err)
	must(mem.Store([]byte("stored"), 50000))
	want.write([]byte("stored"), 50000)
	mem.Unmap()
	if err := f.Fallocate(ext4.FallocPunchHole|ext4.FallocKeepSize, 3500, 40000); err == nil {
		want.write(make([]byte, 40000), 3500)
	} else if !errors.Is(err, syscall.EOPNOTSUPP) {
		t.Fatal(err)
	}
	check()
	if err := f.Fallocate(ext4.FallocZeroRange, 90000, 30000); err == nil {
		want.write(make([]byte, 30000), 90000)
	} else if !errors.Is(err, syscall.EOPNOTSUPP) {
		t.Fatal(err)
	}
	if err := f.Fallocate(0, 0, 200000); err == nil {
		want.write(nil, 200000)
	} else if !errors.Is(err, syscall.EOPNOTSUPP) {
		t.Fatal(err)
	}
	check()
	must(f.Fsync())
	m.DropCaches()
	check()
	must(m.Link("dir/file", "second"))
	must(m.Symlink("dir/file", "link"))
	if l, err := m.Open("second", syscall.O_RDONLY, 0); err != nil || l.NodeID() != f.NodeID() {
		t.Errorf("by its second name the file is another one: %v", err)
	} else {
		must(l.Close())
	}
	must(m.Unlink("dir/file"))
	must(m.Rename("second", "dir/third", 0))
	must(f.Close())
	m.content(t, "dir/third", want)

	// Without a name, and with data that was never written back.
	gone, err := m.Open("gone", syscall.O_RDWR|syscall.O_CREAT, 0o600)
	must(err)
	write(t, gone, xs(50000), 0)
	must(m.Unlink("gone"))
	write(t, gone, xs(50000), 50000)
	must(gone.Close())

	must(m.Freeze())
	must(m.Thaw())
	must(m.Sync())
	list, err := m.ReadDir("dir")
	if err != nil || len(list) != 1 && len(list) != 3 {
		t.Errorf("%v, %v", list, err)
	}
	must(m.Unmount())
}

// TestModelInheritance makes the same things in the root directory, where umask and default ACL are the server's
// part, and in another one, where they are the kernel's. There is no difference between the results.
func TestModelInheritance(t *testing.T) {
	generations(t, func(t *testing.T, g vfs.Generation) {
		m := mountModelWith(t, modelConfig{Config: vfs.Config{Generation: g}})
		if err := m.Mkdir("dir", 0o755); err != nil {
			t.Fatal(err)
		}
		results := map[string]string{}
		made := 0
		for _, withACL := range []bool{false, true} {
			for _, dir := range []string{".", "dir"} {
				if withACL {
					if err := m.Setxattr(dir, "system.posix_acl_default", someACL, 0); err != nil {
						t.Fatal(err)
					}
				}
				for _, mode := range []uint32{0o777, 0o666, 0o640, 0o4755, 0o400} {
					for _, umask := range []uint32{0, 0o022, 0o077} {
						who := m.As(vfs.Cred{Umask: umask})
						for kind, make := range map[string]func(path string) error{
							"file": func(path string) error {
								f, err := who.Open(path, syscall.O_RDWR|syscall.O_CREAT|syscall.O_EXCL, mode)
								if err == nil {
									err = f.Close()
								}
								return err
							},
							"dir":  func(path string) error { return who.Mkdir(path, mode&0o777) },
							"fifo": func(path string) error { return who.Mknod(path, syscall.S_IFIFO|mode, 0) },
						} {
							made++
							path := fmt.Sprintf("%s/%s%d", dir, kind, made)
							if err := make(path); err != nil {
								t.Fatalf("%s with mode %#o: %v", path, mode, err)
							}
							st, err := m.Statx(path, unix.STATX_BASIC_STATS)
							if err != nil {
								t.Fatal(err)
							}
							access, _ := m.Getxattr(path, "system.posix_acl_access")
							inherited, _ := m.Getxattr(path, "system.posix_acl_default")
							what := fmt.Sprintf("%s, mode %#o, umask %#o, default ACL %t", kind, mode, umask, withACL)
							result := fmt.Sprintf("mode %#o, ACL %x, default %x", st.Mode, access, inherited)
							if dir == "." {
								results[what] = result
							} else if results[what] != result {
								t.Errorf("%s: %q in the root directory, %q in another", what, results[what], result)
							}
						}
					}
				}
			}
		}
	})
}

// TestModelReadOnly reads a filesystem that is open for reading.
func TestModelReadOnly(t *testing.T) {
	generations(t, func(t *testing.T, g vfs.Generation) {
		m := mountModelWith(t, modelConfig{
			Config: vfs.Config{Generation: g}, open: ext4.Options{ReadOnly: true},
			prepare: func(fs *ext4.FS) { file(t, fs, "f", xs(10000), 20000) },
		})
		f := m.open(t, "f", syscall.O_RDONLY)
		got := make([]byte, 30000)
		if n, _ := f.ReadAt(got, 0); !bytes.Equal(got[:n], append(xs(10000), make([]byte, 10000)...)) {
			t.Errorf("%d bytes, or others", n)
		}
		if off, err := f.SeekHole(0); err != nil || off != 12288 {
			t.Errorf("a hole at %d, %v", off, err)
		}
		_ = f.Close() // the kernel would store the time of access, but for the flag of the mount
		if err := m.Mkdir("x", 0o755); !errors.Is(err, syscall.EROFS) {
			t.Errorf("mkdir: %v", err)
		}
	})
}

// TestModelFlags: flags come by either ioctl, to the disk and to the kernel, which keeps to them.
func TestModelFlags(t *testing.T) {
	generations(t, func(t *testing.T, g vfs.Generation) {
		m := mountModel(t, g, func(fs *ext4.FS) { file(t, fs, "f", xs(100), 100) })
		f := m.open(t, "f", syscall.O_RDWR)
		defer f.Close()
		const immutable, nodump, dax = 0x8, 0x80, 0x8000 // as struct fsxattr has them
		if err := f.SetFsxattr(vfs.Fsxattr{Xflags: dax}); !errors.Is(err, syscall.EOPNOTSUPP) {
			t.Errorf("the flag by which data would go another way: %v", err)
		}
		if err := f.SetFsxattr(vfs.Fsxattr{Xflags: immutable | nodump}); err != nil {
			t.Fatal(err)
		}
		if x, err := f.Fsxattr(); err != nil || x.Xflags != immutable|nodump {
			t.Errorf("%+v, %v", x, err)
		}
		flags, err := f.Flags()
		if want := uint32(ext4.FlagImmutable | ext4.FlagNodump); err != nil || flags&want != want {
			t.Errorf("flags %#x, want %#x; %v", flags, want, err)
		}
		if g, err := m.Open("f", syscall.O_RDWR, 0); !errors.Is(err, syscall.EPERM) {
			t.Errorf("an immutable file is opened for writing: %v, %v", g, err)
		}
		if err := f.SetFlags(flags &^ ext4.FlagImmutable); err != nil {
			t.Fatal(err)
		}
		if x, err := f.Fsxattr(); err != nil || x.Xflags != nodump {
			t.Errorf("%+v, %v", x, err)
		}
		m.open(t, "f", syscall.O_RDWR).Close()
	})
}

// TestModelSwap: the blocks of swap space stay.
func TestModelSwap(t *testing.T) {
	generations(t, func(t *testing.T, g vfs.Generation) {
		m := mountModelWith(t, modelConfig{Config: vfs.Config{Generation: g}, prepare: func(fs *ext4.FS) {
			file(t, fs, "swap", xs(1<<20), 1<<20)
			file(t, fs, "holes", nil, 1<<20)
		}})
		f := m.open(t, "swap", syscall.O_RDWR)
		extents, err := f.SwapOn()
		if err != nil || len(extents) == 0 {
			t.Fatalf("%v, %v", extents, err)
		}
		if err := f.Truncate(0); err == nil {
			t.Error("a swap file is truncated")
		}
		if err := f.SwapOff(); err != nil {
			t.Error(err)
		}
		if err := f.Truncate(100); err != nil {
			t.Error(err)
		}
		f.Close()
		h := m.open(t, "holes", syscall.O_RDWR)
		if _, err := h.SwapOn(); !errors.Is(err, syscall.EINVAL) {
			t.Errorf("a file with holes: %v", err)
		}
		h.Close()
	})
}

// TestModelFull: what was reserved ahead of writes that never came is there for those that do, and nothing that was
// accepted is lost.
func TestModelFull(t *testing.T) {
	generations(t, func(t *testing.T, g vfs.Generation) {
		m := mountModelWith(t, modelConfig{Config: vfs.Config{Generation: g}, size: 24 << 20})
		const ahead, piece = 6, 48 << 10
		var files []*vfs.File
		for i := range ahead {
			f, err := m.Open(fmt.Sprintf("ahead%d", i), syscall.O_RDWR|syscall.O_CREAT, 0o644)
			if err != nil {
				t.Fatal(err)
			}
			for off := int64(0); off < piece; off += 4096 {
				write(t, f, xs(4096), off)
			}
			files = append(files, f)
		}
		big, err := m.Open("big", syscall.O_RDWR|syscall.O_CREAT, 0o644)
		if err != nil {
			t.Fatal(err)
		}
		size := 0
		for err == nil {
			var n int
			n, err = big.WriteAt(xs(4096), int64(size))
			size += n
		}
		if !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("a full filesystem: %v", err)
		}
		if err := big.Fsync(); err != nil {
			t.Error(err)
		}
		// They go on where they had blocks once, which may be somebody else's by now.
		for i, f := range files {
			want := xs(piece)
			switch n, err := f.WriteAt(bytes.Repeat([]byte{'y'}, 4096), piece); {
			case n == 4096 && err == nil:
				want = append(want, bytes.Repeat([]byte{'y'}, 4096)...)
			case n != 0 || !errors.Is(err, syscall.ENOSPC):
				t.Errorf("%d bytes, %v", n, err)
			}
			m.content(t, fmt.Sprintf("ahead%d", i), want)
		}
		for _, f := range append(files, big) {
			if err := f.Close(); err != nil {
				t.Error(err)
			}
		}
		m.content(t, "big", xs(size))
		// A fiftieth is kept for what cannot fail.
		if st, err := m.Statfs(); err != nil || st.Bfree > st.Blocks/50+64 {
			t.Errorf("%d blocks are free on a full filesystem, %v", st.Bfree, err)
		}
	})
}
