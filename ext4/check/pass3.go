package check

import "ext4box/ext4/internal/disk"

// Stages of the way to the root, in pass 3.
const (
	wayUnknown = iota
	wayWalked  // on the way that is being followed
	wayKnown
)

// pass3 examines whether every directory can be reached from the root, and
// whether ".." leads back.
func (c *checker) pass3() error {
	t := &c.dirs
	root, ok := t.place(disk.InoRoot)
	return c.serial(func(b *batch) error {
		if !ok {
			b.inode(RootMissing, disk.InoRoot, "there is no root directory")
			return errStop
		}
		way := make([]uint8, len(t.inos))
		way[root] = wayKnown
		for i, ino := range t.inos {
			if i%4096 == 0 {
				if err := c.ctx.Err(); err != nil {
					return err
				}
				c.tell(uint64(i), uint64(len(t.inos)), "directories")
			}
			loop := c.wayToRoot(b, way, i)
			if t.dotdot[i] != t.parents[i] {
				b.inode(DotdotWrong, ino, "'..' of directory inode %d is inode %d instead of %d", ino, t.dotdot[i], t.parents[i])
			}
			if loop != 0 {
				// The last thing: e2fsck does not see all of these.
				b.inode(DirLoop, loop, "directory inode %d is below itself, and not below the root", loop)
			}
		}
		return nil
	})
}

// wayToRoot follows a directory's parents to one from which the way is known. It
// returns a directory that is its own parent's parent, or 0.
func (c *checker) wayToRoot(b *batch, way []uint8, i int) (loop uint32) {
	t := &c.dirs
	at := i
	for way[at] == wayUnknown {
		way[at] = wayWalked
		up, ok := t.place(t.parents[at])
		if t.parents[at] == 0 || !ok {
			b.inode(DirUnconnected, t.inos[at], "directory inode %d is in no directory (its '..' is inode %d)", t.inos[at], t.dotdot[at])
			break
		}
		if way[up] == wayWalked {
			loop = t.inos[up]
			break
		}
		at = up
	}
	for at = i; way[at] == wayWalked; {
		way[at] = wayKnown
		up, ok := t.place(t.parents[at])
		if !ok {
			break
		}
		at = up
	}
	return loop
}
