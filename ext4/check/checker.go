package check

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"ext4box/blockdev"
	"ext4box/ext4/internal/disk"
)

// errMemory ends a check that would need more memory than it may have.
var errMemory = errors.New("the filesystem has more inodes in use than fit the memory allowed: allow more")

// errStop ends a check that damage leaves no basis for; the report says why.
var errStop = errors.New("the damage leaves nothing to check")

// checker is one check. Beside what says otherwise, its fields are set by pass 0
// and only read afterwards.
type checker struct {
	ctx  context.Context
	dev  blockdev.Device
	opt  Options
	rep  *Report
	pass int // that is running

	sb      disk.Superblock
	sbRaw   []byte // as stored
	sbBlock uint64 // of the superblock in use: not the primary if that is unusable
	geo     disk.Geometry
	sums    disk.Checksums
	hurd    bool

	dirs         dirTable
	dirBlocks    atomic.Int64 // blocks of directories that may still be examined
	dirsCut      bool         // those were not enough
	descs        descTable
	inodes       inodeTable // facts, from pass 1
	claims       *blockSet  // clusters that something claims, from pass 1
	meta         *blockSet  // those of superblocks, descriptors, bitmaps and inode tables
	nodes        *blockSet  // those that hold pointers or extents
	claimedTwice *blockSet

	badDescs  groupList // groups whose descriptor has a wrong checksum
	resizeBad bool      // the resize inode is not what it should be
	xattrs    xattrTable
	quota     quotaTable

	sharedNodes atomic.Int64 // how often nodes of other inodes were followed
	looseNodes  atomic.Int64 // how many nodes that the set of them does not cover
	nodesCut    atomic.Bool  // not all nodes were followed
}

func newChecker(ctx context.Context, dev blockdev.Device, o Options) *checker {
	return &checker{ctx: ctx, dev: dev, opt: o, rep: &Report{Classes: map[Class]int{}}}
}

// batch collects what one unit of a pass finds.
type batch struct {
	c      *checker
	list   []Finding
	total  uint64
	errors uint64        // of total, those that are not minor
	more   map[Class]int // findings that are only counted
	limit  int           // of list
	done   []func()

	once uint64 // what is found is to be told once of this attribute block, unless 0

	// Findings of pass 1 that are put off, see putOff.
	off    bool
	key    uint64
	begin  int // of list, from where on it is not in order
	offNum int // inodes that were put off since
}

// putOffMax is how many inodes e2fsck puts off until it goes on with them.
const putOffMax = 256

// putOff has the findings from here on come behind those of other inodes, ordered by
// the inode's indirect and attribute blocks, as in e2fsck.
func (b *batch) putOff(indirect, acl uint32) {
	const sign = 1 << 31 // it compares the differences of these as signed numbers
	b.off, b.key = true, uint64(indirect^sign)<<32|uint64(acl^sign)
	b.offNum++
}

// putOffEnd ends what putOff began.
func (b *batch) putOffEnd() {
	b.off = false
	if b.offNum >= putOffMax {
		b.putOn()
	}
}

// putOn puts what was put off into its place.
func (b *batch) putOn() {
	slices.SortStableFunc(b.list[b.begin:], func(x, y Finding) int {
		return cmp.Or(cmp.Compare(x.stage, y.stage), cmp.Compare(x.at, y.at))
	})
	b.begin, b.offNum = len(b.list), 0
}

// add reports a finding of the pass that is running.
func (b *batch) add(f Finding) {
	f.Pass = b.c.pass
	b.total++
	if !f.Minor {
		b.errors++
	}
	f.once = b.once
	if b.off {
		f.stage, f.at = 1, b.key
	}
	if len(b.list) < b.limit {
		b.list = append(b.list, f)
		return
	}
	if b.more == nil {
		b.more = map[Class]int{}
	}
	b.more[f.Class]++
}

// inode reports a finding about an inode.
func (b *batch) inode(class Class, ino uint32, format string, args ...any) {
	b.add(Finding{Class: class, Ino: ino, Text: fmt.Sprintf(format, args...)})
}

// block reports a finding about a block of an inode.
func (b *batch) block(class Class, ino uint32, blk uint64, format string, args ...any) {
	b.add(Finding{Class: class, Ino: ino, Block: blk, Text: fmt.Sprintf(format, args...)})
}

