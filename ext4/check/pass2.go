package check

import (
	"cmp"
	"slices"
	"sync"
	"sync/atomic"

	"ext4box/ext4/internal/disk"
)

// pass2 examines directories: their blocks, entries and indexes. e2fsck goes
// through the first blocks of all directories, then through all others, in the
// order of the device, and then through the indexes: its findings are put into
// that order.
func (c *checker) pass2() error {
	if err := c.dirs.list(c); err != nil {
		return err
	}
	c.rep.Dirs = uint64(len(c.dirs.inos))
	if i, ok := c.dirs.place(disk.InoRoot); ok {
		c.dirs.parents[i] = disk.InoRoot
	}
	from := len(c.rep.Findings)
	if err := c.eachDir(func(s *dirScan) error { return s.directory() }); err != nil {
		return err
	}
	if err := c.sharedDirs(); err != nil {
		return err
	}
	slices.SortStableFunc(c.rep.Findings[from:], func(a, b Finding) int {
		return cmp.Or(cmp.Compare(a.stage, b.stage), cmp.Compare(a.at, b.at))
	})
	return nil
}

// eachDir calls fn for every directory, from several goroutines.
func (c *checker) eachDir(fn func(*dirScan) error) error {
	// No block belongs to two directories, unless pass 1 has said so.
	c.dirBlocks.Store(int64(min(c.geo.BlocksCount, 1<<62)))
	scans := sync.Pool{New: func() any { return newDirScan(c) }}
	return c.parallel(uint64(c.geo.Groups), "groups", func(unit uint64, b *batch) error {
		s := scans.Get().(*dirScan)
		defer scans.Put(s)
		s.b = b
		var err error
		c.inodes.each(uint32(unit), func(ino uint32, f fact) bool {
			if !f.isDir() {
				return true
			}
			if err = c.ctx.Err(); err != nil {
				return false
			}
			in, ok, e := c.inode(ino)
			if err = e; err == nil && ok && in.IsDir() {
				s.reset(in, f)
				err = fn(s)
			}
			if err == nil && c.inodes.memory.Load() > c.opt.Memory/2 {
				err = errMemory // of links that do not fit a byte
			}
			return err == nil
		})
		return err
	})
}

// sharedDirs finds out which entry a directory belongs to that has several, and
// reports the others.
func (c *checker) sharedDirs() error {
	if !c.dirs.any.Load() {
		return nil
	}
	var mu sync.Mutex
	first := map[uint32]link{}
	collect := func(f func(l link)) error {
		return c.eachDir(func(s *dirScan) error {
			s.onLink = f
			defer func() { s.onLink = nil }()
			return s.directory()
		})
	}
	err := collect(func(l link) {
		mu.Lock()
		defer mu.Unlock()
		if old, ok := first[l.ino]; !ok || l.before(&old) {
			first[l.ino] = l
		}
	})
	if err != nil {
		return err
	}
	for ino, l := range first {
		if i, ok := c.dirs.place(ino); ok && ino != disk.InoRoot {
			c.dirs.parents[i] = l.dir
		}
	}
	return c.eachDir(func(s *dirScan) error {
		s.onLink = func(l link) {
			if l == first[l.ino] && l.ino != disk.InoRoot {
				return
			}
			i, _ := c.dirs.place(l.ino)
			s.add(EntryDirLink, l.place, "entry %s in directory inode %d is a link to directory inode %d, which is in directory inode %d",
				s.quoted, l.dir, l.ino, c.dirs.parents[i])
		}
		defer func() { s.onLink = nil }()
		return s.directory()
	})
}

// link is an entry for a directory that has several.
type link struct {
	ino, dir uint32
	place    place
	off      int
}

func (l *link) before(o *link) bool {
	return cmp.Or(cmp.Compare(l.place.stage, o.place.stage), cmp.Compare(l.place.at, o.place.at), cmp.Compare(l.dir, o.dir),
		cmp.Compare(l.off, o.off)) < 0
}

// place is where something is found: the stage of pass 2, the device block or for
// what is found at the end the directory, and the directory's block.
type place struct {
	stage uint8
	at    uint64
	block uint64
}

// Stages of pass 2.
const (
	stageFirst = iota // the first block of each directory
	stageOther
	stageIndex
)

// spend takes n from what is left, and tells whether it was there.
func spend(left *atomic.Int64, n int64) bool { return left.Add(-n) >= 0 }
