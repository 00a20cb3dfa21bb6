package blocktest

import (
	"io"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"syscall"

	"ext4box/blockdev"
)

// Unsteady is a device that somebody else changes underneath: what is read is not
// always what was written, nor what was read before. Which reads that concerns, and
// how, follows from the seed and from the order of the reads. Writes get through.
type Unsteady struct {
	blockdev.Device

	// Other, if not nil, is another version of the content, which is as valid.
	Other io.ReaderAt
	// Unit is what is changed together, in bytes: the block size.
	Unit int64
	// Rate is how many reads of 1,000 are not as they should be.
	Rate int
	// Bits says that only single bits change, as with errors of memory.
	Bits bool

	mu      sync.Mutex
	rng     *rand.Rand
	on      atomic.Bool
	changed atomic.Int64
}

// NewUnsteady returns a device over dev that is steady until Start.
func NewUnsteady(dev blockdev.Device, unit int64, rate int, seed uint64) *Unsteady {
	return &Unsteady{Device: dev, Unit: unit, Rate: rate, rng: rand.New(rand.NewPCG(seed, 0x7E57))}
}

// Start begins the changes.
func (d *Unsteady) Start() { d.on.Store(true) }

// Changed is how many reads were not as they should have been.
func (d *Unsteady) Changed() int64 { return d.changed.Load() }

// ReadAt implements [io.ReaderAt].
func (d *Unsteady) ReadAt(p []byte, off int64) (int, error) {
	if !d.on.Load() || len(p) == 0 {
		return d.Device.ReadAt(p, off)
	}
	d.mu.Lock()
	hit, kind, at, bits := d.rng.IntN(1000) < d.Rate, d.rng.IntN(16), d.rng.Int64(), d.rng.Uint64()
	d.mu.Unlock()
	if !hit {
		return d.Device.ReadAt(p, off)
	}
	d.changed.Add(1)
	if d.Bits {
		kind = 15
	}
	switch kind {
	case 0:
		return 0, syscall.EIO
	case 1: // the end of a file that was cut off
		n, err := d.Device.ReadAt(p[:at%int64(len(p))], off)
		if err == nil {
			err = io.EOF
		}
		return n, err
	case 2:
		clear(p)
		return len(p), nil
	case 3, 4: // what belongs elsewhere
		off = at % max(d.Size()-int64(len(p)), 1)
		return d.Device.ReadAt(p, off-off%d.Unit)
	case 5, 6, 7, 8:
		if d.Other != nil {
			return d.Other.ReadAt(p, off)
		}
	}
	n, err := d.Device.ReadAt(p, off)
	if n == 0 {
		return n, err
	}
	for i := range 1 + bits%3 {
		k := int(at>>(8*i)) % n
		if kind < 12 { // near the start, where most counts are
			k %= min(n, 64)
		}
		p[k] ^= 1 << (bits >> (8 + 3*i) & 7)
		if kind == 14 {
			p[k] = byte(bits >> (20 + 8*i))
		}
	}
	return n, err
}
