package main

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"path"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"ext4box/blockdev"
	"ext4box/cmd/ext4box/internal/extract"
	"ext4box/ext4"
)

type cpOptions struct {
	image    imageOptions
	noOwner  bool
	noXattrs bool
	quiet    bool
}

func newCpCommand() *cobra.Command {
	var o cpOptions
	cmd := &cobra.Command{
		Use:   "cp IMAGE PATH... DEST",
		Short: "Copy files out of an image, with their metadata",
		Long: `Copy files and whole directories out of an image, with mode, times, extended
attributes, hard links and holes; as root also with owners and devices.
Nothing outside DEST is written, whatever links the image holds.`,
		Example: `  ext4box cp disk.img /etc/fstab .
  ext4box cp disk.img / ./everything
  sudo ext4box cp disk.img@p2 /home /srv /backup`,
		Args: argCount(3, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			last := len(args) - 1
			return cp(cmd, args[0], args[1:last], args[last], o)
		},
	}
	f := cmd.Flags()
	f.BoolVar(&o.noOwner, "no-owner", false, "the copies belong to this user, also as root; no devices")
	f.BoolVar(&o.noXattrs, "no-xattrs", false, "leave extended attributes and ACLs out")
	f.BoolVarP(&o.quiet, "quiet", "q", false, "show no progress")
	o.image.addFlags(f)
	return cmd
}

func cp(cmd *cobra.Command, image string, paths []string, dest string, o cpOptions) error {
	stderr := cmd.ErrOrStderr()
	if st, err := os.Stat(dest); len(paths) > 1 && (err != nil || !st.IsDir()) {
		return fmt.Errorf("destination %s is not a directory; several files need one", dest)
	}
	// Interrupted, it takes the half file away first. The second signal ends it
	// at once.
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
	defer signal.Stop(signals)
	go func() {
		select {
		case s := <-signals:
			signal.Stop(signals)
			cancel(interruptError{s.(syscall.Signal)})
		case <-ctx.Done():
		}
	}()
	links := extract.NewLinks()
	return withImage(image, o.image, func(fs *ext4.FS) error {
		p := progress{w: stderr, on: !o.quiet && isTerminal(stderr)}
		failed := false
		for _, src := range paths {
			ino, err := fs.Resolve(src)
			if err != nil {
				failed = true
				warn(stderr, pathError(src, err))
				continue
			}
			r, err := extract.Copy(ctx, fs, ino, baseName(src), dest, extract.Options{
				Owner:     os.Geteuid() == 0 && !o.noOwner,
				Xattrs:    !o.noXattrs,
				Protected: imageFiles(image, o.image), Links: links,
				Problem: func(sub string, err error) {
					p.clear()
					warn(stderr, pathError(path.Join(src, sub), err))
				},
				Progress: p.update,
			})
			p.clear()
			if err != nil {
				return err
			}
			if r.Lost > 0 {
				warn(stderr, fmt.Errorf("warning: %d extended attributes were not set, the first: %w", r.Lost, r.XattrError))
			}
			failed = failed || r.Problems > 0
		}
		if failed {
			return errSilent
		}
		return nil
	})
}

// interruptError ends a copy that was told to end.
type interruptError struct{ signal syscall.Signal }

func (e interruptError) Error() string {
	return fmt.Sprintf("%v: the copy is incomplete", e.signal)
}

// imageFiles are the files that a verb must not write to: the image, and its
// external journal.
func imageFiles(image string, o imageOptions) (files []fs.FileInfo) {
	for _, spec := range []string{image, o.Journal} {
		path, _ := blockdev.ParseSpec(spec)
		if st, err := os.Stat(path); err == nil {
			files = append(files, st)
		}
	}
	return files
}

// baseName is the name that a copy of a path gets; empty for the root.
func baseName(p string) string {
	if b := path.Base(path.Clean("/" + p)); b != "/" {
		return b
	}
	return ""
}

// progress is a line on a terminal that says how far a long copy is.
type progress struct {
	w     io.Writer
	on    bool
	next  time.Time
	shown int
}

const (
	progressAfter = time.Second
	progressEvery = 200 * time.Millisecond
)

func (p *progress) update(files, bytes int64) {
	if !p.on {
		return
	}
	now := time.Now()
	if p.next.IsZero() {
		p.next = now.Add(progressAfter)
	}
	if now.Before(p.next) {
		return
	}
	p.next = now.Add(progressEvery)
	line := fmt.Sprintf("%d files, %d MiB", files, bytes>>20)
	pad := max(0, p.shown-len(line))
	fmt.Fprintf(p.w, "\r%s%s", line, strings.Repeat(" ", pad))
	p.shown = len(line)
}

// clear takes the line away, so that another can be written.
func (p *progress) clear() {
	if p.shown > 0 {
		fmt.Fprintf(p.w, "\r%s\r", strings.Repeat(" ", p.shown))
		p.shown = 0
	}
}
