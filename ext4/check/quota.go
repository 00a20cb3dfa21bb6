package check

import (
	"encoding/binary"
	"fmt"
	"io"
	"sync"

	"ext4box/ext4/internal/disk"
)

// usage is what the files of a user, group or project occupy.
type usage struct {
	space, inodes uint64 // bytes, and how many
	links         uint64 // of the inodes, symbolic links with inline data: e2fsck counts them not, the kernel does
}

// quotaTable has the usage that pass 1 counts.
type quotaTable struct {
	mu   sync.Mutex
	on   [3]bool // kinds that the filesystem has
	room int     // entries, of all kinds together
	cut  bool    // those were not enough
	ids  [3]map[uint32]usage
}

func (q *quotaTable) init(c *checker, budget int64) {
	q.room = int(budget / 96)
	for kind, ino := range c.quotaInos() {
		q.on[kind] = ino != 0 && ino <= c.geo.InodesCount && c.sb.ROCompat&disk.ROCompatQuota != 0
		q.ids[kind] = map[uint32]usage{}
	}
}

// add charges somebody.
func (q *quotaTable) add(kind int, id uint32, u usage) {
	q.mu.Lock()
	defer q.mu.Unlock()
	old, ok := q.ids[kind][id]
	if !ok {
		if q.room--; q.room < 0 {
			q.cut = true
			return
		}
	}
	q.ids[kind][id] = usage{old.space + u.space, old.inodes + u.inodes, old.links + u.links}
}

// charge counts the inode's blocks for its owners.
func (x *examination) charge() {
	c, in := x.c, x.in
	q := &c.quota
	if x.reserved() || in.ino == c.sb.OrphanFileIno || in.ino == c.sb.ProjectQuotaIno || in.is(disk.FlagEAInode) {
		return
	}
	project := uint32(0)
	if in.ExtraIsize >= 0x20 && len(in.raw) >= 0xA0 {
		project = le32(in.raw[0x9C:])
	}
	u := usage{space: x.blocks << c.geo.BlockBits, inodes: 1 + x.valueInodes}
	if in.IsSymlink() && in.is(disk.FlagInlineData) {
		u.links = 1
	}
	for kind, id := range [3]uint32{in.UID, in.GID, project} {
		if q.on[kind] {
			q.add(kind, id, u)
		}
	}
}

// Quota files, in blocks of their own size: a header, and from block 1 on a tree
// whose branches are by the four bytes of an id, down to blocks of records.
const (
	quotaBlock      = 1024
	quotaTreeLevels = 4
	quotaRecord     = 72 // bytes
	quotaRecords    = 14 // in a block, behind a header
	quotaRecordAt   = 16

	quotaBlocks = 1 << 16 // that are compared; more would be of a million of owners
)

var quotaMagics = [3]uint32{0xD9C01F11, 0xD9C01927, 0xD9C03F14}

// quotaUsage compares the quota files with what was counted.
func (c *checker) quotaUsage(b *batch) error {
	q := &c.quota
	if q.cut {
		c.warn("there are too many owners for the memory allowed: quota was not compared")
		return nil
	}
	for kind, ino := range c.quotaInos() {
		if !q.on[kind] {
			continue
		}
		in, ok, err := c.inode(ino)
		if err != nil {
			return err
		}
		if !ok || !in.IsReg() || in.Links == 0 {
			continue
		}
		f, _, err := c.file(in)
		if err != nil {
			return err
		}
		t := &quotaTree{c: c, f: f, left: q.ids[kind]}
		if err := t.compare(quotaMagics[kind]); err != nil {
			return err
		}
		for id := range t.left {
			t.wrong(fmt.Sprintf("id %d is missing", id), uint64(id))
		}
		if t.problem != "" {
			b.inode(QuotaUsage, ino, "the %s quota does not fit what is in use: %s", quotaNames[kind], t.problem)
		}
	}
	return nil
}

// quotaTree is a comparison of one quota file with what was counted.
type quotaTree struct {
	c       *checker
	f       *file
	blocks  uint32           // of the file
	seen    map[uint32]int   // that were read, and at which level
	left    map[uint32]usage // what no record was found for
	problem string           // that has the lowest number
	at      uint64
}

// wrong notes a problem about an id, or about the file where at is beyond all ids.
func (t *quotaTree) wrong(problem string, at uint64) {
	if t.problem == "" || at < t.at {
		t.problem, t.at = problem, at
	}
}

const notAnID = 1 << 32

func (t *quotaTree) compare(magic uint32) error {
	b := make([]byte, quotaBlock)
	if ok, err := t.block(b, 0); !ok {
		return err
	}
	if le32(b) != magic || le32(b[4:]) != 1 {
		t.wrong("the file is not one of quota", notAnID)
		return nil
	}
	t.blocks = le32(b[0x14:])
	if free, entry := le32(b[0x18:]), le32(b[0x1C:]); uint64(t.blocks) > (uint64(t.f.size)+quotaBlock-1)/quotaBlock || free >= t.blocks || entry >= t.blocks {
		t.wrong(fmt.Sprintf("the file says that it has %d blocks, %d and %d of them free", t.blocks, free, entry), notAnID)
		return nil
	}
	t.seen = map[uint32]int{}
	return t.branch(1, quotaTreeLevels)
}

// block reads one. ok is false if it cannot.
func (t *quotaTree) block(b []byte, blk uint32) (ok bool, err error) {
	clear(b)
	switch n, err := t.f.ReadAt(b, int64(blk)*quotaBlock); {
	case err == errBeyond || err == io.EOF && n == 0:
		t.wrong(fmt.Sprintf("block %d cannot be read", blk), notAnID)
		return false, nil
	case err != nil && err != io.EOF:
		return false, err
	}
	return true, t.c.ctx.Err()
}

// branch goes through a block of references with so many levels below it, or through
// one of records. Several references may lead to the same one.
func (t *quotaTree) branch(blk uint32, levels int) error {
	if level, ok := t.seen[blk]; ok {
		if level != levels {
			t.wrong(fmt.Sprintf("block %d is at two levels of the tree", blk), notAnID)
		}
		return nil
	}
	if t.seen[blk] = levels; len(t.seen) > quotaBlocks {
		t.wrong("there are too many records", notAnID)
		return nil
	}
	if levels == 0 {
		return t.records(blk)
	}
	b := make([]byte, quotaBlock)
	if ok, err := t.block(b, blk); !ok || err != nil {
		return err
	}
	for i := 0; i < len(b); i += 4 {
		to := le32(b[i:])
		switch {
		case to == 0:
			continue
		case to >= t.blocks:
			t.wrong(fmt.Sprintf("block %d leads to block %d of %d", blk, to, t.blocks), notAnID)
			return nil
		}
		if err := t.branch(to, levels-1); err != nil {
			return err
		}
	}
	return nil
}

// records compares those of one block.
func (t *quotaTree) records(blk uint32) error {
	b := make([]byte, quotaBlock)
	if ok, err := t.block(b, blk); !ok || err != nil {
		return err
	}
	for slot := range quotaRecords {
		r := b[quotaRecordAt+slot*quotaRecord:][:quotaRecord]
		if isZero(r) {
			continue
		}
		id := le32(r)
		space, inodes := binary.LittleEndian.Uint64(r[0x30:]), binary.LittleEndian.Uint64(r[0x18:])
		if want := t.left[id]; space != want.space || inodes != want.inodes && inodes != want.inodes-want.links {
			t.wrong(fmt.Sprintf("id %d has %d bytes in %d inodes, not %d in %d", id, want.space, want.inodes, space, inodes), uint64(id))
		}
		delete(t.left, id)
	}
	return nil
}
