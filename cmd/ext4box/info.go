package main

import (
	"bufio"
	"cmp"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"ext4box/blockdev"
	"ext4box/ext4"
)

type infoOptions struct {
	image  imageOptions
	groups bool
	json   bool
}

func newInfoCommand() *cobra.Command {
	var o infoOptions
	cmd := &cobra.Command{
		Use:   "info IMAGE",
		Short: "Show the superblock of an image: size, features, state",
		Example: `  ext4box info disk.img@p2
  ext4box info --json disk.img | jq -r .uuid`,
		Args: argCount(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error { return info(cmd, args[0], o) },
	}
	f := cmd.Flags()
	f.BoolVar(&o.groups, "groups", false, "show the block groups as well")
	f.BoolVar(&o.json, "json", false, "write a JSON object")
	o.image.addFlags(f)
	return cmd
}

// infoJSON is what info --json writes.
type infoJSON struct {
	ext4.Info
	// Exactly, when they are not Unicode.
	LabelBytes        []byte `json:"label_bytes,omitempty"`
	LastMountedBytes  []byte `json:"last_mounted_bytes,omitempty"`
	MountOptionsBytes []byte `json:"mount_options_bytes,omitempty"`

	GroupList []ext4.GroupInfo `json:"group_list,omitempty"`
}

func info(cmd *cobra.Command, image string, o infoOptions) (err error) {
	// Without a lock: looking at the superblock of a mounted image is useful,
	// and a torn read shows as a wrong checksum.
	fs, err := openImage(image, o.image, blockdev.LockNone)
	if err != nil {
		return err
	}
	defer fs.Close()
	out := bufio.NewWriter(cmd.OutOrStdout())
	if o.json {
		err = infoAsJSON(out, fs, o.groups)
	} else {
		printInfo(out, fs.Info())
		if o.groups {
			err = printGroups(out, fs)
		}
	}
	if ferr := out.Flush(); err == nil {
		err = ferr
	}
	if err != nil {
		return fmt.Errorf("%s: %w", image, err)
	}
	return nil
}

func infoAsJSON(w io.Writer, fs *ext4.FS, groups bool) error {
	j := infoJSON{Info: fs.Info()}
	j.LabelBytes = newName(j.Label).Bytes
	j.LastMountedBytes = newName(j.LastMounted).Bytes
	j.MountOptionsBytes = newName(j.MountOptions).Bytes
	if groups {
		for g, err := range fs.Groups() {
			if err != nil {
				return err
			}
			j.GroupList = append(j.GroupList, g)
		}
	}
	return printJSON(w, j)
}

func printInfo(w io.Writer, i ext4.Info) {
	row := func(key, format string, a ...any) {
		fmt.Fprintf(w, "%-18s %s\n", key+":", fmt.Sprintf(format, a...))
	}
	size := func(blocks uint64) string { return sizeText(blocks * uint64(i.BlockSize)) }
	row("Type", "%s, revision %d", i.Type, i.Revision)
	row("Label", "%s", orNone(printable(i.Label)))
	row("UUID", "%s", i.UUID)
	row("Last mounted on", "%s", orNone(printable(i.LastMounted)))
	row("State", "%s", i.State)
	row("Journal", "%s", journalText(&i))
	row("Features", "%s", strings.Join(i.Features, " "))
	if len(i.ReadOnlyFeatures) > 0 {
		row("Read-only because", "%s", strings.Join(i.ReadOnlyFeatures, " "))
	}
	row("Blocks", "%d of %d bytes (%s), %d free (%s), %d reserved",
		i.Blocks, i.BlockSize, size(i.Blocks), i.FreeBlocks, size(i.FreeBlocks), i.ReservedBlocks)
	if i.ClusterSize != i.BlockSize {
		row("Clusters", "of %d bytes", i.ClusterSize)
	}
	row("Inodes", "%d of %d bytes, %d free, first %d", i.Inodes, i.InodeSize, i.FreeInodes, i.FirstInode)
	row("Groups", "%d of %d blocks and %d inodes, descriptors of %d bytes, first data block %d",
		i.Groups, i.BlocksPerGroup, i.InodesPerGroup, i.DescSize, i.FirstDataBlock)
	row("Directory hash", "%s", i.HashVersion)
	row("Checksums", "%s", i.Checksum)
	if i.Encoding != "" {
		row("Encoding", "%s", i.Encoding)
	}
	row("On errors", "%s", i.Errors)
	if i.MountOptions != "" {
		row("Mount options", "%s", printable(i.MountOptions))
	}
	if !i.Created.IsZero() {
		row("Created", "%s", timeText(i.Created))
	}
	if !i.Mounted.IsZero() {
		row("Mounted", "%s, %d times since the last check", timeText(i.Mounted), i.MountCount)
	}
	if !i.Written.IsZero() {
		row("Written", "%s, %s in its life", timeText(i.Written), sizeText(i.WrittenKBytes<<10))
	}
	if !i.Checked.IsZero() {
		row("Checked", "%s", timeText(i.Checked))
	}
	if i.ErrorCount > 0 {
		row("Errors", "%d", i.ErrorCount)
	}
	for _, e := range []struct {
		name string
		info *ext4.ErrorInfo
	}{{"First error", i.FirstError}, {"Last error", i.LastError}} {
		if e.info != nil {
			row(e.name, "%s: %s in %s:%d, inode %d, block %d", timeText(e.info.Time), cmp.Or(e.info.Error, "UNKNOWN"),
				printable(e.info.Function), e.info.Line, e.info.Inode, e.info.Block)
		}
	}
}

func orNone(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// journalText says where the journal is and what it held.
func journalText(i *ext4.Info) string {
	var where string
	switch {
	case i.JournalUUID != "":
		where = "external, UUID " + i.JournalUUID
	case i.JournalInode != 0:
		where = fmt.Sprintf("in inode %d", i.JournalInode)
	default:
		return "none"
	}
	switch r := i.Recovery; {
	case r.Skipped:
		return where + "; not replayed, as asked: what is shown may be inconsistent"
	case r.Needed:
		return fmt.Sprintf("%s; %d blocks are read from it, up to transaction %d", where, r.Blocks, r.LastTID)
	}
	return where + "; clean"
}

func printGroups(w io.Writer, fs *ext4.FS) error {
	fmt.Fprintf(w, "\n%8s %14s %14s %14s %14s %8s %8s %8s  %s\n", "Group", "First block",
		"Block bitmap", "Inode bitmap", "Inode table", "Free", "Free ino", "Dirs", "Flags")
	for g, err := range fs.Groups() {
		if err != nil {
			return err
		}
		var flags []string
		for _, f := range []struct {
			on   bool
			name string
		}{{g.Superblock, "super"}, {g.InodeUninit, "inode-uninit"}, {g.BlockUninit, "block-uninit"}, {g.ItableZero, "itable-zeroed"}} {
			if f.on {
				flags = append(flags, f.name)
			}
		}
		fmt.Fprintf(w, "%8d %14d %14d %14d %14d %8d %8d %8d  %s\n", g.Group, g.FirstBlock, g.BlockBitmap,
			g.InodeBitmap, g.InodeTable, g.FreeBlocks, g.FreeInodes, g.Directories, strings.Join(flags, " "))
	}
	return nil
}

// sizeText is a byte count for people.
func sizeText(n uint64) string {
	units := []string{"bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"}
	f, u := float64(n), 0
	for f >= 1024 && u < len(units)-1 {
		f /= 1024
		u++
	}
	if u == 0 {
		return fmt.Sprintf("%d bytes", n)
	}
	return fmt.Sprintf("%.1f %s", f, units[u])
}
