package ext4

import (
	"errors"
	"fmt"
	"slices"
	"syscall"

	"ext4box/ext4/internal/disk"
	"ext4box/ext4/internal/extent"
	"ext4box/ext4/internal/journal"
	"ext4box/ext4/internal/xattr"
	"ext4box/iomap"
)

// Inline data is content that an inode keeps in itself: in its block area and,
// what does not fit there, in the attribute system.data, which exists also when
// it is empty, and is always in the inode. So it is metadata, and every change of
// it is one of the inode in the journal. Content that outgrows the inode moves
// to a block, with the size that it had, in a transaction of its own; it does
// not move back.

// startInline decides whether the content of a new inode, which will have these
// attributes, is inline: of a directory from the beginning, of a file with the
// first data.
func (fs *FS) startInline(in *inode, attrs []xattr.Attr) {
	if fs.sb.Incompat&disk.IncompatInlineData == 0 || in.ExtraIsize == 0 {
		return
	}
	switch in.Type() {
	case disk.ModeReg:
		in.mayInline = true
	case disk.ModeDir:
		// As in the kernel, ACLs that fit into the inode have precedence.
		room := xattr.InodeRoom(int(fs.geo.InodeSize), in.ExtraIsize)
		inside := append(slices.Clone(attrs[:xattr.Fit(attrs, room)]), inlineAttr(nil))
		if xattr.Fit(inside, room) == len(inside) {
			clear(in.Block[:])
			in.setInline()
		}
	}
}

// setInline says that the block area of an inode holds content.
func (in *inode) setInline() {
	in.Flags = in.Flags&^(disk.FlagExtents|disk.FlagIndex) | disk.FlagInlineData
}

// initMap makes the block area of an inode an empty map.
func (fs *FS) initMap(in *inode) {
	in.Flags &^= disk.FlagInlineData | disk.FlagExtents | disk.FlagIndex
	m := fs.blockMap(in)
	m.Init(fs.sb.Incompat&disk.IncompatExtents != 0)
	if m.Tree {
		in.Flags |= disk.FlagExtents
	}
}

func inlineAttr(tail []byte) xattr.Attr {
	return xattr.Attr{Index: disk.XattrSystem, Name: []byte(disk.XattrSystemInline), Value: tail, Size: uint32(len(tail))}
}

func isInlineAttr(at *xattr.Attr) bool {
	return at.Index == disk.XattrSystem && string(at.Name) == disk.XattrSystemInline
}

// checkInline verifies an inode whose content is inline. A file may be longer
// than what is stored of it: it goes on with zeros.
func (fs *FS) checkInline(in *inode, what string) error {
	a, err := fs.inodeXattrs(in)
	if err != nil {
		return err
	}
	tail, ok := a.Find(disk.XattrSystem, disk.XattrSystemInline)
	switch {
	case in.ExtraIsize == 0, !ok:
		return disk.Corruptf(what, "has inline data without the attribute for it")
	case tail.Ino != 0:
		return disk.Corruptf(what, "has inline data in another inode, %d", tail.Ino)
	case !in.IsReg() && in.size > disk.InodeBlockSize+uint64(tail.Size):
		return disk.Corruptf(what, "has %d bytes of inline data, more than are stored", in.size)
	}
	return nil
}

// inlineRoom is how much content an inode can hold beside the attributes that
// are in it, in bytes.
func (fs *FS) inlineRoom(in *inode) (uint64, error) {
	if in.ExtraIsize == 0 {
		return 0, nil
	}
	a, err := fs.inodeXattrs(in)
	if err != nil {
		return 0, err
	}
	empty := inlineAttr(nil)
	left := xattr.InodeRoom(int(fs.geo.InodeSize), in.ExtraIsize) - xattr.ListEnd - xattr.Size(&empty)
	a.Each(func(at xattr.Attr) bool {
		if !isInlineAttr(&at) {
			left -= xattr.Size(&at)
		}
		return true
	})
	if left < 0 {
		return 0, nil
	}
	return disk.InodeBlockSize + uint64(left&^3), nil
}

// putInlineTail stores what the block area does not hold of the content of an
// inode, which is locked. If its content is not inline, the attribute for it
// goes away. It takes the credit of the inode.
func (fs *FS) putInlineTail(tx *journal.Handle, in *inode, tail []byte) error {
	a, err := fs.inodeXattrs(in)
	if err != nil {
		return err
	}
	var attrs []xattr.Attr
	if in.inline() {
		attrs = append(attrs, inlineAttr(tail))
	}
	a.Each(func(at xattr.Attr) bool {
		if !isInlineAttr(&at) {
			attrs = append(attrs, at)
		}
		return true
	})
	if xattr.Fit(attrs, xattr.InodeRoom(int(fs.geo.InodeSize), in.ExtraIsize)) < len(attrs) {
		return disk.Corruptf(disk.InodeName(uint32(in.ino)), "has no room for %d bytes of inline data beside its attributes", len(tail))
	}
	return fs.editInodeXattrs(tx, in, attrs)
}

