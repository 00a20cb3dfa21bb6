package e2test

import (
	"bufio"
	"fmt"
	"strings"
	"testing"
)

// Dump is what dumpe2fs says about an image.
type Dump struct {
	Header map[string]string // by the text before the colon; "MMP_block" fields included
	Groups []Group
}

// Group is what dumpe2fs says about a block group. Block 0 stands for a
// structure that is not there, except for the superblock: see HasSuper.
type Group struct {
	First, Last              uint64
	Checksum                 uint16
	Flags                    string // as in "INODE_UNINIT, ITABLE_ZEROED"
	HasSuper                 bool
	Super                    uint64
	DescFirst, DescLast      uint64
	ReservedGDT              uint64 // number of blocks
	BlockBitmap, InodeBitmap uint64
	BlockBitmapCsum          uint32
	InodeBitmapCsum          uint32
	TableFirst, TableLast    uint64
	FreeBlocks, FreeInodes   uint32 // blocks are clusters with bigalloc
	Directories, Unused      uint32
}

// Dumpe2fs reads an image with dumpe2fs.
func Dumpe2fs(tb testing.TB, image string) Dump {
	tb.Helper()
	d := Dump{Header: map[string]string{}}
	scan := bufio.NewScanner(strings.NewReader(Output(tb, "dumpe2fs", image)))
	for scan.Scan() {
		line := scan.Text()
		switch {
		case strings.HasPrefix(line, "Group ") && strings.Contains(line, ": (Blocks "):
			d.Groups = append(d.Groups, Group{})
			d.Groups[len(d.Groups)-1].header(tb, line)
		case len(d.Groups) > 0:
			d.Groups[len(d.Groups)-1].line(tb, strings.TrimSpace(line))
		default:
			if key, value, ok := strings.Cut(line, ":"); ok {
				d.Header[strings.TrimSpace(key)] = strings.TrimSpace(value)
			}
		}
	}
	return d
}

func (g *Group) header(tb testing.TB, line string) {
	tb.Helper()
	_, rest, _ := strings.Cut(line, "(Blocks ")
	scan(tb, rest, "%d-%d", &g.First, &g.Last)
	if _, csum, ok := strings.Cut(rest, "csum "); ok {
		scan(tb, csum, "0x%x", &g.Checksum)
	}
	if _, flags, ok := strings.Cut(rest, "["); ok {
		g.Flags = strings.TrimSuffix(strings.TrimSpace(flags), "]")
	}
}

func (g *Group) line(tb testing.TB, line string) {
	tb.Helper()
	for _, kind := range []string{"Primary", "Backup"} {
		if rest, ok := strings.CutPrefix(line, kind+" superblock at "); ok {
			g.HasSuper = true
			scan(tb, rest, "%d", &g.Super)
		}
	}
	if _, rest, ok := strings.Cut(line, "Group descriptors at "); ok {
		scan(tb, rest, "%d-%d", &g.DescFirst, &g.DescLast)
	}
	if _, rest, ok := strings.Cut(line, "Group descriptor at "); ok {
		scan(tb, rest, "%d", &g.DescFirst)
		g.DescLast = g.DescFirst
	}
	if rest, ok := strings.CutPrefix(line, "Reserved GDT blocks at "); ok {
		var first, last uint64
		scan(tb, rest, "%d-%d", &first, &last)
		g.ReservedGDT = last - first + 1
	}
	for prefix, to := range map[string]struct {
		blk  *uint64
		csum *uint32
	}{
		"Block bitmap at ": {&g.BlockBitmap, &g.BlockBitmapCsum},
		"Inode bitmap at ": {&g.InodeBitmap, &g.InodeBitmapCsum},
	} {
		// On small groups the two share a line.
		if _, rest, ok := strings.Cut(line, prefix); ok {
			scan(tb, rest, "%d", to.blk)
			if _, csum, ok := strings.Cut(rest, "csum "); ok {
				scan(tb, csum, "0x%x", to.csum)
			}
		}
	}
	if _, rest, ok := strings.Cut(line, "Inode table at "); ok {
		scan(tb, rest, "%d-%d", &g.TableFirst, &g.TableLast)
	}
	if strings.Contains(line, " free inodes, ") {
		kind := "blocks"
		if strings.Contains(line, " free clusters, ") {
			kind = "clusters"
		}
		scan(tb, line, "%d free "+kind+", %d free inodes, %d directories", &g.FreeBlocks, &g.FreeInodes, &g.Directories)
		if _, rest, ok := strings.Cut(line, "directories, "); ok {
			scan(tb, rest, "%d unused inodes", &g.Unused)
		}
	}
}

func scan(tb testing.TB, s, format string, to ...any) {
	tb.Helper()
	if _, err := fmt.Sscanf(s, format, to...); err != nil {
		tb.Fatalf("cannot read %q: %v", s, err)
	}
}
