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
)

// TestRecoveryMovesJournal recovers images whose journal brings another journal: as the inode of a file, without one, or
// elsewhere on the device. The log that is written to is never also a file's, and what cannot be is refused.
func TestRecoveryMovesJournal(t *testing.T) {
	base, err := mutate.Load(testimage.Build(t, t.TempDir(), testimage.Config{
		Name: "image", Size: 12 << 20, Args: strings.Fields("-t ext4 -b 1024 -J size=1 -N 1024 -O mmp -E mmp_update_interval=1"),
		Level: testimage.Small, Oracle: testimage.Debugfs}).Path)
	if err != nil {
		t.Fatal(err)
	}
	fs, err := ext4.Open(base.Craft("sound", func(*mutate.Editor) {}).Device(), ext4.Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	file, err := fs.Resolve("files/large")
	if err != nil {
		t.Fatal(err)
	}
	fs.Close()
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
