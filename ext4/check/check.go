package check

import (
	"cmp"
	"context"
	"runtime"
	"slices"

	"ext4box/blockdev"
)

// DefaultMemory is the default of Options.Memory, in bytes.
const DefaultMemory = 256 << 20

// Options say how to check.
type Options struct {
	// Journal is the device of an external journal, or nil.
	Journal blockdev.Device

	// Progress, if set, is told now and then how far the check is, from one
	// goroutine at a time.
	Progress func(Progress)

	Workers  int   // goroutines that read and examine; 0: one for each processor, at most 8
	Memory   int64 // bound on what the check remembers, in bytes; 0: DefaultMemory
	Findings int   // how many findings to keep; 0: 10,000
}

// Progress is how far a check is.
type Progress struct {
	Pass  int
	Done  uint64 // of Total
	Total uint64
	Unit  string // what Done counts, as in "groups"
}

// Finding is one thing that is wrong.
type Finding struct {
	Pass  int    `json:"pass"`
	Class Class  `json:"class"`
	Ino   uint32 `json:"inode,omitempty"`
	Block uint64 `json:"block,omitempty"`
	Group *int64 `json:"group,omitempty"` // nil where no group is meant
	Text  string `json:"text"`

	// Minor findings are worth a word, but leave the filesystem clean.
	Minor bool `json:"minor,omitempty"`

	stage uint8 // of pass 2, and where in it: see pass2
	at    uint64
	once  uint64 // attribute block, see batch
}

// Report is the outcome of a check.
type Report struct {
	Findings []Finding     // the first ones, in the order of passes
	Total    uint64        // of findings, also those that were not kept
	Errors   uint64        // of Total, those that are not minor
	Classes  map[Class]int // how many of each, kept or not
	Warnings []string      // what is no damage but limits what the check means

	Inodes, InodesUsed uint64
	Blocks, BlocksUsed uint64
	Dirs               uint64
	// Scans is how often the inodes were read for the blocks that they claim: more than once
	// where the claims do not fit the memory.
	Scans  int
	Passes int // that were completed, 6 unless the check stopped at damage
}

// Clean tells whether nothing was found, or only what is minor.
func (r *Report) Clean() bool { return r.Errors == 0 }

// Exit statuses of fsck(8).
const (
	ExitClean     = 0
	ExitErrors    = 4  // errors left uncorrected
	ExitFailure   = 8  // operational error
	ExitUsage     = 16 // usage or syntax error
	ExitCancelled = 32
)

// ExitStatus is the status of fsck(8) for what Check returned.
func ExitStatus(r *Report, err error) int {
	switch {
	case isCancel(err):
		return ExitCancelled
	case err != nil:
		return ExitFailure
	case r != nil && r.Passes < passes:
		return ExitFailure | ExitErrors
	case r != nil && !r.Clean():
		return ExitErrors
	}
	return ExitClean
}

// Check examines the filesystem on dev. The report is also returned, as far as it
// goes, with an error.
func Check(ctx context.Context, dev blockdev.Device, o Options) (*Report, error) {
	if o.Workers <= 0 {
		o.Workers = min(runtime.GOMAXPROCS(0), 8)
	}
	if o.Memory <= 0 {
		o.Memory = DefaultMemory
	}
	if o.Findings <= 0 {
		o.Findings = 10_000
	}
	c := newChecker(ctx, dev, o)
	err := c.run()
	return c.rep, err
}

// passes is how many there are.
const passes = 6

// run does the passes one after the other.
func (c *checker) run() error {
	for pass, f := range []func() error{c.pass0, c.pass1, c.pass2, c.pass3, c.pass4, c.pass5} {
		c.pass = pass
		if err := f(); err != nil {
			if err == errStop {
				return nil
			}
			return err
		}
		if err := c.ctx.Err(); err != nil {
			return err
		}
		c.rep.Passes = pass + 1
	}
	if c.nodesCut.Load() {
		c.warn("nodes of block maps are shared so often that not all were followed")
	}
	// Where the claims take several scans, pass 5 finds what belongs to pass 1.
	slices.SortStableFunc(c.rep.Findings, func(a, b Finding) int { return cmp.Compare(a.Pass, b.Pass) })
	return nil
}
