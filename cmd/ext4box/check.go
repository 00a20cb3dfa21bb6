package main

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"ext4box/blockdev"
	"ext4box/ext4/check"
	"ext4box/sandbox"
)

type checkOptions struct {
	offset, sizeLimit byteCount
	journal           string
	memory            byteCount
	workers           int
	findings          int
	json              bool
	quiet, verbose    bool
	progress          bool
	sandbox           sandbox.Mode
}

func newCheckCommand() *cobra.Command {
	o := checkOptions{sandbox: sandbox.BestEffort}
	cmd := &cobra.Command{
		Use:   "check IMAGE",
		Short: "Look for damage in an image, without changing it",
		Long: `Look for damage in an image, as "e2fsck -fn" does, without changing it. The exit
status is that of fsck(8): 0 nothing is wrong, 4 something is, 8 the image could
not be read, 16 the command cannot be understood, 32 interrupted.`,
		Example: `  ext4box check disk.img@p2
  ext4box check --json disk.img | jq -r '.findings[].class'`,
		Args: checkUsage(argCount(1, 1)),
		RunE: func(cmd *cobra.Command, args []string) error { return runCheck(cmd, args[0], o) },
	}
	cmd.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return &statusError{check.ExitUsage, fmt.Errorf("%w; see '%s --help'", err, cmd.CommandPath())}
	})
	f := cmd.Flags()
	f.BoolVar(&o.json, "json", false, "write a JSON object")
	f.BoolVarP(&o.quiet, "quiet", "q", false, "only the exit status says what was found")
	f.BoolVarP(&o.verbose, "verbose", "v", false, "show how many findings there are of each class")
	f.BoolVarP(&o.progress, "progress", "C", false, "show how far the check is also if stderr is no terminal")
	f.IntVarP(&o.workers, "jobs", "j", 0, "how many `N` block groups are examined at a time; 0 is as many as there are processors")
	o.memory = check.DefaultMemory
	f.Var(&o.memory, "memory", "how many `BYTES` the check may remember")
	f.IntVar(&o.findings, "max-findings", 10_000, "show up to `N` findings; the others are counted")
	f.StringVar((*string)(&o.sandbox), "sandbox", string(o.sandbox), "how much of its box the check must have: `on`, best-effort or off")
	o.addImageFlags(f)
	return cmd
}

// addImageFlags are those of imageOptions that say where the file system is. A
// check does not replay a journal, and finds a superblock by itself.
func (o *checkOptions) addImageFlags(f *pflag.FlagSet) {
	f.Var(&o.offset, "offset", "where in IMAGE the file system begins, in `BYTES` (1M, 0x100000)")
	f.Var(&o.sizeLimit, "sizelimit", "length of the file system in `BYTES`; 0 is all there is")
	f.StringVar(&o.journal, "journal", "", "the external journal, if there is one, is in this `IMAGE`")
}

// newFsckHelperCommand is what fsck(8) calls for file systems of the type
// fuse.ext4box: fsck.fuse.ext4box [-anprfyvVdtT] [-C FD] IMAGE. Whatever it is asked
// to do about damage, it only looks.
func newFsckHelperCommand() *cobra.Command {
	o := checkOptions{sandbox: sandbox.BestEffort}
	var fd string
	cmd := &cobra.Command{
		Use: "fsck.fuse.ext4box IMAGE", Hidden: true, Args: checkUsage(argCount(1, 1)),
		RunE: func(cmd *cobra.Command, args []string) error { return runCheck(cmd, args[0], o) },
	}
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error {
		return &statusError{check.ExitUsage, err}
	})
	f := cmd.Flags()
	f.BoolVarP(&o.verbose, "verbose", "v", false, "")
	f.StringVarP(&fd, "progress", "C", "", "")
	o.memory = check.DefaultMemory
	ignoreFlags(cmd, "anprfydtTV", "")
	return cmd
}

