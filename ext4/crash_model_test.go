package ext4_test

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"path"
	"slices"
	"strings"
	"syscall"

	"ext4box/blockdev/blocktest"
	"ext4box/ext4"
)

// A crashNode is a file of the model. It never changes: a change makes a copy.
type crashNode struct {
	id     int
	mode   uint32
	data   []byte // of a regular file
	target string
	xattrs map[string]string
	attrs  crashAttrs
}

// crashAttrs are the attributes that an actor sets, all at once.
type crashAttrs struct {
	perm, uid, gid uint32
	mtime          int64 // in seconds; 0 when it is as the last write left it
}

// A crashTree is what an actor's directory has, by path; the actor's directory
// itself is "".
type crashTree map[string]*crashNode

// A crashStep is one operation of an actor, and what it leaves.
type crashStep struct {
	what  string
	start int64 // tick
	tree  crashTree
	file  int  // the id of the file whose content it changes
	meta  bool // a transaction knows of it, so it is behind all before it
	grows bool // the size may have any value in between
	times bool // it sets them
	touch bool // it changes them even if the filesystem does not have the operation
	zeros [2]int
	edges int // not 0: of the zeros those that do not fill a block of this size come later, as data
}

// A crashPromise says that from a tick on the steps up to one are durable: all,
// or those about one file and what was committed before them.
type crashPromise struct {
	tick int64
	step int
	file int // 0: all
}

// A crashActor works in a directory of its own and notes what it did.
type crashActor struct {
	ops      crashOps
	clock    *blocktest.Clock
	rng      *rand.Rand
	dir      string
	steps    []crashStep
	promises []crashPromise
	nextID   int
	held     []func() error // let go of files that have lost their names
	unit     int            // blocks can be put in and taken out in multiples of that
	edges    int            // not 0: who moves data clears parts of blocks, which are so large, after a hole was punched
	tiny     int
	owners   bool // files are made by, and given to, many
	values   int
}

// newCrashActor makes the actor's directory, which is durable from then on. Blocks can be put into files of fs and
// taken out in units.
func newCrashActor(fs *ext4.FS, ops crashOps, clock *blocktest.Clock, dir string, seed uint64) (*crashActor, error) {
	a := &crashActor{ops: ops, clock: clock, rng: rand.New(rand.NewPCG(seed, 77)), dir: dir, nextID: 2,
		unit: max(4096, int(fs.Info().ClusterSize))}
	if err := ops.create(dir, ext4.NewNode{Mode: syscall.S_IFDIR | 0o755}); err != nil {
		return nil, err
	}
	a.steps = []crashStep{{what: "start", tree: crashTree{"": {id: 1, mode: syscall.S_IFDIR, attrs: crashAttrs{perm: 0o755}}}}}
	return a, ops.sync()
}

func (a *crashActor) now() crashTree { return a.steps[len(a.steps)-1].tree }

// do carries an operation out and notes it. An operation that the filesystem
// does not have changes nothing. After any other error the actor must stop.
func (a *crashActor) do(s crashStep, op func() error, change func(t crashTree)) error {
	s.start = a.clock.Now()
	if err := op(); errors.Is(err, syscall.EOPNOTSUPP) {
		if s.touch {
			s.zeros, s.edges = [2]int{}, 0
			a.note(s, func(crashTree) {})
		}
		return nil
	} else if err != nil {
		a.note(s, change) // it may have been done
		return fmt.Errorf("%s: %w", s.what, err)
	}
	a.note(s, change)
	return nil
}

func (a *crashActor) note(s crashStep, change func(t crashTree)) {
	s.tree = maps.Clone(a.now())
	change(s.tree)
	if !s.times {
		s.tree.each(s.file, func(n *crashNode) { n.attrs.mtime = 0 })
	}
	a.steps = append(a.steps, s)
}

// path is where something of the actor is in the filesystem.
func (a *crashActor) path(p string) string { return path.Join(a.dir, p) }

