package journal

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"sync"

	"ext4box/blockdev"
	"ext4box/blockdev/blocktest"
	"ext4box/ext4/internal/buffer"
)

// testT is what *testing.T, *testing.B and *rapid.T have in common.
type testT interface {
	Helper()
	Fatalf(format string, args ...any)
	Logf(format string, args ...any)
}

// rig is a filesystem's device, of which only the journal has a format, and the
// journal's own device if it is external.
type rig struct {
	lb       *logBuilder
	blocks   int    // home blocks; an internal log is behind them
	offset   uint64 // of the first home block
	cut      []Run  // where an internal log is; nil: behind the home blocks
	external bool
	clock    blocktest.Clock
	home     *blocktest.Recording
	ext      *blocktest.Recording
}

// newRig makes a rig with an empty log.
func newRig(blocks int, external bool, opts ...func(*logBuilder)) *rig {
	if external {
		opts = append(opts, func(lb *logBuilder) {
			lb.at = ExternalSuperblock(lb.bs)
			lb.first, lb.start = lb.at+1, lb.at+1
		})
	}
	r := &rig{lb: newLog(opts...), blocks: blocks, external: external}
	r.lb.start = 0
	r.lb.superblock()
	size := int64(blocks * r.lb.bs)
	if external {
		r.home = blocktest.NewRecording(nil, size, &r.clock)
		r.ext = blocktest.NewRecording(bytes.NewReader(r.lb.image), int64(len(r.lb.image)), &r.clock)
		return r
	}
	base := make([]byte, size+int64(len(r.lb.image)))
	for _, run := range r.runs() {
		n := copy(base[int(run.Device)*r.lb.bs:][:int(run.Blocks)*r.lb.bs], r.lb.image[int(run.Log)*r.lb.bs:])
		if n != int(run.Blocks)*r.lb.bs {
			panic("a log that is cut wrongly")
		}
	}
	r.home = blocktest.NewRecording(bytes.NewReader(base), int64(len(base)), &r.clock)
	return r
}

// runs cuts an internal log in two, and puts the second part in front.
func (r *rig) runs() []Run {
	if r.cut != nil {
		return r.cut
	}
	n := r.lb.maxLen
	cut := n / 3
	return []Run{
		{Log: 0, Device: uint64(r.blocks) + uint64(n-cut), Blocks: cut},
		{Log: cut, Device: uint64(r.blocks), Blocks: n - cut},
	}
}

// logDevice is a LogDevice that Load can read.
type logDevice interface {
	LogDevice
	ReadAt(p []byte, off int64) (int, error)
}

// load reads the journal from devices that look like the rig's.
func (r *rig) load(home, ext blockdev.Device) (*Journal, logDevice, error) {
	var log logDevice = ext
	if !r.external {
		x, err := NewExtentLog(home, r.lb.bs, r.runs())
		if err != nil {
			return nil, nil, err
		}
		log = x
	}
	o := r.lb.options()
	o.DeviceBlocks = r.offset + uint64(r.blocks)
	j, err := Load(log, o)
	return j, log, err
}

// start opens the log on devices, with options fit for tests.
func (r *rig) start(t testT, home, ext blockdev.Device, o WriterOptions) (*Log, *buffer.Cache) {
	t.Helper()
	j, log, err := r.load(home, ext)
	if err != nil {
		t.Fatalf("%v", err)
	}
	o.anyLength = true
	if o.Interval == 0 {
		o.Interval = -1
	}
	cache := buffer.New(home, r.lb.bs, 64*int64(r.lb.bs))
	l, err := j.Start(home, log, cache, o)
	if err != nil {
		t.Fatalf("%v", err)
	}
	return l, cache
}

// want is what a block must contain: version id, or anything.
type want struct {
	id   uint32
	any  bool
	meta bool // it is metadata; otherwise free, or file data
}

// content is version id of a block. Some versions look like the journal's own.
func content(bs int, block uint64, id uint32) []byte {
	b := make([]byte, bs)
	if id == 0 {
		return b
	}
	for i := 0; i < bs; i += 8 {
		be.PutUint32(b[i:], uint32(block)^0xA5000000)
		be.PutUint32(b[i+4:], id)
	}
	if id%5 == 0 {
		putHeader(b[:HeaderSize], DescriptorBlock, id)
	}
	return b
}

// ack is a promise that transaction tid is durable from a tick on.
type ack struct {
	tick int64
	tid  uint32
}

// driver makes changes through a Log and knows what must be there after each
// transaction. It is one goroutine; commits and checkpoints are the Log's.
type driver struct {
	*rig
	t     testT
	log   *Log
	cache *buffer.Cache
	dev   blockdev.Device
	pick  func(n int) int

	now     map[uint64]want
	freedIn map[uint64]uint32 // free, but not before this transaction is durable
	after   map[uint32]map[uint64]want
	acks    []ack
	id      uint32
	tid     uint32
	failed  error // the first error that the log gave, which ends the run

	mu    sync.Mutex
	freed []uint64 // by callbacks
}