// statusError ends the program with a status of its own.
type statusError struct {
	status int
	error
}

func (e *statusError) Unwrap() error { return e.error }

// checkUsage gives mistakes in the arguments fsck's status.
func checkUsage(args cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, words []string) error {
		if err := args(cmd, words); err != nil {
			return &statusError{check.ExitUsage, err}
		}
		return nil
	}
}

// checkJSON is what check --json writes.
type checkJSON struct {
	Image       string              `json:"image"`
	Status      int                 `json:"status"`
	Clean       bool                `json:"clean"`
	Complete    bool                `json:"complete"` // nothing was left out
	Total       uint64              `json:"total"`    // of findings
	Errors      uint64              `json:"errors"`   // of these, those that are not minor
	Findings    []check.Finding     `json:"findings"`
	Classes     map[check.Class]int `json:"classes"`
	Warnings    []string            `json:"warnings"`
	Inodes      uint64              `json:"inodes"`
	InodesUsed  uint64              `json:"inodes_used"`
	Blocks      uint64              `json:"blocks"`
	BlocksUsed  uint64              `json:"blocks_used"`
	Directories uint64              `json:"directories"`
}

func runCheck(cmd *cobra.Command, image string, o checkOptions) error {
	stderr := cmd.ErrOrStderr()
	failed := func(err error) error { return &statusError{check.ExitFailure, err} }
	if o.workers < 0 || o.findings < 0 || o.memory < 1<<20 {
		return &statusError{check.ExitUsage, errors.New("--jobs and --max-findings cannot be negative, --memory not below 1M")}
	}
	if _, err := sandbox.ParseMode(string(o.sandbox)); err != nil {
		return &statusError{check.ExitUsage, err}
	}
	dev, warning, err := openChecked(image, &o)
	if err != nil {
		return failed(err)
	}
	defer dev.Close()
	var journal blockdev.Device
	if o.journal != "" {
		path, partition := blockdev.ParseSpec(o.journal)
		if journal, err = blockdev.Open(path, blockdev.Options{ReadOnly: true, Partition: partition}); err != nil {
			return failed(fmt.Errorf("external journal: %w", err))
		}
		defer journal.Close()
	}
	// From here on the image is read, by a process that can do nothing but that and
	// write what it has found. It has no namespaces of its own, and is not put there
	// with less than it asks for because of that.
	if _, _, err := sandbox.Enter(sandbox.Options{Mode: o.sandbox, Service: true}); err != nil {
		return failed(err)
	}
	ctx, stop := interruptible()
	defer stop()
	p := progress{w: stderr, on: !o.quiet && (o.progress || isTerminal(stderr))}
	report, err := check.Check(ctx, dev, check.Options{
		Journal: journal, Progress: p.checked,
		Workers: o.workers, Memory: int64(o.memory), Findings: o.findings,
	})
	p.clear()
	status := check.ExitStatus(report, err)
	if status == check.ExitCancelled && report.Total > 0 {
		status |= check.ExitErrors
	}
	if warning != "" {
		report.Warnings = append([]string{warning}, report.Warnings...)
	}
	if perr := printReport(cmd, image, report, status, &o); perr != nil {
		return failed(perr)
	}
	switch {
	case status == check.ExitClean:
		return nil
	case err == nil:
		return &statusError{status, errSilent}
	case context.Cause(ctx) != nil:
		err = context.Cause(ctx)
	}
	return &statusError{status, fmt.Errorf("%s: %w", image, err)}
}

// openChecked opens an image. Like e2fsck it looks also at one that is in use, and
// warns that what it finds may be what is just being changed.
func openChecked(image string, o *checkOptions) (dev blockdev.Device, warning string, err error) {
	path, partition := blockdev.ParseSpec(image)
	opts := blockdev.Options{
		ReadOnly: true, Lock: blockdev.LockShared, Partition: partition, Buffered: true,
		Offset: int64(o.offset), SizeLimit: int64(o.sizeLimit),
	}
	dev, err = blockdev.Open(path, opts)
	if errors.Is(err, unix.EBUSY) {
		warning = image + " is in use: what is found may be in the middle of a change"
		opts.Lock = blockdev.LockNone
		dev, err = blockdev.Open(path, opts)
	}
	return dev, warning, err
}