func (a *crashActor) create(p string, mode uint32, target string) error {
	id := a.nextID
	a.nextID++
	owner := a.owner()
	return a.do(crashStep{what: "create " + p, file: id, meta: true}, func() error {
		return a.ops.create(a.path(p), ext4.NewNode{Mode: mode | 0o644, Target: target, UID: owner, GID: owner})
	}, func(t crashTree) {
		t[p] = &crashNode{id: id, mode: mode, target: target, attrs: crashAttrs{perm: 0o644, uid: owner, gid: owner}}
	})
}

// owner is somebody: mostly one of few, now and then one of very many.
func (a *crashActor) owner() uint32 {
	switch {
	case !a.owners:
		return 0
	case a.rng.IntN(3) == 0:
		return a.rng.Uint32() >> a.rng.IntN(32)
	}
	return a.rng.Uint32N(20) * 1000
}

// chown gives a file to others, and to a project, of which nothing is to be seen
// in a tree.
func (a *crashActor) chown(p string) error {
	if err := a.ops.setProject(a.path(p), a.owner()); err != nil && !errors.Is(err, syscall.EOPNOTSUPP) {
		return err
	}
	at := a.now()[p].attrs
	at.uid, at.gid, at.mtime = a.owner(), a.owner(), 1+a.rng.Int64N(1<<31-2)
	return a.setattr(p, at)
}

// tmpfile makes a file with content and only then a name for it.
func (a *crashActor) tmpfile(p string, n int) error {
	id := a.nextID
	a.nextID++
	data := a.pattern(n)
	return a.do(crashStep{what: "tmpfile " + p, file: id, meta: true}, func() error {
		return a.ops.tmpfile(a.path(p), data)
	}, func(t crashTree) {
		t[p] = &crashNode{id: id, mode: syscall.S_IFREG, data: data, attrs: crashAttrs{perm: 0o644}}
	})
}

// pattern is content that no other write has and that is nowhere zero.
func (a *crashActor) pattern(n int) []byte {
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(1 + a.rng.IntN(255))
	}
	return p
}

// each replaces a file under all its names.
func (t crashTree) each(id int, change func(n *crashNode)) {
	var c *crashNode
	for p, n := range t {
		if n.id != id {
			continue
		}
		if c == nil {
			copied := *n
			c = &copied
			change(c)
		}
		t[p] = c
	}
}

// put is old with p at off.
func put(old, p []byte, off int) []byte {
	n := make([]byte, max(len(old), off+len(p)))
	copy(n, old)
	copy(n[off:], p)
	return n
}

func (a *crashActor) write(p string, off, n int) error {
	node := a.now()[p]
	if node == nil {
		return syscall.ENOENT
	}
	data := a.pattern(n)
	s := crashStep{what: fmt.Sprintf("write %s %d+%d", p, off, n), file: node.id, grows: true, meta: off+n > len(node.data)}
	if off > len(node.data) {
		s.zeros = [2]int{len(node.data), off}
	}
	return a.do(s, func() error {
		return a.ops.write(a.path(p), data, off)
	}, func(t crashTree) { t.each(node.id, func(n *crashNode) { n.data = put(n.data, data, off) }) })
}

func (a *crashActor) truncate(p string, size int) error {
	node := a.now()[p]
	s := crashStep{what: fmt.Sprintf("truncate %s %d", p, size), file: node.id, meta: true, zeros: [2]int{min(size, len(node.data)), 1 << 30}}
	if a.edges > 0 {
		// The end of the last block is written, and then counts, before the size is set.
		s.grows = size > len(node.data)
	}
	return a.do(s, func() error { return a.ops.truncate(a.path(p), size) }, func(t crashTree) {
		t.each(node.id, func(n *crashNode) {
			data := make([]byte, size)
			copy(data, n.data)
			n.data = data
		})
	})
}

func (a *crashActor) fallocate(p string, mode uint32, off, n int) error {
	node := a.now()[p]
	s := crashStep{what: fmt.Sprintf("fallocate %s %#x %d+%d", p, mode, off, n), file: node.id, meta: true, touch: a.edges > 0}
	zero := mode&(ext4.FallocPunchHole|ext4.FallocZeroRange) != 0
	if zero {
		s.zeros, s.edges = [2]int{off, off + n}, a.edges
	}
	return a.do(s, func() error { return a.ops.fallocate(a.path(p), mode, off, n) }, func(t crashTree) {
		t.each(node.id, func(c *crashNode) {
			end := off + n
			if mode&ext4.FallocKeepSize != 0 {
				end = len(c.data)
			}
			data := make([]byte, max(len(c.data), end))
			copy(data, c.data)
			if zero {
				clear(data[min(off, len(data)):min(off+n, len(data))])
			}
			c.data = data
		})
	})
}