// group reports a finding about a block group.
func (b *batch) group(class Class, group uint32, format string, args ...any) {
	g := int64(group)
	b.add(Finding{Class: class, Group: &g, Text: fmt.Sprintf(format, args...)})
}

// fs reports a finding about the filesystem as a whole.
func (b *batch) fs(class Class, format string, args ...any) {
	b.add(Finding{Class: class, Text: fmt.Sprintf(format, args...)})
}

// minor reports what does not make the filesystem unclean.
func (b *batch) minor(class Class, format string, args ...any) {
	b.add(Finding{Class: class, Minor: true, Text: fmt.Sprintf(format, args...)})
}

// minorGroup is minor about a block group.
func (b *batch) minorGroup(class Class, group uint32, format string, args ...any) {
	g := int64(group)
	b.add(Finding{Class: class, Group: &g, Minor: true, Text: fmt.Sprintf(format, args...)})
}

// later has fn called when the findings are merged, in the order of units.
func (b *batch) later(fn func()) { b.done = append(b.done, fn) }

// merge moves what b has to the report.
func (c *checker) merge(b *batch) {
	for _, f := range b.list {
		if f.once != 0 && !c.xattrs.first(f.once, f.Ino) {
			b.total--
			b.errors--
			continue
		}
		c.rep.Classes[f.Class]++
		if len(c.rep.Findings) < c.opt.Findings {
			c.rep.Findings = append(c.rep.Findings, f)
		}
	}
	for class, n := range b.more {
		c.rep.Classes[class] += n
	}
	c.rep.Total += b.total
	c.rep.Errors += b.errors
	for _, fn := range b.done {
		fn()
	}
}

// serial runs a part of a pass that is not divided.
func (c *checker) serial(f func(*batch) error) error {
	b := &batch{c: c, limit: c.opt.Findings}
	err := f(b)
	c.merge(b)
	return err
}

// parallel has workers examine the units 0 to n-1 of a pass, and merges what they
// find in that order. what names a unit for the progress. After an error no
// further unit begins.
func (c *checker) parallel(n uint64, what string, work func(unit uint64, b *batch) error) error {
	type result struct {
		b   *batch
		err error
	}
	// A worker that is ahead waits: unmerged results are bounded, and so is each.
	ahead := c.opt.Workers * 4
	limit := max(c.opt.Findings/int(min(max(n, 1), 16)), 100)
	results := make([]chan result, ahead)
	for i := range results {
		results[i] = make(chan result, 1)
	}
	ctx, stop := context.WithCancel(c.ctx)
	defer stop()
	units := make(chan uint64)
	slots := make(chan struct{}, ahead)
	go func() {
		defer close(units)
		for unit := range n {
			select {
			case slots <- struct{}{}:
			case <-ctx.Done():
				return
			}
			select {
			case units <- unit:
			case <-ctx.Done():
				return
			}
		}
	}()
	var wg sync.WaitGroup
	for range c.opt.Workers {
		wg.Go(func() {
			for unit := range units {
				b := &batch{c: c, limit: limit}
				err := work(unit, b)
				b.putOn()
				results[unit%uint64(ahead)] <- result{b, err}
			}
		})
	}
	defer wg.Wait()
	defer stop()
	for unit := range n {
		select {
		case r := <-results[unit%uint64(ahead)]:
			c.merge(r.b)
			if r.err != nil {
				return r.err
			}
			<-slots
		case <-c.ctx.Done():
			return c.ctx.Err()
		}
		c.tell(unit+1, n, what)
	}
	return nil
}

// tell reports progress.
func (c *checker) tell(done, total uint64, unit string) {
	if c.opt.Progress == nil || done != total && done%max(total/256, 1) != 0 {
		return
	}
	c.opt.Progress(Progress{Pass: c.pass, Done: done, Total: total, Unit: unit})
}

func (c *checker) warn(format string, args ...any) {
	c.rep.Warnings = append(c.rep.Warnings, fmt.Sprintf(format, args...))
}

func sprintf(format string, args ...any) string { return fmt.Sprintf(format, args...) }

func isCancel(err error) bool {
	return errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}
