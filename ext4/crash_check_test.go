package ext4_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"syscall"

	"ext4box/ext4"
)

// A seenNode is a file as it is after a crash.
type seenNode struct {
	crashNode
	ino   ext4.Ino
	nlink uint32
}

// like tells whether attributes are as wanted. Whatever changes a file after
// its time was set may have left another.
func (a crashAttrs) like(want crashAttrs) bool {
	if want.mtime == 0 {
		a.mtime = 0
	}
	return a == want
}

// look reads an actor's directory.
func look(fs *ext4.FS, dir string) (map[string]*seenNode, error) {
	ino, err := fs.Lookup(ext4.RootIno, dir)
	if err != nil {
		return nil, err
	}
	seen := map[string]*seenNode{}
	return seen, lookAt(fs, ino, "", seen)
}

func lookAt(fs *ext4.FS, ino ext4.Ino, path string, seen map[string]*seenNode) error {
	st, err := fs.Stat(ino)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	n := &seenNode{ino: ino, nlink: st.Nlink}
	n.mode = st.Mode & syscall.S_IFMT
	n.attrs = crashAttrs{perm: st.Mode & 0o7777, uid: st.UID, gid: st.GID, mtime: st.Mtime.Unix()}
	seen[path] = n
	names, err := fs.Listxattr(ino)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	for _, name := range names {
		value, err := fs.Getxattr(ino, name)
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		if n.xattrs == nil {
			n.xattrs = map[string]string{}
		}
		n.xattrs[name] = string(value)
	}
	switch n.mode {
	case syscall.S_IFREG:
		n.data = make([]byte, st.Size)
		if got, err := fs.ReadAt(ino, n.data, 0); got < len(n.data) && err != io.EOF {
			return fmt.Errorf("%s: %w", path, err)
		}
	case syscall.S_IFLNK:
		if n.target, err = fs.Readlink(ino); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	case syscall.S_IFDIR:
		type child struct {
			name string
			ino  ext4.Ino
		}
		var children []child
		err := fs.ReadDir(ino, 0, func(e ext4.Dirent) bool {
			if s := string(e.Name); s != "." && s != ".." {
				children = append(children, child{s, e.Ino})
			}
			return true
		})
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		for _, c := range children {
			p := c.name
			if path != "" {
				p = path + "/" + c.name
			}
			if err := lookAt(fs, c.ino, p, seen); err != nil {
				return err
			}
		}
	}
	return nil
}

// judge says whether what is seen after a cut is what one of the possible
// histories of an actor left.
func (a *crashActor) judge(fs *ext4.FS, cut int64) error {
	seen, err := look(fs, a.dir)
	if err != nil {
		return err
	}
	hi := len(a.steps) - 1
	for hi > 0 && a.steps[hi].start >= cut {
		hi--
	}
	lo, floor, floors := 0, 0, map[int]int{}
	for _, p := range a.promises {
		if p.tick > cut {
			continue
		}
		hi = max(hi, p.step) // it had nothing to write
		if p.file == 0 {
			lo, floor = max(lo, p.step), max(floor, p.step)
			continue
		}
		floors[p.file] = max(floors[p.file], p.step)
		for i := p.step; i > lo; i-- {
			if s := &a.steps[i]; s.meta && s.file == p.file {
				lo = i
			}
		}
	}
	for id := range floors {
		floors[id] = max(floors[id], floor)
	}
	var reasons []error
	for i := hi; i >= lo; i-- {
		err := a.match(seen, i, hi, floor, floors)
		if err == nil {
			return nil
		}
		reasons = append(reasons, fmt.Errorf("not as after step %d (%s): %w", i, a.steps[i].what, err))
	}
	var history []string
	for i := max(lo-4, 0); i <= hi; i++ {
		history = append(history, fmt.Sprintf("%d: %s at %d", i, a.steps[i].what, a.steps[i].start))
	}
	return fmt.Errorf("%s is as at no time between steps %d and %d: %w\nhistory: %q", a.dir, lo, hi, errors.Join(reasons...), history)
}