func (a *crashActor) unlink(p string) error {
	rmdir := a.now()[p].mode == syscall.S_IFDIR
	return a.do(crashStep{what: "remove " + p, meta: true}, func() error {
		if rmdir {
			return a.ops.rmdir(a.path(p))
		}
		return a.ops.unlink(a.path(p))
	}, func(t crashTree) { delete(t, p) })
}

// hold keeps a file that is about to lose its name.
func (a *crashActor) hold(p string) error {
	release, err := a.ops.hold(a.path(p))
	if err == nil {
		a.held = append(a.held, release)
	}
	return err
}

// release lets go of the file that was held first.
func (a *crashActor) release() error {
	release := a.held[0]
	a.held = a.held[1:]
	return release()
}

func (a *crashActor) link(p, to string) error {
	node := a.now()[p]
	return a.do(crashStep{what: "link " + p + " " + to, file: node.id, meta: true},
		func() error { return a.ops.link(a.path(p), a.path(to)) },
		func(t crashTree) { t[to] = t[p] })
}

func (a *crashActor) rename(p, to string, flags uint32) error {
	s := crashStep{what: fmt.Sprintf("rename %s %s %d", p, to, flags), file: a.now()[p].id, meta: true}
	whiteout := 0
	if flags&ext4.RenameWhiteout != 0 {
		whiteout = a.nextID
		a.nextID++
	}
	if t := a.now()[to]; t != nil && t.id == a.now()[p].id {
		s.meta = false
	}
	return a.do(s, func() error {
		return a.ops.rename(a.path(p), a.path(to), flags)
	}, func(t crashTree) {
		if o := t[to]; o != nil && o.id == t[p].id {
			return
		}
		from, onto := t.take(p), t.take(to)
		if flags&ext4.RenameExchange != 0 {
			t.give(p, onto)
		}
		t.give(to, from)
		if whiteout != 0 {
			t[p] = &crashNode{id: whiteout, mode: syscall.S_IFCHR}
		}
	})
}

// take removes a subtree, whose paths it returns relative to p.
func (t crashTree) take(p string) crashTree {
	sub := crashTree{}
	for q, n := range t {
		if q == p || strings.HasPrefix(q, p+"/") {
			sub[strings.TrimPrefix(q, p)] = n
			delete(t, q)
		}
	}
	return sub
}

func (t crashTree) give(p string, sub crashTree) {
	for q, n := range sub {
		t[p+q] = n
	}
}

func (a *crashActor) setxattr(p, name string, n int) error {
	node := a.now()[p]
	value := a.pattern(n)
	return a.do(crashStep{what: "setxattr " + p, file: node.id, meta: true},
		func() error { return a.ops.setxattr(a.path(p), name, value) },
		func(t crashTree) {
			t.each(node.id, func(n *crashNode) {
				n.xattrs = maps.Clone(n.xattrs)
				if n.xattrs == nil {
					n.xattrs = map[string]string{}
				}
				n.xattrs[name] = string(value)
			})
		})
}

func (a *crashActor) removexattr(p, name string) error {
	node := a.now()[p]
	if _, has := node.xattrs[name]; !has {
		return nil
	}
	return a.do(crashStep{what: "removexattr " + p, file: node.id, meta: true},
		func() error { return a.ops.removexattr(a.path(p), name) },
		func(t crashTree) {
			t.each(node.id, func(n *crashNode) {
				n.xattrs = maps.Clone(n.xattrs)
				delete(n.xattrs, name)
			})
		})
}

