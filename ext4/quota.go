package ext4

import (
	"errors"
	"fmt"
	"math"
	"sync/atomic"
	"syscall"
	"time"

	"ext4box/ext4/internal/balloc"
	"ext4box/ext4/internal/buffer"
	"ext4box/ext4/internal/cache"
	"ext4box/ext4/internal/disk"
	"ext4box/ext4/internal/extent"
	"ext4box/ext4/internal/journal"
	"ext4box/ext4/internal/quota"
	"ext4box/ext4/internal/xattr"
	"ext4box/internal/spin"
)

// With the quota feature the filesystem keeps count of the space and the inodes
// of each user, group and project, in hidden files. An inode remembers what it
// is charged with; wherever it is stored, or freed, the difference goes to the
// records of its owners, in the same transaction ([FS.charge]). So nobody who
// changes i_blocks, an owner or a project has to think of it.
//
// The records of an inode's owners are looked up, and made if there are none,
// before a transaction begins: when the inode is locked for writing. From then
// on each needs one credit and no space, and nothing can fail.
//
// Limits hold only where the mount asks for it, and not for a privileged caller.
// Whatever may fail for them is reserved in memory first, beside the blocks;
// what a write needs for its map when the data is there is never refused.

// quotaCacheEntries bounds the records in memory, of each kind.
const quotaCacheEntries = 8 << 10

// A quotaFile is one kind of quota.
type quotaFile struct {
	kind   quota.Kind
	limits bool        // are enforced
	off    atomic.Bool // set aside: damaged, or not to be read

	// mu guards what the file consists of, and lookups in it. It comes before a
	// handle of the journal.
	mu    spin.Mutex
	in    *inode
	file  *quota.File
	cache *cache.Cache[dquot] // by id

	idleMu spin.Mutex // innermost
	idle   map[uint32]struct{}
}

// noteIdle remembers an id that has nothing any longer, for tidyQuotas.
func (q *quotaFile) noteIdle(id uint32) {
	q.idleMu.Lock()
	defer q.idleMu.Unlock()
	if len(q.idle) < maxIdle {
		q.idle[id] = struct{}{}
	}
}

// maxIdle bounds quotaFile.idle.
const maxIdle = 4096

// A dquot is the record of an id. It stays in the cache while an inode that is
// locked for writing belongs to the id, or something is reserved.
type dquot struct {
	refs atomic.Int32
	held atomic.Bool // something is reserved

	mu     spin.Mutex // comes after a handle
	at     quota.Place
	rec    quota.Record
	space  uint64 // bytes reserved
	inodes uint64 // reserved
}

var dquotPolicy = cache.Policy[dquot]{
	Acquire: func(d *dquot) { d.refs.Add(1) },
	Pinned:  func(d *dquot) bool { return d.refs.Load() > 0 || d.held.Load() },
}

// usage is what an inode is charged with, by which owners.
type usage struct {
	ids    [quota.Kinds]uint32
	space  uint64 // bytes
	inodes uint64 // itself, and values of attributes in inodes of their own
}

// charges are an inode's relations to quota, guarded as the inode is.
type charges struct {
	exempt  bool // the filesystem's own: charged to nobody
	counted bool // booked.inodes includes the inodes of attributes
	booked  usage
	holds   usage // what is reserved: space and inodes

	// While the inode is locked for writing: whether limits hold for whoever has
	// locked it, the records of the owners, and of those it is about to get.
	fs           *FS // nil: not attached
	limited      bool
	owners, next [quota.Kinds]*dquot
}

func owners(in *disk.Inode) [quota.Kinds]uint32 {
	return [quota.Kinds]uint32{quota.User: in.UID, quota.Group: in.GID, quota.Project: in.ProjectID}
}

// usageOf is what an inode is to be charged with, except for the inodes of its
// attributes.
func (fs *FS) usageOf(in *inode) usage {
	return usage{owners(&in.Inode), in.Sectors(fs.hugeFile(), fs.geo.BlockBits) << 9, 1}
}

// unchargeable tells whether an inode is the filesystem's own. Values of
// attributes are charged with the inodes that have the attributes.
func (in *inode) unchargeable() bool { return in.quota.exempt || in.Flags&disk.FlagEAInode != 0 }

