package dirent

import (
	"bytes"
	"cmp"
	"errors"
	"math"
	"slices"

	"ext4box/ext4/internal/disk"
)

// Positions in hash order are 63 bits that are a function of the name: 31 bits
// of the hash by which the index is ordered, 24 of the minor hash (of a checksum
// of the name, where the hash function has none), and 8 of a checksum of the
// name. Among names that agree in the first 55 bits, which in practice are made
// on purpose, each is moved behind the one before it; only then, and only if
// the last 8 bits agree too, does the position depend on the other name.
const (
	dotPosition    = 0
	dotdotPosition = 1
	firstPosition  = 2    // of other names
	crowd          = 0xFF // mask of the bits that are moved on in a crowd
)

// chainBatch is the number of entries that are held at once of those which have
// the same hash and continue from leaf to leaf.
const chainBatch = 4096

// HashOrder tells whether [Dir.ReadByHash] goes by hashes: in a directory that
// has an index, or will have when it grows.
func (d *Dir) HashOrder() bool {
	return d.Index && (d.Indexed || d.Size <= d.blockSize())
}

// ReadByHash is [Dir.Read] for a directory that changes between calls: an entry
// that exists all the time is passed to fn exactly once by calls that continue
// each other, whatever is added, removed or split in between. Positions are not
// those of Read.
//
// In a directory with an index, and in one of a single block, which may get
// one, the order is that of hashes. Others are read in the order of blocks,
// where entries never move. One leaf is held in memory at a time.
func (d *Dir) ReadByHash(pos int64, fn func(Entry) bool) error {
	blocks, err := d.blocks()
	if err != nil || pos < 0 || blocks == 0 {
		return err
	}
	if !d.HashOrder() {
		return d.Read(pos, fn)
	}
	r := newHashRead(d.Format, pos, fn)
	if !d.Indexed {
		if r.h = d.hasher(d.HashVersion, d.Casefold, d.RawNames); r.h.usable() != nil {
			return d.Read(pos, fn)
		}
		b, err := d.mapped(0, blocks, d.kindByShape)
		if err != nil {
			return err
		}
		if err := r.collect(b.Data, 0, math.MaxUint32); err != nil {
			return err
		}
		r.emit()
		return nil
	}
	p, h, err := d.index(blocks)
	var u unusable
	if errors.As(err, &u) || err == nil && h.usable() != nil {
		return d.Read(pos, fn) // as lookups do
	}
	if err != nil {
		return err
	}
	r.h = h
	return r.readIndex(&p)
}

// hashRead is a reading in hash order under way.
type hashRead struct {
	format *Format
	h      hasher
	from   uint64 // the first position that is wanted
	last   uint64 // the last position that was given, wanted or not
	fn     func(Entry) bool
	list   []keyed
	stop   bool
}

// keyed is an entry and the position that it has unless that is taken.
type keyed struct {
	key uint64
	Entry
}

func newHashRead(f *Format, pos int64, fn func(Entry) bool) hashRead {
	return hashRead{format: f, from: uint64(max(pos, 0)), last: math.MaxUint64, fn: fn}
}

// hashKey is the position of a name.
func hashKey(name []byte, major, minor uint32) uint64 {
	sum := disk.CRC32C(0, name)
	if minor == 0 {
		minor = sum
	}
	key := uint64(major>>1)<<32 | uint64(minor&^crowd) | uint64(sum&crowd)
	return max(key, firstPosition)
}

// collect puts the entries of an area into the list, except for such before the
// wanted ones that do not matter. Entries of other hashes than from lo to hi are
// listed as if they had these: they are in the wrong leaf, where no lookup finds
// them, but not hidden.
func (r *hashRead) collect(area []byte, lo, hi uint32) error {
	for off := 0; off < len(area); {
		e, problem := disk.DecodeDirEntry(area, off, r.format.Filetype)
		if problem != "" {
			break // cannot be: the area is checked
		}
		if e.Inode != 0 {
			key := uint64(dotPosition)
			switch string(e.Name) {
			case ".":
			case "..":
				key = dotdotPosition
			default:
				major, minor, err := r.h.entry(area, off, &e)
				if err != nil {
					return err
				}
				key = hashKey(e.Name, min(max(major, lo), hi), minor)
			}
			if key >= r.from&^crowd {
				r.list = append(r.list, keyed{key, Entry{Ino: e.Inode, Type: e.FileType, Name: e.Name}})
			}
		}
		off += e.RecLen
	}
	return nil
}

// emit passes the list on in order, and empties it.
func (r *hashRead) emit() {
	r.sort()
	for i := range r.list {
		e := &r.list[i]
		if e.key&^crowd == r.last&^crowd && e.key <= r.last {
			e.key = min(r.last+1, r.last|crowd)
		}
		r.last = e.key
		if e.key < r.from {
			continue
		}
		e.Next = int64(e.key + 1)
		if !r.fn(e.Entry) {
			r.stop = true
			break
		}
	}
	r.list = r.list[:0]
}