// setattr changes mode, owner and time of a file, in one go where that is possible.
func (a *crashActor) setattr(p string, at crashAttrs) error {
	node := a.now()[p]
	step := func(left crashAttrs, op func() error) error {
		if node.mode == syscall.S_IFDIR {
			left.mtime = 0 // its names come and go
		}
		return a.do(crashStep{what: "setattr " + p, file: node.id, meta: true, times: true}, op,
			func(t crashTree) { t.each(node.id, func(n *crashNode) { n.attrs = left }) })
	}
	atOnce := false
	err := step(at, func() (err error) {
		if atOnce, err = a.ops.setattr(a.path(p), at); !atOnce && err == nil {
			err = syscall.EOPNOTSUPP // and nothing to be noted
		}
		return err
	})
	if atOnce || err != nil {
		return err
	}
	now := node.attrs
	now.uid, now.gid = at.uid, at.gid
	if err := step(now, func() error { return a.ops.chown(a.path(p), at.uid, at.gid) }); err != nil {
		return err
	}
	now.perm = at.perm
	if err := step(now, func() error { return a.ops.chmod(a.path(p), at.perm) }); err != nil {
		return err
	}
	return step(at, func() error { return a.ops.utime(a.path(p), at.mtime) })
}

// shift takes n bytes out of a file, or puts a hole of as many in; both in whole
// units.
func (a *crashActor) shift(p string, mode uint32, off, n int) error {
	node := a.now()[p]
	s := crashStep{what: fmt.Sprintf("fallocate %s %#x %d+%d", p, mode, off, n), file: node.id, meta: true, zeros: [2]int{off, off + n}}
	return a.do(s, func() error { return a.ops.fallocate(a.path(p), mode, off, n) }, func(t crashTree) {
		t.each(node.id, func(c *crashNode) {
			if mode == ext4.FallocCollapseRange {
				c.data = slices.Delete(bytes.Clone(c.data), off, off+n)
			} else {
				c.data = slices.Insert(bytes.Clone(c.data), off, make([]byte, n)...)
			}
		})
	})
}

// fsync makes a file durable and notes what that promises: what was done to the
// file, and before that was done.
func (a *crashActor) fsync(p string) error {
	id := a.now()[p].id
	if err := a.ops.fsync(a.path(p)); err != nil {
		return fmt.Errorf("fsync %s: %w", p, err)
	}
	a.promises = append(a.promises, crashPromise{a.clock.Now(), len(a.steps) - 1, id})
	return nil
}

func (a *crashActor) sync() error {
	if err := a.ops.sync(); err != nil {
		return fmt.Errorf("sync: %w", err)
	}
	a.promiseAll()
	return nil
}

func (a *crashActor) promiseAll() {
	a.promises = append(a.promises, crashPromise{a.clock.Now(), len(a.steps) - 1, 0})
}

// pick returns a path of the given type, or nothing.
func (a *crashActor) pick(mode uint32) string {
	var all []string
	for p, n := range a.now() {
		if n.mode == mode && (p != "" || mode == syscall.S_IFDIR) {
			all = append(all, p)
		}
	}
	if len(all) == 0 {
		return ""
	}
	slices.Sort(all)
	return all[a.rng.IntN(len(all))]
}

// fresh is a path that may be taken.
func (a *crashActor) fresh(prefix string) string {
	for {
		p := path.Join(a.pick(syscall.S_IFDIR), fmt.Sprintf("%s%d", prefix, a.rng.IntN(40)))
		if strings.Count(p, "/") < 4 {
			return p
		}
	}
}

// amount is a number below n, or a small one.
func (a *crashActor) amount(n int) int {
	if a.tiny > 0 && a.rng.IntN(2) == 0 {
		n = min(n, a.tiny)
	}
	return a.rng.IntN(n)
}