// quotaInodes are the hidden files; 0 for the kinds that are not kept.
func (fs *FS) quotaInodes() (inos [quota.Kinds]uint32) {
	if fs.sb.ROCompat&disk.ROCompatQuota != 0 {
		inos = [quota.Kinds]uint32{fs.sb.UserQuotaIno, fs.sb.GroupQuotaIno, fs.sb.ProjectQuotaIno}
	}
	return inos
}

// enforced are the kinds whose limits the options ask for.
func (fs *FS) enforced() [quota.Kinds]bool {
	return [quota.Kinds]bool{fs.opts.UserQuota, fs.opts.GroupQuota, fs.opts.ProjectQuota}
}

// checkQuotas refuses to enforce limits that the filesystem does not keep.
func (fs *FS) checkQuotas() error {
	inos := fs.quotaInodes()
	for kind, wanted := range fs.enforced() {
		if wanted && inos[kind] == 0 {
			return fmt.Errorf("%[1]v quota cannot be enforced, for the filesystem does not keep it; leave %[2]squota out, or add it with 'tune2fs -O quota -Q %[2]squota': %[3]w",
				quota.Kind(kind), [quota.Kinds]string{"usr", "grp", "prj"}[kind], syscall.EINVAL)
		}
	}
	return nil
}

// quotaCredits is what each handle needs in addition.
func (fs *FS) quotaCredits() (credits int) {
	for _, ino := range fs.quotaInodes() {
		if ino != 0 {
			credits += quotaOwners * quota.CreditsWrite
		}
	}
	return credits
}

// openQuotas opens the hidden files. One that is damaged is set aside.
func (fs *FS) openQuotas() {
	limits := fs.enforced()
	for kind, ino := range fs.quotaInodes() {
		if ino == 0 {
			continue
		}
		q := &quotaFile{kind: quota.Kind(kind), limits: limits[kind], idle: make(map[uint32]struct{})}
		if err := fs.openQuota(q, ino); err != nil {
			fs.setAsideQuota(q, err)
			continue
		}
		fs.w.quotas[kind] = q
		fs.w.enforcing = fs.w.enforcing || q.limits
	}
}

// quotaOwners is how many owners one operation charges at most: those of a
// directory, of what is made or moved in it, of a whiteout, or two of a chown.
const quotaOwners = 4

func (fs *FS) openQuota(q *quotaFile, ino uint32) error {
	what := q.kind.String() + " quota"
	fixed := [quota.Kinds]uint32{disk.InoUserQuota, disk.InoGrpQuota}
	if want := fixed[q.kind]; want != 0 && ino != want || want == 0 && ino < fs.geo.FirstIno {
		return disk.Corruptf(what, "its inode cannot be %d", ino)
	}
	in, err := fs.systemInode(q.kind.String()+" quota", ino)
	if err != nil {
		return err
	}
	if !in.IsReg() || in.Links == 0 || in.inline() || in.encrypted() || in.size > fs.maxSize(in) {
		return disk.Corruptf(what, "inode %d is no ordinary file", ino)
	}
	in.quota.exempt = true
	q.in, q.cache = in, cache.New(quotaCacheEntries, dquotPolicy)
	q.file, err = quota.Open(fs.blks, quotaStorage{fs, in}, q.kind, in.size)
	return err
}

// setAsideQuota gives up on a kind of quota, until e2fsck has counted again.
func (fs *FS) setAsideQuota(q *quotaFile, err error) {
	q.off.Store(true)
	fs.log.Error(q.kind.String()+" quota is not kept any longer; run e2fsck", "error", err)
	fs.found("quota", 0, 0, err)
}

// attach looks up the records of an inode's owners, which stay in memory until
// detach. The inode is locked, and no handle is open. ENOSPC: there is no room
// for a new record.
func (fs *FS) attach(in *inode) error {
	c := &in.quota
	if fs.w.quotaCredits == 0 || in.unchargeable() {
		return nil
	}
	if c.fs = fs; !c.counted && c.booked.inodes > 0 {
		n, err := fs.countInodes(in)
		if err != nil {
			return err
		}
		c.booked.inodes, c.counted = n, true
	}
	return fs.lookupOwners(c.booked.ids, &c.owners)
}

func (fs *FS) lookupOwners(ids [quota.Kinds]uint32, to *[quota.Kinds]*dquot) error {
	for kind, q := range fs.w.quotas {
		if q == nil || q.off.Load() || to[kind] != nil {
			continue
		}
		d, err := fs.dquot(q, ids[kind])
		if err != nil {
			return err
		}
		to[kind] = d
	}
	return nil
}