func (r *hashRead) sort() { slices.SortFunc(r.list, keyed.compare) }

func (e keyed) compare(o keyed) int {
	return cmp.Or(cmp.Compare(e.key, o.key), bytes.Compare(e.Name, o.Name))
}

// readIndex reads the leaves in the order of the index.
func (r *hashRead) readIndex(p *path) error {
	if err := r.collect(p.frames[0].b.Data, 0, 0); err != nil {
		return err
	}
	r.emit()
	if r.stop {
		return nil
	}
	if r.from == 0 {
		if err := p.checkLeaves(); err != nil {
			return err
		}
	}
	if err := p.probe(uint32(r.from>>32) << 1); err != nil {
		return err
	}
	for {
		_, b, err := p.leaf()
		if err != nil {
			return err
		}
		lo, hi, chained := p.hashes()
		if err := r.collect(b.Data, lo, hi); err != nil {
			return err
		}
		if chained {
			r.list = slices.DeleteFunc(r.list, func(e keyed) bool { return e.key >= majorPosition(hi) })
		}
		r.emit()
		if r.stop {
			return nil
		}
		if chained {
			// What the chain ends with has higher hashes too.
			if err := r.readChain(p, hi); err != nil || r.stop {
				return err
			}
		} else if _, ok := p.bound(); !ok {
			return nil
		} else if err := p.next(); err != nil {
			return err
		}
		// Positions go up even where the index is out of order.
		r.from = max(r.from, majorPosition(hi)+1<<32)
	}
}

// readChain reads the entries of one hash that continue in the leaves behind
// the one that p leads to, and leads p to the last of these. Since they are in
// no order there, it goes through all of them for each batch of entries.
func (r *hashRead) readChain(p *path, hash uint32) error {
	var floor keyed // the last entry that was passed on
	for {
		left, chain := p.visits, min(p.visits, maxCollisions)
		q, more := *p, false
		q.visits = chain // behind them no lookup finds a name either
		for {
			_, b, err := q.leaf()
			if err != nil {
				return err
			}
			n := len(r.list)
			lo, hi, chained := q.hashes()
			if err := r.collect(b.Data, lo, hi); err != nil {
				return err
			}
			added := slices.DeleteFunc(r.list[n:], func(e keyed) bool {
				return e.key < majorPosition(hash) || e.key >= majorPosition(hash)+1<<32 || e.compare(floor) <= 0
			})
			for i := range added {
				added[i].Name = bytes.Clone(added[i].Name) // keeps no block in memory
			}
			r.list = r.list[:n+len(added)]
			if len(r.list) > chainBatch {
				r.sort()
				r.list = r.list[:chainBatch]
				more = true
			}
			if !chained || hi != hash {
				break
			}
			if err := q.next(); err != nil {
				return err
			}
		}
		if len(r.list) > 0 {
			floor = r.list[0]
			for _, e := range r.list {
				if e.compare(floor) > 0 {
					floor = e
				}
			}
		}
		r.emit()
		if r.stop || !more {
			left -= chain - q.visits
			*p = q
			p.visits = left
			return nil
		}
	}
}

// checkLeaves verifies that the index does not lead to more leaves than there
// can be. Nodes that lead to the same nodes, and blocks that are the same, would
// make a listing without an end.
func (p *path) checkLeaves() error {
	q, leaves := *p, uint64(0)
	if err := cmp.Or(q.d.checkDistinct(q.blocks), q.probe(0)); err != nil {
		return err
	}
	for {
		f := &q.frames[q.depth]
		if leaves += uint64(f.node.Count); leaves > q.blocks {
			return disk.Corruptf(q.d.name(), "index leads to more leaves than there are blocks")
		}
		f.at = f.node.Count - 1
		if _, ok := q.bound(); !ok {
			return nil
		}
		if err := q.next(); err != nil {
			return err
		}
	}
}

// majorPosition is the first position of a hash.
func majorPosition(hash uint32) uint64 { return uint64(hash>>1) << 32 }

// hashes is the range of hashes that the leaf has according to the index, and
// whether the last one continues in the leaf behind.
func (p *path) hashes() (lo, hi uint32, chained bool) {
	for i := p.depth; i >= 0; i-- {
		if f := &p.frames[i]; f.at > 0 {
			lo = f.node.Hash(f.at) &^ 1
			break
		}
	}
	hi = math.MaxUint32 &^ 1
	if bound, ok := p.bound(); ok {
		hi, chained = bound&^1, bound&1 != 0
		if !chained && hi > 0 {
			hi -= 2
		}
	}
	return lo, max(lo, hi), chained
}
