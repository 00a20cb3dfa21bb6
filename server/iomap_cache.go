package server

import (
	"fmt"
	"syscall"

	"ext4box/ext4"
	"ext4box/fuse"
	"ext4box/iomap"
)

// The kernel's cache of mappings. The engine calls Store and Drop with the inode locked,
// which orders them with what it changes. The kernel holds nothing that a request waits
// for while it handles them.

var _ iomap.Cache = (*outside)(nil)

// Store hands a mapping to the kernel, for reading and writing alike: blocks never move
// when they are written. It must be one for which the kernel asks: nothing else proves
// that it takes the inode for one with mappings.
func (o *outside) Store(ino ext4.Ino, m iomap.Mapping) error {
	if m.Type == iomap.Inline || m.Flags&iomap.AtomicBIO != 0 {
		return fmt.Errorf("inode %d: a mapping of type %d with flags %#x cannot be kept: %w", ino, m.Type, m.Flags, syscall.EINVAL)
	}
	read := o.slot(&m)
	return o.session.UpsertMappings(&fuse.IomapUpsertMappings{
		NodeID: o.node(ino), Ino: uint64(ino), Read: read, Write: filler(&read, fuse.IomapNoCache),
	})
}

// Drop takes back what the kernel remembers of a range.
func (o *outside) Drop(ino ext4.Ino, off, n uint64) error {
	r := fuse.IomapRange{Offset: off &^ (o.blockSize - 1)}
	switch end := off + n; {
	case n == 0 || r.Offset >= o.maxSize:
		return nil
	case end < off || end >= o.maxSize:
		r.Length = fuse.IomapInvalToEOF
	default:
		r.Length = (end+o.blockSize-1)&^(o.blockSize-1) - r.Offset
	}
	return o.session.InvalMappings(&fuse.IomapInvalMappings{NodeID: o.node(ino), Ino: uint64(ino), Read: r})
}

// LetGo has the kernel evict inodes that nobody uses (NOTIFY_PRUNE), of which FORGET
// tells. For those it waits until what is dirty is written, so it must not be called
// from an operation for which the kernel holds pages, and other workers must be free to
// handle BEGIN and IOEND.
func (o *outside) LetGo(inos []ext4.Ino) error {
	nodeids := make([]uint64, len(inos))
	for i, ino := range inos {
		nodeids[i] = o.node(ino)
	}
	return o.session.NotifyPrune(nodeids)
}

// slot is a mapping in the words of the protocol.
func (o *outside) slot(m *iomap.Mapping) fuse.IomapIO {
	io := fuse.IomapIO{Offset: m.Offset, Length: m.Length, Addr: fuse.IomapNullAddr, Type: m.Type, Flags: m.Flags}
	if m.Type == iomap.Mapped || m.Type == iomap.Unwritten {
		io.Addr, io.Dev = m.Addr+o.iomap.Offset, o.dev
	}
	return io
}

// filler is a slot without a mapping, which still has to name a range.
func filler(of *fuse.IomapIO, t iomap.Type) fuse.IomapIO {
	return fuse.IomapIO{Offset: of.Offset, Length: of.Length, Addr: fuse.IomapNullAddr, Type: t}
}
