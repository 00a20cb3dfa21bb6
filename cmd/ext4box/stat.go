package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"ext4box/ext4"
)

type statOptions struct {
	image  imageOptions
	follow bool
	json   bool
}

func newStatCommand() *cobra.Command {
	var o statOptions
	cmd := &cobra.Command{
		Use:   "stat IMAGE PATH...",
		Short: "Show the attributes of files in an image",
		Example: `  ext4box stat disk.img /etc/passwd
  ext4box stat --json disk.img /etc/passwd`,
		Args: argCount(2, -1),
		RunE: func(cmd *cobra.Command, args []string) error { return stat(cmd, args[0], args[1:], o) },
	}
	f := cmd.Flags()
	f.BoolVarP(&o.follow, "dereference", "L", false, "follow symbolic links")
	f.BoolVar(&o.json, "json", false, "write a JSON array")
	o.image.addFlags(f)
	return cmd
}

// statJSON is what stat --json says of a file.
type statJSON struct {
	fileJSON
	FlagNames []string    `json:"flag_names"`
	Xattrs    []xattrJSON `json:"xattrs"`
	// Of a regular file: whether the kernel could move its data itself, with fuse-iomap,
	// and why not.
	Mappable         *bool  `json:"mappable,omitempty"`
	UnmappableReason string `json:"unmappable_reason,omitempty"`

	file listed // its strings as they are
}

type xattrJSON struct {
	Name      string `json:"name"`
	NameBytes []byte `json:"name_bytes,omitempty"` // when name is not Unicode
	Value     []byte `json:"value"`                // base64

	exact string // the name as it is
}

func stat(cmd *cobra.Command, image string, paths []string, o statOptions) error {
	return withImage(image, o.image, func(fs *ext4.FS) error {
		out := cmd.OutOrStdout()
		array := &jsonArray{w: out}
		failed := false
		shown := false
		for _, p := range paths {
			s, err := statPath(fs, p, o.follow)
			if err != nil {
				failed = true
				warn(cmd.ErrOrStderr(), pathError(p, err))
				continue
			}
			if o.json {
				err = array.add(s)
			} else {
				err = printStat(out, s, shown)
				shown = true
			}
			if err != nil {
				return err
			}
		}
		if o.json {
			if err := array.end(); err != nil {
				return err
			}
		}
		if failed {
			return errSilent
		}
		return nil
	})
}

func statPath(fs *ext4.FS, path string, follow bool) (*statJSON, error) {
	resolve := fs.Resolve
	if follow {
		resolve = fs.ResolveFollow
	}
	ino, err := resolve(path)
	if err != nil {
		return nil, err
	}
	e := listed{name: path, ino: ino}
	if e.stat, err = fs.Stat(ino); err != nil {
		return nil, err
	}
	if e.stat.IsSymlink() {
		if e.target, err = fs.Readlink(ino); err != nil {
			return nil, err
		}
	}
	s := &statJSON{fileJSON: newFileJSON(&e), FlagNames: flagWords(e.stat.Flags), Xattrs: []xattrJSON{}, file: e}
	if e.stat.IsRegular() {
		s.UnmappableReason = fs.Mappable(ino)
		s.Mappable = new(s.UnmappableReason == "")
	}
	names, err := fs.Listxattr(ino)
	if err != nil {
		return nil, err
	}
	for _, n := range names {
		value, err := fs.Getxattr(ino, n)
		if err != nil {
			return nil, fmt.Errorf("attribute %q: %w", n, err)
		}
		text := newName(n)
		s.Xattrs = append(s.Xattrs, xattrJSON{text.Text, text.Bytes, value, n})
	}
	return s, nil
}

func printStat(w io.Writer, s *statJSON, blank bool) error {
	var b strings.Builder
	if blank {
		b.WriteByte('\n')
	}
	row := func(key, format string, a ...any) {
		fmt.Fprintf(&b, "%9s: %s\n", key, fmt.Sprintf(format, a...))
	}
	row("Path", "%s", printable(s.file.path()))
	row("Type", "%s", s.Type)
	if s.IsSymlink() {
		row("Target", "%s", printable(s.file.target))
	}
	row("Inode", "%d, generation %d", s.Ino, s.Generation)
	row("Mode", "%04o %s", s.Mode&0o7777, modeString(s.Mode))
	row("Owner", "%d:%d", s.UID, s.GID)
	row("Links", "%d", s.Nlink)
	if hasDevice(&s.Stat) {
		row("Device", "%d, %d", s.RdevMajor, s.RdevMinor)
	}
	row("Size", "%d bytes in %d sectors of 512", s.Size, s.Blocks)
	row("Accessed", "%s", timeText(s.Atime))
	row("Modified", "%s", timeText(s.Mtime))
	row("Changed", "%s", timeText(s.Ctime))
	if !s.Btime.IsZero() {
		row("Born", "%s", timeText(s.Btime))
	}
	if len(s.FlagNames) > 0 {
		row("Flags", "%s", strings.Join(s.FlagNames, " "))
	}
	if s.ProjectID != 0 {
		row("Project", "%d", s.ProjectID)
	}
	if s.UnmappableReason != "" {
		row("Data", "through the server, even with fuse-iomap: %s", s.UnmappableReason)
	}
	for _, x := range s.Xattrs {
		row("Attribute", "%s=%s", printable(x.exact), xattrText(x.Value))
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func timeText(t time.Time) string { return t.Format("2006-01-02 15:04:05.000000000 -0700") }