// detach is the inverse of attach. What is reserved and not used goes back.
func (in *inode) detach() {
	c := &in.quota
	if c.fs == nil {
		return
	}
	c.fs.settle(in)
	c.fs, c.limited = nil, false
	release(&c.owners)
	release(&c.next)
}

func release(list *[quota.Kinds]*dquot) {
	for i, d := range list {
		if d != nil {
			d.refs.Add(-1)
			list[i] = nil
		}
	}
}

// dquot returns the record of an id, which the caller must release, and makes
// it if there is none. It is nil if the kind is set aside.
func (fs *FS) dquot(q *quotaFile, id uint32) (*dquot, error) {
	if d := q.cache.Get(uint64(id)); d != nil {
		return d, nil
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if d := q.cache.Get(uint64(id)); d != nil {
		return d, nil
	}
	at, rec, ok, err := q.file.Find(id)
	if err == nil && !ok {
		at, rec = quota.Place{}, quota.Record{ID: id}
		err = fs.changeQuota(q, quota.CreditsInsert, quota.GrowMax, func(tx buffer.Tx) (err error) {
			at, err = q.file.Insert(tx, id)
			return err
		})
	}
	switch {
	case errors.Is(err, syscall.EUCLEAN):
		fs.setAsideQuota(q, err)
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("%v quota of %d: %w", q.kind, id, err)
	}
	return q.cache.Add(uint64(id), &dquot{at: at, rec: rec}), nil
}

// charge books what an inode has come to occupy, and whose it has become, since
// the last time. It takes the credits that begin adds to each handle.
func (fs *FS) charge(tx buffer.Tx, in *inode) error {
	if in.quota.fs == nil {
		return nil
	}
	now := fs.usageOf(in)
	if n, err := fs.countInodes(in); err == nil {
		now.inodes = n
	} else {
		now.inodes = in.quota.booked.inodes
	}
	return fs.book(tx, in, now)
}

// discharge takes back what an inode is charged with that is being freed.
func (fs *FS) discharge(tx buffer.Tx, in *inode) error {
	return fs.book(tx, in, usage{ids: in.quota.booked.ids})
}

// book changes what an inode is charged with, and what it holds in reserve to
// what is still pending.
func (fs *FS) book(tx buffer.Tx, in *inode, now usage) error {
	c := &in.quota
	if c.fs == nil {
		return nil
	}
	was, held, hold := c.booked, c.holds, fs.heldFor(in)
	for kind, q := range fs.w.quotas {
		if q == nil || q.off.Load() {
			continue
		}
		if now.ids[kind] == was.ids[kind] {
			if err := q.add(tx, c.owners[kind], delta(now, was), delta(hold, held)); err != nil {
				return err
			}
			continue
		}
		err := errors.Join(
			q.add(tx, c.owners[kind], delta(usage{}, was), delta(usage{}, held)),
			q.add(tx, c.next[kind], delta(now, usage{}), delta(hold, usage{})))
		if err != nil {
			return err
		}
		c.owners[kind], c.next[kind] = c.next[kind], c.owners[kind]
	}
	c.booked, c.holds = now, hold
	return nil
}

// change is a difference of usages.
type change struct{ space, inodes int64 }

func delta(to, from usage) change {
	return change{int64(to.space - from.space), int64(to.inodes - from.inodes)}
}

// add books a change of what an id has, in the transaction, and of what is
// reserved for it.
func (q *quotaFile) add(tx buffer.Tx, d *dquot, has, held change) error {
	if d == nil || has == (change{}) && held == (change{}) {
		return nil
	}
	d.mu.Lock()
	d.reserve(held)
	if has == (change{}) {
		d.mu.Unlock()
		return nil
	}
	defer d.mu.Unlock()
	r := &d.rec
	r.Space, r.Inodes = plus(r.Space, has.space), plus(r.Inodes, has.inodes)
	if has.space < 0 && r.Space+d.space <= r.SpaceSoft {
		r.SpaceTime = 0
	}
	if has.inodes < 0 && r.Inodes+d.inodes <= r.InodeSoft {
		r.InodeTime = 0
	}
	if r.Space|r.Inodes == 0 {
		q.noteIdle(r.ID)
	}
	return q.file.Write(tx, d.at, r)
}

// reserve changes what is reserved. The record is locked.
func (d *dquot) reserve(c change) {
	d.space, d.inodes = plus(d.space, c.space), plus(d.inodes, c.inodes)
	d.held.Store(d.space|d.inodes != 0)
}

// plus adds within what the type can hold: what is stored may be wrong.
func plus(n uint64, d int64) uint64 {
	switch {
	case d < 0:
		return n - min(uint64(-d), n)
	case n > math.MaxInt64-uint64(d):
		return math.MaxInt64
	}
	return n + uint64(d)
}

// heldFor is what is to be reserved for an inode: what its pending blocks take.
func (fs *FS) heldFor(in *inode) (u usage) {
	if fs.w.enforcing {
		u.space = fs.pendingClusters(in) << fs.geo.BlockBits
	}
	return u
}

// settle gives back what is reserved for an inode and not pending any longer.
func (fs *FS) settle(in *inode) {
	c := &in.quota
	hold := fs.heldFor(in)
	if c.holds.space == hold.space && c.holds.inodes == hold.inodes {
		return
	}
	back := delta(hold, c.holds)
	for kind, q := range fs.w.quotas {
		if d := c.owners[kind]; q != nil && d != nil {
			d.mu.Lock()
			d.reserve(back)
			d.mu.Unlock()
		}
	}
	c.holds = hold
}

// afford reserves, for an operation on an inode that is locked, space for up to
// so many blocks, and some inodes, and tells for how many blocks limits leave
// room. Storing the inode, or settle, ends the reservation. EDQUOT: there is no
// room for a single block, or for the inodes.
func (fs *FS) afford(in *inode, blocks uint64, inodes int64) (uint64, error) {
	c := &in.quota
	if !fs.w.enforcing || c.fs == nil {
		return blocks, nil
	}
	want := change{int64(blocks << fs.geo.BlockBits), inodes}
	var got [quota.Kinds]change
	var err error
	now := uint64(time.Now().Unix())
	for kind, q := range fs.w.quotas {
		d := c.owners[kind]
		if q == nil || d == nil {
			continue
		}
		if q.limits && c.limited && err == nil {
			if want, err = d.room(want, int64(fs.geo.BlockSize)<<fs.geo.ClusterBits, q.file, now); err != nil {
				err = fmt.Errorf("%v %d is at its limit: %w", q.kind, c.booked.ids[kind], err)
				want = change{}
			}
		}
		d.mu.Lock()
		d.reserve(want)
		d.mu.Unlock()
		got[kind] = want
	}
	// The kinds before the one with the least room have got too much.
	for kind := range fs.w.quotas {
		if d := c.owners[kind]; d != nil && got[kind] != want {
			d.mu.Lock()
			d.reserve(change{want.space - got[kind].space, want.inodes - got[kind].inodes})
			d.mu.Unlock()
		}
	}
	c.holds.space += uint64(want.space)
	c.holds.inodes += uint64(want.inodes)
	return uint64(want.space) >> fs.geo.BlockBits, err
}

// room is how much of what is wanted the limits of an id permit, in whole units
// of space. Going beyond a soft limit starts its time of grace.
func (d *dquot) room(want change, unit int64, f *quota.File, now uint64) (change, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	r := &d.rec
	fits := permits(r.InodeHard, r.InodeSoft, &r.InodeTime, r.Inodes+d.inodes, uint64(want.inodes), 1, f.InodeGrace, now)
	if fits < uint64(want.inodes) {
		return change{}, syscall.EDQUOT
	}
	n := permits(r.SpaceHard, r.SpaceSoft, &r.SpaceTime, r.Space+d.space, uint64(want.space), uint64(unit), f.SpaceGrace, now)
	if n == 0 && want.space > 0 {
		return change{}, syscall.EDQUOT
	}
	return change{int64(n), want.inodes}, nil
}

// permits is how much more, in whole units, may be had by who has so much.
func permits(hard, soft uint64, until *uint64, has, want, unit uint64, grace uint32, now uint64) uint64 {
	if want == 0 {
		return 0
	}
	fit := func(limit uint64) {
		if room := limit - min(has, limit); want > room {
			want = room / unit * unit
		}
	}
	if hard != 0 {
		fit(hard)
	}
	if soft != 0 && *until != 0 && now >= *until {
		fit(soft)
	}
	if soft != 0 && has+want > soft && *until == 0 && want > 0 {
		*until = now + uint64(grace)
	}
	return want
}

// chargeNew attaches an inode that is about to be made, whose owners are known,
// and reserves it.
func (fs *FS) chargeNew(in *inode, limited bool) error {
	in.quota.booked.ids = owners(&in.Inode)
	if err := fs.attach(in); err != nil {
		return err
	}
	in.quota.limited = limited
	_, err := fs.afford(in, 0, 1)
	return err
}

// transfer prepares an inode, which is locked, for other owners.
func (fs *FS) transfer(in *inode, ids [quota.Kinds]uint32) error {
	c := &in.quota
	if c.fs == nil || ids == c.booked.ids {
		return nil
	}
	release(&c.next)
	if err := fs.lookupOwners(ids, &c.next); err != nil {
		return err
	}
	now := uint64(time.Now().Unix())
	for kind, q := range fs.w.quotas {
		d := c.next[kind]
		if q == nil || d == nil || ids[kind] == c.booked.ids[kind] || !q.limits || !c.limited {
			continue
		}
		space := int64(c.booked.space + c.holds.space)
		got, err := d.room(change{space, int64(c.booked.inodes)}, 1, q.file, now)
		if err != nil || got.space < space {
			return fmt.Errorf("%v %d is at its limit: %w", q.kind, ids[kind], syscall.EDQUOT)
		}
	}
	return nil
}

// countInodes is how many inodes are charged to the owners of an inode: itself,
// and one for each attribute whose value is in an inode of its own.
func (fs *FS) countInodes(in *inode) (uint64, error) {
	n := uint64(1)
	if fs.sb.Incompat&disk.IncompatEAInode == 0 {
		return n, nil
	}
	areas, err := fs.xattrAreas(in)
	for _, a := range areas {
		n += uint64(valueInodes(a))
	}
	return n, err
}

func valueInodes(a xattr.Area) (n int) {
	a.Each(func(at xattr.Attr) bool {
		if at.Ino != 0 {
			n++
		}
		return true
	})
	return n
}

// changeQuota runs fn, which changes what a quota file consists of and lets it
// grow by at most so many blocks, in a transaction of its own. Damage that it
// finds is no reason to give up the filesystem.
func (fs *FS) changeQuota(q *quotaFile, blocks, grow int, fn func(tx buffer.Tx) error) error {
	m := fs.blockMap(q.in)
	end := q.in.size >> fs.geo.BlockBits
	credits, revokes := fs.creditsEdit(m.InsertCredits(grow, end, end+uint64(grow)+1))
	var damage error
	err := fs.transact(blocks+credits+grow*balloc.CreditsClaim+1, revokes, func(tx *journal.Handle) error {
		err := fn(tx)
		if errors.Is(err, syscall.EUCLEAN) {
			damage, err = err, nil
		}
		return err
	})
	return errors.Join(err, damage)
}

// quotaStorage is the hidden file of a kind of quota. quotaFile.mu is held.
type quotaStorage struct {
	fs *FS
	in *inode
}

var _ quota.Storage = quotaStorage{}

// Where implements [quota.Storage].
func (s quotaStorage) Where(blk uint32) (phys uint64, off int, err error) {
	at := uint64(blk) << quota.BlockBits
	n := at >> s.fs.geo.BlockBits
	run, err := s.fs.run(s.in, n)
	if err == nil && run.State != extent.Written {
		err = disk.Corruptf(disk.InodeName(uint32(s.in.ino)), "block %d of a quota file is not mapped", n)
	}
	return run.Start + n - run.Block, int(at & uint64(s.fs.geo.BlockSize-1)), err
}

// Grow implements [quota.Storage].
func (s quotaStorage) Grow(tx buffer.Tx, blk uint32) error {
	at := uint64(blk) << quota.BlockBits
	n := at >> s.fs.geo.BlockBits
	run, err := s.fs.run(s.in, n)
	if err != nil {
		return err
	}
	if run.State == extent.Hole {
		m := s.fs.blockMap(s.in)
		phys, err := s.fs.allocMapped(tx, s.in, &m, n)
		if err != nil {
			return err
		}
		if _, err := tx.New(phys, buffer.Tag{Kind: buffer.Quota}); err != nil {
			return err
		}
	}
	s.in.size = max(s.in.size, at+quota.BlockSize)
	return s.fs.store(tx, s.in)
}