func newDriver(t testT, r *rig, o WriterOptions, pick func(n int) int) *driver {
	t.Helper()
	var ext blockdev.Device
	if r.external {
		ext = r.ext
	}
	return newDriverOn(t, r, r.home, ext, o, pick)
}

func newDriverOn(t testT, r *rig, home, ext blockdev.Device, o WriterOptions, pick func(n int) int) *driver {
	t.Helper()
	d := &driver{
		rig: r, t: t, pick: pick, dev: home,
		now: map[uint64]want{}, freedIn: map[uint64]uint32{}, after: map[uint32]map[uint64]want{},
	}
	d.log, d.cache = r.start(t, home, ext, o)
	for b := range uint64(r.blocks) {
		meta := b < uint64(r.blocks)*2/3
		d.now[b] = want{any: !meta, meta: meta}
	}
	d.tid = r.lb.sequence
	d.after[d.tid-1] = maps.Clone(d.now)
	d.after[d.tid] = d.after[d.tid-1]
	return d
}

func seeded(seed uint64) func(n int) int { return rand.New(rand.NewPCG(seed, 1)).IntN }

// step does one thing. It returns false after an error of the log.
func (d *driver) step() bool {
	switch k := d.pick(16); {
	case k < 10:
		d.operate()
	case k < 12:
		d.writeData()
	case k < 15:
		d.commit()
	default:
		if d.pick(3) == 0 {
			if err := d.log.Checkpoint(); err != nil {
				d.failed = err
			} else {
				d.acks = append(d.acks, ack{d.clock.Now(), d.tid})
			}
		}
	}
	return d.failed == nil
}

// operate is one handle.
func (d *driver) operate() {
	n := 1 + d.pick(3)
	h, err := d.log.Begin(Credits{Blocks: n + 1, Revokes: n})
	if err != nil {
		d.failed = err
		return
	}
	d.tid = h.TID()
	d.collect()
	d.modify(h, 0) // as hot as a superblock
	for range n {
		b := uint64(1 + d.pick(d.blocks-1))
		in, freed := d.freedIn[b]
		switch {
		case d.failed != nil:
		case d.now[b].meta && d.pick(3) == 0:
			d.freedIn[b] = h.TID()
			d.now[b] = want{any: true}
			h.Forget(d.offset + b)
			h.OnCommit(func() {
				d.mu.Lock()
				defer d.mu.Unlock()
				d.freed = append(d.freed, b)
			})
		case d.now[b].meta:
			d.modify(h, b)
		case !freed || in == h.TID() && d.pick(2) == 0:
			delete(d.freedIn, b)
			d.create(h, b)
		}
	}
	if err := h.End(); err != nil {
		d.failed = err
	}
	d.after[d.tid] = maps.Clone(d.now)
}

// collect takes note of what has become free.
func (d *driver) collect() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, b := range d.freed {
		// It may have been created and freed again by a younger transaction.
		if in, ok := d.freedIn[b]; ok && later(d.log.committed.Load(), in) {
			delete(d.freedIn, b)
		}
	}
	d.freed = nil
}

func (d *driver) modify(h *Handle, b uint64) {
	buf, err := d.cache.Read(d.offset+b, tagOf(0), func([]byte) error { return nil })
	if err != nil {
		d.t.Fatalf("%v", err)
	}
	if !bytes.Equal(buf.Data, content(d.lb.bs, d.offset+b, d.now[b].id)) {
		d.t.Fatalf("the cache has %x as block %d, want version %d", buf.Data[:8], b, d.now[b].id)
	}
	if err := h.Modify(buf); err != nil {
		d.failed = err
		return
	}
	d.fill(buf)
}

func (d *driver) create(h *Handle, b uint64) {
	buf, err := h.New(d.offset+b, tagOf(0))
	if err != nil {
		d.failed = err
		return
	}
	d.fill(buf)
}

func (d *driver) fill(buf *buffer.Buffer) {
	d.id++
	copy(buf.Data, content(d.lb.bs, buf.Block, d.id))
	d.now[buf.Block-d.offset] = want{id: d.id, meta: true}
}

// writeData uses a block that is free for file data.
func (d *driver) writeData() {
	d.collect()
	b := uint64(1 + d.pick(d.blocks-1))
	if _, freed := d.freedIn[b]; freed || d.now[b].meta || !d.now[b].any {
		return
	}
	d.id++
	if _, err := d.dev.WriteAt(content(d.lb.bs, d.offset+b, d.id), int64(d.offset+b)*int64(d.lb.bs)); err != nil {
		return // then it may contain anything
	}
	d.now[b] = want{id: d.id}
}

func (d *driver) commit() {
	if err := d.log.Commit(d.tid); err != nil {
		d.failed = err
		return
	}
	d.acks = append(d.acks, ack{d.clock.Now(), d.tid})
}