// match compares with the state after step i, to which steps up to hi may have
// contributed data.
func (a *crashActor) match(seen map[string]*seenNode, i, hi, floor int, floors map[int]int) error {
	want := a.steps[i].tree
	if len(seen) != len(want) {
		return fmt.Errorf("there are %q instead of %q", slices.Sorted(maps.Keys(seen)), slices.Sorted(maps.Keys(want)))
	}
	links := map[int]uint32{}
	for _, w := range want {
		links[w.id]++
	}
	ids := map[ext4.Ino]int{}
	for p, w := range want {
		s := seen[p]
		switch {
		case s == nil:
			return fmt.Errorf("%s is missing", p)
		case s.mode != w.mode:
			return fmt.Errorf("%s has type %o", p, s.mode)
		case w.mode != syscall.S_IFLNK && !s.attrs.like(w.attrs):
			return fmt.Errorf("%s has %+v instead of %+v", p, s.attrs, w.attrs)
		case s.target != w.target:
			return fmt.Errorf("%s leads to %q", p, s.target)
		case !maps.Equal(s.xattrs, w.xattrs):
			return fmt.Errorf("%s has attributes %d, should have %d", p, len(s.xattrs), len(w.xattrs))
		case s.mode != syscall.S_IFDIR && s.nlink != links[w.id]:
			return fmt.Errorf("%s has %d links instead of %d", p, s.nlink, links[w.id])
		}
		if id, known := ids[s.ino]; known && id != w.id {
			return fmt.Errorf("%s is the same inode as another file", p)
		}
		ids[s.ino] = w.id
		if s.mode != syscall.S_IFREG {
			continue
		}
		from := max(floor, floors[w.id])
		if err := a.matchData(s.data, w, i, from, hi); err != nil {
			return fmt.Errorf("%s: %w", p, err)
		}
	}
	return nil
}

// content is what a file had after a step.
func (a *crashActor) content(id, step int) []byte {
	for _, n := range a.steps[step].tree {
		if n.id == id {
			return n.data
		}
	}
	return nil
}

func (a *crashActor) matchData(got []byte, w *crashNode, i, from, hi int) error {
	if i >= from && bytes.Equal(got, w.data) {
		return nil
	}
	if len(got) != len(w.data) {
		ok := false
		if i < hi {
			next := &a.steps[i+1]
			ok = next.file == w.id && next.grows && len(got) > len(w.data) && len(got) <= len(a.content(w.id, i+1))
		}
		if !ok {
			return fmt.Errorf("size is %d instead of %d", len(got), len(w.data))
		}
	}
	all := from
	// What was cut out stays out.
	for j := from + 1; j <= i; j++ {
		if s := &a.steps[j]; s.file == w.id && s.zeros[1] > 0 {
			from = j
		}
	}
	ok := make([]bool, len(got))
	var last []byte
	for j := from; j <= hi; j++ {
		s := &a.steps[j]
		if s.file == w.id && j > from {
			for k := s.zeros[0]; k < min(s.zeros[1], len(got)); k++ {
				ok[k] = ok[k] || got[k] == 0
			}
		}
		data := a.content(w.id, j)
		if len(data) == 0 || last != nil && &data[0] == &last[0] && len(data) == len(last) {
			continue
		}
		last = data
		for k := range min(len(data), len(got)) {
			ok[k] = ok[k] || got[k] == data[k]
		}
	}
	for j := all + 1; j <= hi; j++ {
		if s := &a.steps[j]; s.file == w.id && s.edges > 0 {
			a.keepEdges(got, ok, w.id, s, all, j)
		}
	}
	if k := slices.Index(ok, false); k >= 0 {
		return fmt.Errorf("byte %d of %d is %#x, which nobody wrote there between steps %d and %d", k, len(got), got[k], from, hi)
	}
	return nil
}

// keepEdges allows the parts of blocks that a step is to clear to be still as steps from one on left them.
func (a *crashActor) keepEdges(got []byte, ok []bool, id int, s *crashStep, from, to int) {
	lo, hi := s.zeros[0], min(s.zeros[1], len(got))
	head, tail := min((lo+s.edges-1)/s.edges*s.edges, hi), max(hi/s.edges*s.edges, lo)
	for j := from; j < to; j++ {
		data := a.content(id, j)
		for k := lo; k < min(hi, len(data)); k++ {
			if k < head || k >= tail {
				ok[k] = ok[k] || got[k] == data[k]
			}
		}
	}
}