// passNames are what the passes look at.
var passNames = []string{
	"superblock, descriptors and journal", "inodes, blocks and sizes", "structure of directories",
	"connectivity of directories", "link counts", "bitmaps and free space",
}

func printReport(cmd *cobra.Command, image string, r *check.Report, status int, o *checkOptions) error {
	out := bufio.NewWriter(cmd.OutOrStdout())
	switch {
	case o.json:
		j := checkJSON{
			Image: strings.ToValidUTF8(image, "\uFFFD"), Status: status, Clean: r.Clean() && status == check.ExitClean,
			Complete: r.Passes == len(passNames) && status&^check.ExitErrors == 0,
			Total:    r.Total, Errors: r.Errors, Findings: append([]check.Finding{}, r.Findings...), Classes: r.Classes,
			Warnings: append([]string{}, r.Warnings...),
			Inodes:   r.Inodes, InodesUsed: r.InodesUsed, Blocks: r.Blocks, BlocksUsed: r.BlocksUsed, Directories: r.Dirs,
		}
		if err := printJSON(out, j); err != nil {
			return err
		}
	case !o.quiet:
		printFindings(out, image, r, status, o.verbose)
	}
	return out.Flush()
}

func printFindings(w io.Writer, image string, r *check.Report, status int, verbose bool) {
	for _, text := range r.Warnings {
		fmt.Fprintf(w, "Warning: %s\n", printable(text))
	}
	list := r.Findings
	for pass, name := range passNames {
		begun := pass <= r.Passes
		if !begun {
			break
		}
		fmt.Fprintf(w, "Pass %d: %s\n", pass, name)
		for len(list) > 0 && list[0].Pass == pass {
			fmt.Fprintf(w, "%s\n", printable(sentence(list[0].Text)))
			list = list[1:]
		}
	}
	if more := r.Total - uint64(len(r.Findings)); more > 0 {
		fmt.Fprintf(w, "%d more findings are not shown\n", more)
	}
	if verbose && !r.Clean() {
		fmt.Fprintln(w)
		printClasses(w, r.Classes)
	}
	name := printable(image)
	switch {
	case status&(check.ExitFailure|check.ExitCancelled) != 0:
		fmt.Fprintf(w, "\n%s: the check is incomplete\n", name)
	case r.Passes < len(passNames):
		fmt.Fprintf(w, "\n%s: ********** the damage leaves no basis for the rest of the check **********\n", name)
	}
	if !r.Clean() {
		fmt.Fprintf(w, "\n%s: ********** problems: %d; e2fsck can repair them **********\n", name, r.Errors)
	}
	if r.Passes == len(passNames) {
		fmt.Fprintf(w, "%s: %d/%d files, %d/%d blocks, %d directories\n", name, r.InodesUsed, r.Inodes, r.BlocksUsed, r.Blocks, r.Dirs)
	}
}

// printClasses lists how many findings there are of each class, the most first.
func printClasses(w io.Writer, classes map[check.Class]int) {
	for _, class := range slices.SortedFunc(maps.Keys(classes), func(a, b check.Class) int {
		return cmp.Or(classes[b]-classes[a], strings.Compare(string(a), string(b)))
	}) {
		fmt.Fprintf(w, "%8d %s\n", classes[class], class)
	}
}

// sentence begins a text with a capital letter.
func sentence(s string) string {
	if s != "" && s[0] >= 'a' && s[0] <= 'z' {
		return string(s[0]-'a'+'A') + s[1:]
	}
	return s
}
