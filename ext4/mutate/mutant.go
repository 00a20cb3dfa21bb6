package mutate

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"

	"ext4box/blockdev/blocktest"
	"ext4box/ext4/internal/disk"
)

// Mutant is an image that differs from its base.
type Mutant struct {
	Base   *Base
	Seed   uint64
	What   []string // was done, in the order in which it was
	Sealed bool     // checksums were put right
	Logged bool     // what was done comes with the recovery of the journal
	Inodes []uint32 // whose structures changed, sorted
	Size   int64    // of the image, in bytes; less than that of the base where it was cut off

	pages map[int64][]byte
}

// Edit is a range of bytes that differ.
type Edit struct {
	Off      int64
	Old, New []byte
}

// Mutant makes the mutant of a seed: the same one for the same base and seed.
func (b *Base) Mutant(seed uint64) *Mutant {
	m := b.mutate(rand.New(rand.NewPCG(seed, 0x6d7574616e74)))
	m.Seed = seed
	return m
}

// FromBytes makes a mutant by choices that are read from data, for fuzzing. Seed is 0.
func (b *Base) FromBytes(data []byte) *Mutant {
	return b.mutate(rand.New(&choices{data, rand.NewPCG(1, 1)}))
}

// choices is a source of numbers that are in data, and of others where that ends: rand
// would wait for ever for a number that is not zero.
type choices struct {
	data []byte
	rest rand.Source
}

func (c *choices) Uint64() uint64 {
	// Two bytes each are enough for most choices; their place is where rand looks first.
	if len(c.data) < 2 {
		return c.rest.Uint64()
	}
	v := uint64(c.data[0])<<8 | uint64(c.data[1])
	c.data = c.data[2:]
	return v<<48 | v<<32 | v<<16 | v
}

func (b *Base) mutate(rng *rand.Rand) *Mutant {
	w := newWork(b, rng)
	n := 1
	if w.chance(2, 5) {
		n = 2 + rng.IntN(7)
	}
	for range n {
		w.step()
	}
	for len(w.what) == 0 { // what was tried is not to be had here
		w.fieldStep()
	}
	w.keepAway()
	m := &Mutant{Base: b}
	hit := w.owners()
	if m.Sealed = !w.chance(1, 8); m.Sealed {
		w.seal()
		if w.chance(1, 8) {
			m.Logged = w.throughLog()
		}
	}
	m.What, m.Size, m.pages = w.what, w.size, w.pages
	m.Inodes = hit
	return m
}

// owners are the inodes whose structures changed.
func (w *work) owners() (list []uint32) {
	for _, i := range w.stale {
		if ino := w.b.sites[i].owner; ino != 0 && !slices.Contains(list, ino) {
			list = append(list, ino)
		}
	}
	slices.Sort(list)
	return list
}

// keepAway undoes what only makes opening slow or impossible by design: a filesystem that
// another host seems to have open.
func (w *work) keepAway() {
	raw := w.read(disk.SuperblockOffset, disk.SuperblockSize)
	if bits := le.Uint32(raw[0x60:]); disk.Incompat(bits)&disk.IncompatMMP != w.b.sb.Incompat&disk.IncompatMMP {
		le.PutUint32(raw[0x60:], bits^uint32(disk.IncompatMMP))
		w.write(disk.SuperblockOffset, raw)
	}
	if len(w.b.of[kindMMP]) > 0 {
		s := &w.b.sites[w.b.of[kindMMP][0]]
		w.write(s.off+4, w.b.data[s.off+4:][:4])
	}
}

// step does one thing.
func (w *work) step() {
	switch n := w.rng.IntN(20); {
	case n < 11:
		w.fieldStep()
	case n < 13:
		w.rawStep()
	default:
		s := pick(w, shapes)
		before := len(w.what)
		s.make(w)
		if len(w.what) == before {
			w.fieldStep()
		}
	}
}

// fieldStep sets a field.
func (w *work) fieldStep() {
	i := w.anySite()
	s := &w.b.sites[i]
	b := w.read(s.off, s.size)
	if s.kind == kindBlockBitmap || s.kind == kindInodeBitmap {
		w.bitmapStep(i)
		return
	}
	list := w.fields(s, b)
	f := pick(w, list)
	if f.off+f.width > len(b) {
		return
	}
	old := f.get(b)
	v := w.value(s, &f, old)
	for range 3 {
		if v&(1<<(8*f.width)-1) != old {
			break
		}
		v = w.value(s, &f, old)
	}
	w.setField(i, &f, v)
}

// bitmapStep frees or takes a range, or everything.
func (w *work) bitmapStep(i int) {
	s := &w.b.sites[i]
	bits := w.b.geo.ClustersPerGroup
	if s.kind == kindInodeBitmap {
		bits = w.b.geo.InodesPerGroup
	}
	first, n := w.rng.Uint32N(bits), uint32(1)
	switch w.rng.IntN(4) {
	case 0:
		first, n = 0, bits
	case 1:
		first = 0
		n = min(bits, 1+w.rng.Uint32N(200))
	case 2:
		n = min(bits-first, 1+w.rng.Uint32N(100))
	}
	set := w.chance(1, 2)
	w.change(i, func(b []byte) {
		if m := disk.Bitmap(b); set {
			m.SetRange(first, n)
		} else {
			m.ClearRange(first, n)
		}
	})
	w.note("%s: bits %d to %d are %v", w.name(s), first, first+n-1, set)
}