// random does one random operation.
func (a *crashActor) random() error {
	t, rng := a.now(), a.rng
	file := a.pick(syscall.S_IFREG)
	if file == "" || len(t) < 4 {
		p := a.fresh("f")
		if t[p] != nil {
			return nil
		}
		return a.create(p, syscall.S_IFREG, "")
	}
	if a.owners && rng.IntN(10) == 0 {
		return a.chown(file)
	}
	size := len(t[file].data)
	switch k := rng.IntN(100); {
	case k < 12:
		if p := a.fresh("f"); t[p] == nil && len(t) < 60 {
			return errors.Join(a.create(p, syscall.S_IFREG, ""), a.write(p, 0, 1+a.amount(20000)))
		}
	case k < 22:
		if size < 150000 {
			return a.write(file, size, 1+a.amount(30000))
		}
	case k < 32:
		return a.write(file, rng.IntN(size+1), 1+a.amount(10000))
	case k < 36:
		return a.write(file, size+a.amount(50000), 1+a.amount(5000))
	case k < 44:
		return a.truncate(file, a.amount(size+20000))
	case k < 50:
		mode := []uint32{0, ext4.FallocKeepSize, ext4.FallocPunchHole | ext4.FallocKeepSize, ext4.FallocZeroRange}[rng.IntN(4)]
		return a.fallocate(file, mode, rng.IntN(size+1), 1+rng.IntN(40000))
	case k < 55:
		if d := a.fresh("d"); t[d] == nil && len(t) < 60 {
			return a.create(d, syscall.S_IFDIR, "")
		}
	case k < 62:
		if rng.IntN(3) == 0 && len(a.held) < 10 {
			if err := a.hold(file); err != nil {
				return err
			}
		}
		return a.unlink(file)
	case k < 65:
		if d := a.pick(syscall.S_IFDIR); d != "" && len(maps.Clone(t).take(d)) == 1 {
			return a.unlink(d)
		}
	case k < 72: // over an existing file, or exchanging with it
		flags := uint32(0)
		if rng.IntN(4) == 0 {
			flags = ext4.RenameExchange
		}
		return a.rename(file, a.pick(syscall.S_IFREG), flags)
	case k < 76:
		if p := a.fresh("r"); t[p] == nil {
			return a.rename(file, p, 0)
		}
	case k < 80:
		d, p := a.pick(syscall.S_IFDIR), a.fresh("m")
		if d != "" && t[p] == nil && p != d && !strings.HasPrefix(p, d+"/") {
			return a.rename(d, p, 0)
		}
	case k < 84:
		if p := a.fresh("l"); t[p] == nil {
			return a.link(file, p)
		}
	case k < 86:
		if p := a.fresh("s"); t[p] == nil {
			return a.create(p, syscall.S_IFLNK, string(bytes.Repeat([]byte("t"), 1+rng.IntN(200))))
		}
	case k < 89 && rng.IntN(2) == 0:
		at := crashAttrs{perm: uint32(rng.IntN(0o1000)), uid: uint32(rng.IntN(70000)), gid: uint32(rng.IntN(70000)), mtime: 1 + rng.Int64N(1<<31-2)}
		return a.setattr(a.pick([]uint32{syscall.S_IFREG, syscall.S_IFDIR}[rng.IntN(2)]), at)
	case k < 89:
		mode, off, n := uint32(ext4.FallocCollapseRange), a.unit*rng.IntN(size/a.unit+1), a.unit*(1+rng.IntN(4))
		if rng.IntN(2) == 0 {
			mode = ext4.FallocInsertRange
		}
		if mode == ext4.FallocCollapseRange && off+n < size || mode == ext4.FallocInsertRange && off < size && size < 150000 {
			// What is written in place after it goes to where it is then, which
			// is only after the commit what the model says.
			return errors.Join(a.shift(file, mode, off, n), a.fsync(file))
		}
	case k < 90 && rng.IntN(3) == 0:
		if p := a.fresh("w"); t[p] == nil && len(t) < 60 {
			return a.rename(file, p, ext4.RenameWhiteout)
		}
	case k < 90:
		if rng.IntN(4) == 0 {
			return a.removexattr(file, fmt.Sprintf("user.x%d", rng.IntN(3)))
		}
		n := 250
		if a.values > 0 && rng.IntN(2) == 0 {
			n = a.values
		}
		return a.setxattr(file, fmt.Sprintf("user.x%d", rng.IntN(3)), 1+rng.IntN(n))
	case k < 92:
		if p := a.fresh("t"); t[p] == nil {
			return a.tmpfile(p, 1+a.amount(9000))
		}
	case k < 98:
		return a.fsync(file)
	case k < 99:
		return a.sync()
	case len(a.held) > 0:
		return a.release()
	}
	return nil
}