// promised is the youngest transaction that was acknowledged before the cut.
func (d *driver) promised(cut int64) uint32 {
	tid := d.lb.sequence - 1
	for _, a := range d.acks {
		if a.tick <= cut && a.tid != d.lb.sequence { // which never was
			tid = a.tid
		}
	}
	return tid
}

// check recovers what is on the devices and compares. With home set it writes
// the replay home and does it again.
func (d *driver) check(home, ext blockdev.Device, cut int64, writeHome bool) error {
	j, log, err := d.load(home, ext)
	if err != nil {
		return err
	}
	r, err := j.Recover()
	if err != nil {
		return err
	}
	tid := r.EndTID - 1
	state, known := d.after[tid]
	if !known {
		return fmt.Errorf("recovered transaction %d, which never was", tid)
	}
	if p := d.promised(cut); !later(tid, p) {
		return fmt.Errorf("recovered up to transaction %d, but %d was acknowledged", tid, p)
	}
	view := home
	if writeHome {
		if err := r.WriteHome(home); err != nil {
			return err
		}
		if err := j.Reset(log, r); err != nil {
			return err
		}
		again, _, err := d.load(home, ext)
		if err != nil {
			return err
		}
		if !again.Clean() || !later(again.Superblock.Sequence, r.EndTID) {
			return fmt.Errorf("after the replay the superblock is %+v", again.Superblock)
		}
	} else {
		view = NewOverlay(home, r)
	}
	return d.compare(view, state, tid)
}

func (d *driver) compare(view io.ReaderAt, state map[uint64]want, tid uint32) error {
	got := make([]byte, d.lb.bs)
	for b := range uint64(d.blocks) {
		w := state[b]
		if w.any {
			continue
		}
		if _, err := view.ReadAt(got, int64(d.offset+b)*int64(d.lb.bs)); err != nil {
			return err
		}
		if !bytes.Equal(got, content(d.lb.bs, d.offset+b, w.id)) {
			return fmt.Errorf("after transaction %d block %d begins with %x, want version %d", tid, b, got[:16], w.id)
		}
	}
	return nil
}

// checkAll cuts the history of the devices: at every flush, with up to limit
// images of each, or with n samples all over.
func (d *driver) checkAll(limit, samples int, seed uint64) (images int) {
	d.t.Helper()
	hh := d.home.History()
	var he *blocktest.History
	if d.external {
		he = d.ext.History()
	}
	try := func(c *blocktest.Crash) {
		home := c.Image()
		var ext blockdev.Device
		what := c.String()
		if he != nil {
			e := he.Sample(c.Cut, seed+uint64(images))
			ext = e.Image()
			what += "\n" + e.String()
		}
		if err := d.check(home, ext, c.Cut, images%8 == 7); err != nil {
			d.t.Fatalf("%v\n%s", err, what)
		}
		images++
	}
	if samples > 0 {
		for c := range hh.Samples(samples, seed) {
			try(c)
		}
		return images
	}
	for c := range hh.All(limit, seed) {
		try(c)
	}
	if he != nil {
		// The cuts above are at the flushes of the filesystem's device.
		for _, cut := range he.Epochs() {
			for k := range uint64(limit) {
				try(hh.Sample(cut, seed+k))
			}
		}
	}
	return images
}

// close ends the run: of a good one everything is at home and the log empty.
func (d *driver) close() {
	d.t.Helper()
	err := d.log.Close()
	if d.failed != nil {
		return
	}
	if err != nil {
		d.t.Fatalf("Close: %v", err)
	}
	d.acks = append(d.acks, ack{d.clock.Now(), d.tid})
	var ext blockdev.Device
	if d.external {
		ext = d.ext.Clone()
	}
	j, _, err := d.load(d.home.Clone(), ext)
	if err != nil || !j.Clean() {
		d.t.Fatalf("after Close: %v, %+v", err, j)
	}
	if err := d.compare(d.home, d.now, d.tid); err != nil {
		d.t.Fatalf("after Close: %v", err)
	}
	if n := d.log.entries(); n != 0 {
		d.t.Fatalf("%d entries are left", n)
	}
}

// entries is how many blocks the log is concerned with.
func (l *Log) entries() (n int) {
	for i := range l.shards {
		l.shards[i].mu.Lock()
		n += len(l.shards[i].index)
		l.shards[i].mu.Unlock()
	}
	return n
}

// recovered is the filesystem after a crash at the tick.
func (d *driver) recovered(home blockdev.Device, rec *blocktest.Recording, cut int64, seed uint64) (blockdev.Device, error) {
	var ext blockdev.Device
	if rec != nil {
		ext = rec.History().Sample(cut, seed).Image()
	}
	j, _, err := d.load(home, ext)
	if err != nil {
		return nil, err
	}
	r, err := j.Recover()
	if err != nil {
		return nil, err
	}
	return NewOverlay(home, r), nil
}

func tagOf(owner uint32) buffer.Tag { return buffer.Tag{Kind: buffer.Bitmap, Owner: owner} }