// putInline stores an inode, which is locked, with content, which must fit, and
// a new size.
func (fs *FS) putInline(tx *journal.Handle, in *inode, data []byte, size uint64) error {
	flags := in.Flags
	if !in.inline() {
		in.setInline()
	}
	if err := fs.putInlineTail(tx, in, data[min(len(data), disk.InodeBlockSize):]); err != nil {
		in.Flags = flags
		return err
	}
	clear(in.Block[copy(in.Block[:], data):])
	in.size = size
	in.seq++
	return fs.store(tx, in)
}

// beginInline is beginWrite for a file whose content is inline or may become
// so. ok is false if the write needs blocks, for which the file is ready then:
// it is too long, or it is none that can be had as a request of its own.
func (fs *FS) beginInline(in *inode, off, n uint64, op iomap.Op) (m iomap.Mapping, ok bool, err error) {
	room, err := fs.inlineRoom(in)
	if err != nil {
		return m, false, err
	}
	const plain = iomap.Write | iomap.Direct | iomap.NoWait | iomap.OverwriteOnly | iomap.DontCache
	if max(in.size, off+n) > room || op&^plain != 0 {
		return m, false, fs.outOfLine(in)
	}
	m = iomap.Mapping{Cookie: in.seq, Length: room, Addr: iomap.NullAddr, Type: iomap.Inline}
	if in.inline() {
		m.Inline, err = fs.inlineData(in)
	}
	return m, true, err
}

// WriteInline stores p at off of a file for which Begin gave an Inline mapping
// that covers it. The size grows to the end of p. Errors: ESTALE when the file
// has blocks by now.
func (fs *FS) WriteInline(ino Ino, p []byte, off uint64) error {
	in, err := fs.wlock(ino)
	if err != nil {
		return err
	}
	defer in.wunlock()
	room, err := fs.inlineRoom(in)
	if err != nil {
		return err
	}
	end := off + uint64(len(p))
	size := max(in.size, end)
	if size > room || end < off || !in.inline() && !in.mayInline {
		return fmt.Errorf("inode %d: is no longer inline: %w", ino, syscall.ESTALE)
	}
	data := make([]byte, size)
	if in.inline() {
		old, err := fs.inlineData(in)
		if err != nil {
			return err
		}
		copy(data, old)
	}
	copy(data[off:], p)
	return fs.transact(1, 0, func(tx *journal.Handle) error {
		return fs.putInline(tx, in, data, size)
	})
}

// truncateInline is truncate for a file whose content is inline. ok is false if
// it cannot stay so: the file has blocks then, and its old size.
func (fs *FS) truncateInline(in *inode, size uint64, times bool) (ok bool, err error) {
	if size == in.size {
		return true, nil
	}
	tail, err := fs.inlineTail(in)
	if err != nil {
		return false, err
	}
	if size > in.size && size > disk.InodeBlockSize+uint64(len(tail)) {
		return false, fs.outOfLine(in)
	}
	data, err := fs.inlineData(in)
	if err != nil {
		return false, err
	}
	if size > uint64(len(data)) {
		data = append(data, make([]byte, min(size, disk.InodeBlockSize+uint64(len(tail)))-uint64(len(data)))...)
	}
	data = data[:min(size, uint64(len(data)))]
	return true, fs.transact(1, 0, func(tx *journal.Handle) error {
		if times {
			fs.touch(in, true)
		}
		return fs.putInline(tx, in, data, size)
	})
}

// outOfLine gives a file blocks for its content, if that is inline, and sees to
// it that it does not become so again. The content is on the device before the
// transaction that makes the block a part of the file.
func (fs *FS) outOfLine(in *inode) error {
	in.mayInline = false
	if !in.inline() {
		return nil
	}
	data, err := fs.inlineData(in)
	if err != nil {
		return err
	}
	block, flags := in.Block, in.Flags
	fs.initMap(in)
	var run extent.Run
	credits, revokes := 1, 0
	if len(data) > 0 {
		if run, err = fs.place(in, extent.Run{Len: 1}, want{asked: 1}); err != nil {
			in.Block, in.Flags = block, flags
			return err
		}
		credits, revokes = fs.creditsClaim(in, run)
		whole := make([]byte, fs.geo.BlockSize)
		copy(whole, data)
		_, err = fs.dev.WriteAt(whole, int64(run.Start<<fs.geo.BlockBits))
		if err != nil {
			fs.dropPending(in, 0, 1)
			in.Block, in.Flags = block, flags
			return fmt.Errorf("inode %d: write data at block %d: %w", in.ino, run.Start, err)
		}
	}
	err = fs.transact(credits, revokes, func(tx *journal.Handle) error {
		if len(data) > 0 {
			if err := fs.claim(tx, in, run, extent.Written); err != nil {
				return err
			}
		}
		in.seq++
		return errors.Join(fs.putInlineTail(tx, in, nil), fs.store(tx, in))
	})
	if err != nil {
		fs.dropPending(in, 0, 1)
		in.Block, in.Flags = block, flags
	}
	return err
}

// withInlineTail returns attributes of an inode with the one that is a part of
// its content, which must be in the inode, in front.
func (fs *FS) withInlineTail(in *inode, attrs []xattr.Attr) ([]xattr.Attr, error) {
	rest := slices.DeleteFunc(slices.Clone(attrs), func(at xattr.Attr) bool { return isInlineAttr(&at) })
	if !in.inline() {
		return rest, nil
	}
	tail, err := fs.inlineTail(in)
	return slices.Insert(rest, 0, inlineAttr(tail)), err
}