// rawStep damages bytes without knowing what they are.
func (w *work) rawStep() {
	i := w.anySite()
	s := &w.b.sites[i]
	switch w.rng.IntN(6) {
	case 0, 1:
		n := 1 + w.rng.IntN(8)
		var bits []int
		w.change(i, func(b []byte) {
			for range n {
				bit := w.rng.IntN(8 * len(b))
				b[bit/8] ^= 1 << (bit % 8)
				bits = append(bits, bit)
			}
		})
		w.note("%s: bits %v flipped", w.name(s), bits)
	case 2:
		fill := []byte{0, 0xff}[w.rng.IntN(2)]
		w.change(i, func(b []byte) {
			for j := range b {
				b[j] = fill
			}
		})
		w.note("%s: filled with %#x", w.name(s), fill)
	case 3:
		w.change(i, func(b []byte) {
			for j := range b {
				b[j] = byte(w.rng.Uint32())
			}
		})
		w.note("%s: noise", w.name(s))
	case 4: // another of its kind, which is as large
		j, _ := w.site(s.kind)
		other := &w.b.sites[j]
		w.change(i, func(b []byte) { copy(b, w.read(other.off, other.size)) })
		w.note("%s: content of %s", w.name(s), w.name(other))
	case 5:
		var at, from int
		w.change(i, func(b []byte) {
			at, from = w.rng.IntN(len(b)/4)*4, w.rng.IntN(len(b)/4)*4
			copy(b[at:at+4], b[from:from+4])
		})
		w.note("%s: word %#x is that at %#x", w.name(s), at, from)
	}
}

// throughLog moves all that changed into a transaction of the journal, behind
// what is there in place, which is sound again.
func (w *work) throughLog() bool {
	if len(w.b.log) == 0 {
		return false
	}
	inLog := make(map[uint64]bool, len(w.b.log))
	for _, blk := range w.b.log {
		inLog[blk] = true
	}
	changed := make(map[uint64]bool)
	for p := range w.pages {
		blk := uint64(p*pageSize) >> w.b.geo.BlockBits
		if inLog[blk] {
			return false // something was done to the journal itself
		}
		changed[blk] = true
	}
	var list []logged
	for blk := range changed {
		list = append(list, logged{blk, w.block(blk)})
	}
	slices.SortFunc(list, func(a, b logged) int { return int(int64(a.blk) - int64(b.blk)) })
	if len(list) == 0 || len(list) > len(w.b.log)/2 {
		return false
	}
	damaged := w.pages
	w.pages = make(map[int64][]byte)
	w.stale, w.isStale = nil, make(map[int]bool)
	l, ok := w.openLog()
	if !ok {
		w.pages = damaged
		return false
	}
	for len(list) > 0 && l.next < l.end-3 {
		list = l.blocks(list)
	}
	l.commit()
	w.seal()
	return true
}

// String says what was done.
func (m *Mutant) String() string {
	var s strings.Builder
	fmt.Fprintf(&s, "seed %d: ", m.Seed)
	s.WriteString(strings.Join(m.What, "; "))
	if m.Size < int64(len(m.Base.data)) {
		fmt.Fprintf(&s, "; %d bytes long", m.Size)
	}
	if !m.Sealed {
		s.WriteString("; checksums wrong")
	}
	if m.Logged {
		s.WriteString("; by recovery")
	}
	return s.String()
}

// Device is the image, for reading and writing; what is written stays in memory. Each call returns another one.
func (m *Mutant) Device() *blocktest.Mem {
	dev := blocktest.NewOverlay(bytes.NewReader(m.Base.data[:m.Size]), m.Size)
	for p, b := range m.pages {
		if off := p * pageSize; off < m.Size {
			if _, err := dev.WriteAt(b[:min(pageSize, m.Size-off)], off); err != nil {
				panic(err) // memory that is long enough
			}
		}
	}
	return dev
}

// WriteFile writes the image to a new file at path.
func (m *Mutant) WriteFile(path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.WriteAt(m.Base.data[:m.Size], 0); err != nil {
		return err
	}
	for p, b := range m.pages {
		if off := p * pageSize; off < m.Size {
			if _, err := f.WriteAt(b[:min(pageSize, m.Size-off)], off); err != nil {
				return err
			}
		}
	}
	return f.Close()
}

// Edits are the differences to the base, in order.
func (m *Mutant) Edits() (list []Edit) {
	var numbers []int64
	for p := range m.pages {
		numbers = append(numbers, p)
	}
	slices.Sort(numbers)
	for _, p := range numbers {
		off := p * pageSize
		old := make([]byte, pageSize)
		if off < int64(len(m.Base.data)) {
			copy(old, m.Base.data[off:])
		}
		now := m.pages[p]
		for i := 0; i < pageSize; {
			if old[i] == now[i] {
				i++
				continue
			}
			j := i
			for j < pageSize && old[j] != now[j] {
				j++
			}
			list = append(list, Edit{off + int64(i), old[i:j], now[i:j]})
			i = j
		}
	}
	return list
}
