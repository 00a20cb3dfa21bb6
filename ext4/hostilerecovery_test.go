package ext4_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"ext4box/ext4"
	"ext4box/ext4/internal/disk"
	"ext4box/ext4/internal/disktest"
	"ext4box/ext4/mutate"
	"ext4box/internal/testimage"
	"ext4box/iomap"
)

// TestJournalOfUsers has a journal that is a file with a name, as tune2fs makes them, also one that is to be deleted, or a
// value of attributes. Nobody changes it, and its blocks become nobody else's.
func TestJournalOfUsers(t *testing.T) {
	base, file := recoveryBase(t, "-O ea_inode")
	for name, more := range map[string]func(e *mutate.Editor){
		"plain": func(*mutate.Editor) {},
		"an orphan": func(e *mutate.Editor) {
			e.Super(func(raw []byte) { le.PutUint32(raw[0xE8:], uint32(file)) })
			e.Inode(uint32(file), func(raw []byte) { le.PutUint32(raw[0x14:], 0) })
		},
		"a value": func(e *mutate.Editor) {
			e.Inode(uint32(file), func(raw []byte) { le.PutUint32(raw[0x20:], le.Uint32(raw[0x20:])|uint32(disk.FlagEAInode)) })
		},
	} {
		t.Run(name, func(t *testing.T) {
			dev := base.Craft("the journal is a file", func(e *mutate.Editor) {
				e.Inode(disk.InoJournal, func(raw []byte) {
					journal := slices.Clone(raw)
					e.Inode(uint32(file), func(raw []byte) { copy(raw, journal) })
				})
				e.Super(func(raw []byte) { le.PutUint32(raw[0xE0:], uint32(file)) })
				more(e)
			}).Device()
			g := &guard{Mem: dev, may: allowanceOf(dev, nil)}
			fs, err := ext4.Open(g, ext4.Options{CommitInterval: time.Hour, Errors: ext4.OnErrorContinue})
			if err != nil {
				t.Fatal(err)
			}
			defer fs.Close()
			files, err := fs.Resolve("files")
			if err != nil {
				t.Fatal(err)
			}
			_, written := fs.WriteAt(file, attackData, 0)
			_, begun := fs.Begin(file, 0, 4096, iomap.Write)
			mode := uint32(0o777)
			for what, err := range map[string]error{
				"write": written, "begin": begun, "truncate": fs.Truncate(file, 0), "punch": fs.Fallocate(file, ext4.FallocPunchHole|ext4.FallocKeepSize, 0, 1<<20),
				"setxattr": fs.Setxattr(file, "user.x", []byte("x"), 0), "setattr": fs.SetAttr(file, ext4.Attr{Mode: &mode}), "link": fs.Link(file, files, "again"),
				"unlink": fs.Unlink(files, "large"), "rename": fs.Rename(files, "hello", files, "large", 0),
			} {
				if !errors.Is(err, syscall.EPERM) && !errors.Is(err, syscall.EUCLEAN) {
					t.Errorf("%s: %v", what, err)
				}
			}
			for i := range 12 << 10 { // until there is no more room
				ino, err := fs.Create(ext4.RootIno, fmt.Sprint("new", i), ext4.NewNode{Mode: syscall.S_IFREG | 0o600})
				if err == nil {
					_, err = fs.WriteAt(ino, attackData, 0)
				}
				if err != nil {
					break
				}
			}
			if err := errors.Join(fs.Sync(), g.wrong()); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestOrphanFileReserved: the inode for resizing may have metadata for its blocks, and is no orphan file therefore.
func TestOrphanFileReserved(t *testing.T) {
	base, _ := recoveryBase(t, "-O orphan_file,^metadata_csum -E orphan_file_size=4")
	var orphans uint32
	base.Craft("", func(e *mutate.Editor) {
		e.Super(func(raw []byte) { orphans = le.Uint32(raw[0x280:]) })
	})
	bitmap := base.Desc(0).BlockBitmap
	dev := base.Craft("the orphan file is the inode for resizing", func(e *mutate.Editor) {
		e.Inode(orphans, func(raw []byte) {
			file := slices.Clone(raw)
			copy(file[0x28:0x64], disktest.ExtentNode(60, 0, disktest.Written(0, 1, bitmap)))
			le.PutUint32(file[0x04:], 1024)
			e.Inode(disk.InoResize, func(raw []byte) { copy(raw, file) })
		})
		e.Block(bitmap, func(b []byte) {
			clear(b[:64])
			le.PutUint32(b[len(b)-8:], disk.OrphanMagic)
		})
		e.Super(func(raw []byte) {
			le.PutUint32(raw[0x280:], disk.InoResize)
			le.PutUint32(raw[0x64:], le.Uint32(raw[0x64:])|uint32(disk.ROCompatOrphanPresent))
		})
	}).Device()
	fs, err := ext4.Open(dev, ext4.Options{CommitInterval: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	defer fs.Close()
	if why := fs.ReadOnlyReason(); !strings.Contains(why, "its inode cannot be 7") {
		t.Errorf("read-only because %q", why)
	}
}

// TestFastCommitTakesJournal: fast commits give files no blocks of the journal that they are in.
func TestFastCommitTakesJournal(t *testing.T) {
	base, file := recoveryBase(t, "-O fast_commit")
	for name, c := range map[string]struct {
		start uint64
		fine  bool
	}{
		"free":       {base.Free()[0], true},
		"journal":    {base.Log()[600], false},
		"superlog":   {base.Log()[0], false},
		"bitmap":     {base.Desc(0).BlockBitmap, false},
		"last in it": {base.Log()[len(base.Log())-1], false},
	} {
		t.Run(name, func(t *testing.T) {
			dev := base.Craft(name, func(e *mutate.Editor) { e.FastRange(uint32(file), 5000, c.start, 1) }).Device()
			g := &guard{Mem: dev, may: allowanceOf(dev, nil)}
			fs, err := ext4.Open(g, ext4.Options{CommitInterval: time.Hour})
			if err != nil {
				t.Fatal(err)
			}
			defer fs.Close()
			if why := fs.ReadOnlyReason(); (why == "") != c.fine {
				t.Errorf("read-only because %q", why)
			}
			if !fs.Recovery().Fast && c.fine {
				t.Error("there is no fast commit")
			}
			m, err := fs.Begin(file, 5000<<10, 1024, iomap.Report)
			if mapped := err == nil && m.Type == iomap.Mapped; mapped != c.fine {
				t.Errorf("%+v, %v", m, err)
			}
			if err := g.wrong(); err != nil {
				t.Error(err)
			}
		})
	}
}

// recoveryBase is an image with a journal, and an inode with blocks.
func recoveryBase(t *testing.T, args string) (*mutate.Base, ext4.Ino) {
	t.Helper()
	base, err := mutate.Load(testimage.Build(t, t.TempDir(), testimage.Config{
		Name: "image", Size: 12 << 20, Args: strings.Fields("-t ext4 -b 1024 -J size=1 -N 1024 " + args),
		Level: testimage.Small, Oracle: testimage.Debugfs}).Path)
	if err != nil {
		t.Fatal(err)
	}
	fs, err := ext4.Open(base.Craft("sound", func(*mutate.Editor) {}).Device(), ext4.Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer fs.Close()
	file, err := fs.Resolve("files/large")
	if err != nil {
		t.Fatal(err)
	}
	return base, file
}

// TestRecoveryMovesJournal recovers images whose journal brings another journal: as the inode of a file, without one, or
// elsewhere on the device. The log that is written to is never also a file's, and what cannot be is refused.
func TestRecoveryMovesJournal(t *testing.T) {
	base, file := recoveryBase(t, "-O mmp -E mmp_update_interval=1")
	const journal = disk.InoJournal
	for name, c := range map[string]struct {
		fn   func(e *mutate.Editor)
		fine bool
	}{
		"the same": {func(e *mutate.Editor) {
			e.Super(func(raw []byte) { raw[0x78] = 'x' })
			e.Inode(journal, func(raw []byte) { raw[0x08]++ })
		}, true},
		"another inode": {func(e *mutate.Editor) {
			e.Super(func(raw []byte) { le.PutUint32(raw[0xE0:], uint32(file)) })
		}, false},
		"no inode": {func(e *mutate.Editor) {
			e.Super(func(raw []byte) { le.PutUint32(raw[0xE0:], 0) })
		}, false},
		"no journal": {func(e *mutate.Editor) {
			e.Super(func(raw []byte) { le.PutUint32(raw[0x5C:], le.Uint32(raw[0x5C:])&^uint32(disk.CompatHasJournal)) })
		}, false},
		"inode 8 has other blocks": {func(e *mutate.Editor) {
			e.Inode(journal, func(raw []byte) {
				map8 := slices.Clone(raw[0x28:0x64])
				copy(raw[0x28:0x64], disktest.ExtentNode(60, 0, disktest.Written(0, 1, base.Free()[0]), disktest.Written(1, 1023, uint64(le.Uint32(map8[12+8:]))+1)))
			})
		}, false},
		"a file has the blocks of inode 8": {func(e *mutate.Editor) {
			var map8 []byte
			e.Inode(journal, func(raw []byte) {
				map8 = append(map8[:0], raw[0x28:0x64]...)
				copy(raw[0x28:0x64], disktest.ExtentNode(60, 0, disktest.Written(0, 1024, 8000)))
			})
			e.Inode(uint32(file), func(raw []byte) { copy(raw[0x28:0x64], map8) })
		}, false},
		"another block for MMP": {func(e *mutate.Editor) {
			e.Super(func(raw []byte) { le.PutUint32(raw[0x168:], le.Uint32(raw[0x168:])+100) })
		}, false},
		"no MMP": {func(e *mutate.Editor) {
			e.Super(func(raw []byte) { le.PutUint32(raw[0x60:], le.Uint32(raw[0x60:])&^uint32(disk.IncompatMMP)) })
		}, false},
	} {
		for _, readOnly := range []bool{false, true} {
			t.Run(fmt.Sprint(name, ", read-only ", readOnly), func(t *testing.T) {
				t.Parallel()
				dev := base.CraftRecovered(name, c.fn).Device()
				g := &guard{Mem: dev, may: allowanceOf(dev, nil)}
				fs, err := ext4.Open(g, ext4.Options{CommitInterval: time.Hour, ReadOnly: readOnly})
				if err != nil {
					if t.Log(err); c.fine || !errors.Is(err, syscall.EUCLEAN) {
						t.Error("refused")
					}
					return
				}
				defer fs.Close()
				if readOnly || fs.ReadOnlyReason() != "" {
					return
				}
				if !c.fine {
					t.Error("opened for writing")
				}
				_, err = fs.WriteAt(file, attackData, 0)
				t.Log(err)
				if err := fs.Sync(); err != nil {
					t.Error(err)
				}
				if err := g.wrong(); err != nil {
					t.Error(err)
				}
			})
		}
	}
}
