package quota

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"syscall"
	"testing"

	"ext4box/ext4/internal/buffer"
	"ext4box/ext4/internal/buffer/buffertest"
)

// plain is a file whose blocks follow one another on a device.
type plain struct {
	size int // of a block of the device
	data []byte
	room uint32 // blocks up to which it can grow
}

func (p *plain) Where(blk uint32) (uint64, int, error) {
	at := int(blk) << BlockBits
	return uint64(at / p.size), at % p.size, nil
}

func (p *plain) Grow(_ buffer.Tx, blk uint32) error {
	if blk >= p.room {
		return syscall.ENOSPC
	}
	return nil
}

// fresh is an empty file, as mke2fs makes them.
func fresh(kind Kind) []byte {
	b := make([]byte, 2*BlockSize)
	le := binary.LittleEndian
	le.PutUint32(b, magics[kind])
	le.PutUint32(b[4:], version)
	le.PutUint32(b[8:], 7)
	le.PutUint32(b[12:], 9)
	le.PutUint32(b[0x14:], 2)
	return b
}

func rig(t testing.TB, image []byte, blockSize int, room uint32) (*File, *buffertest.Tx, *buffer.Cache) {
	t.Helper()
	data := make([]byte, int(room)*BlockSize)
	copy(data, image)
	cache := buffer.New(bytes.NewReader(data), blockSize, 64<<20)
	f, err := Open(cache, &plain{blockSize, data, room}, User, uint64(len(data)))
	if err != nil {
		t.Fatal(err)
	}
	return f, buffertest.New(cache), cache
}

// check walks the whole file: every record is found, every block is in use or
// free, and in the list where it belongs.
func check(f *File, want map[uint32]Record) error {
	le := binary.LittleEndian
	seen := map[uint32]bool{0: true, root: true}
	data := map[uint32]int{}
	var visit func(blk uint32, level int) error
	visit = func(blk uint32, level int) error {
		return f.view(blk, func(b []byte) error {
			for i := range BlockSize / 4 {
				ref := le.Uint32(b[4*i:])
				switch {
				case ref == 0:
				case level == levels-1:
					data[ref]++
					seen[ref] = true
				case seen[ref]:
					return fmt.Errorf("block %d is twice in the tree", ref)
				default:
					seen[ref] = true
					if err := visit(ref, level+1); err != nil {
						return err
					}
				}
			}
			return nil
		})
	}
	if err := visit(root, 0); err != nil {
		return err
	}
	listed := map[uint32]bool{}
	prev := uint32(0)
	for blk := f.freeEntry; blk != 0; {
		if listed[blk] {
			return fmt.Errorf("block %d is twice in the list", blk)
		}
		listed[blk] = true
		err := f.records(blk, func(b []byte, n int) error {
			if n == perBlock || le.Uint32(b[blockPrev:]) != prev {
				return fmt.Errorf("block %d with %d records follows %d in the list", blk, n, prev)
			}
			prev, blk = blk, le.Uint32(b[blockNext:])
			return nil
		})
		if err != nil {
			return err
		}
	}
	for blk, refs := range data {
		err := f.records(blk, func(_ []byte, n int) error {
			if n != refs || (n < perBlock) != listed[blk] {
				return fmt.Errorf("block %d has %d records and %d references; listed: %v", blk, n, refs, listed[blk])
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	for blk := f.freeBlock; blk != 0; {
		if seen[blk] {
			return fmt.Errorf("block %d is free and in use", blk)
		}
		seen[blk] = true
		next, err := f.nextFree(blk)
		if err != nil {
			return err
		}
		blk = next
	}
	if len(seen) != int(f.blocks) {
		return fmt.Errorf("%d of %d blocks are accounted for", len(seen), f.blocks)
	}
	for id, w := range want {
		if _, r, ok, err := f.Find(id); err != nil || !ok || r != w {
			return fmt.Errorf("id %d: %+v, %v, %v instead of %+v", id, r, ok, err, w)
		}
	}
	return nil
}

// TestModel compares random changes with a map.
func TestModel(t *testing.T) {
	for _, blockSize := range []int{1024, 4096} {
		for seed := range uint64(6) {
			rng := rand.New(rand.NewPCG(seed, 1))
			f, tx, cache := rig(t, fresh(User), blockSize, 4096)
			want := map[uint32]Record{}
			var ids []uint32
			places := map[uint32]Place{}
			for range 3000 {
				switch k := rng.IntN(10); {
				case k < 5 && rng.IntN(400) > len(ids)/3:
					id := rng.Uint32() >> rng.IntN(32)
					if _, ok := want[id]; ok {
						if _, err := f.Insert(tx, id); !errors.Is(err, syscall.EUCLEAN) {
							t.Fatalf("a second record of %d: %v", id, err)
						}
						continue
					}
					at, err := f.Insert(tx, id)
					if err != nil {
						t.Fatal(err)
					}
					want[id], places[id] = Record{ID: id}, at
					ids = append(ids, id)
				case len(ids) == 0:
				case k < 8:
					id := ids[rng.IntN(len(ids))]
					r := Record{ID: id, Space: rng.Uint64(), Inodes: rng.Uint64(), SpaceHard: rng.Uint64() >> 2 &^ 1023, InodeTime: rng.Uint64N(3)}
					if rng.IntN(3) == 0 {
						r = Record{ID: id}
					}
					if id == 0 && r.InodeTime == 1 {
						r.InodeTime = 2
					}
					if err := f.Write(tx, places[id], &r); err != nil {
						t.Fatal(err)
					}
					want[id] = r
				default:
					i := rng.IntN(len(ids))
					id := ids[i]
					ids = slices.Delete(ids, i, i+1)
					delete(want, id)
					if err := f.Remove(tx, id); err != nil {
						t.Fatal(err)
					}
					if _, _, ok, err := f.Find(id); ok || err != nil {
						t.Fatalf("id %d was removed: %v, %v", id, ok, err)
					}
				}
			}
			if err := check(f, want); err != nil {
				t.Fatalf("seed %d: %v", seed, err)
			}
			again, err := Open(cache, f.storage, User, uint64(f.blocks)<<BlockBits)
			if err != nil {
				t.Fatal(err)
			}
			if err := check(again, want); err != nil || again.SpaceGrace != 7 || again.InodeGrace != 9 {
				t.Fatalf("opened again: %v", err)
			}
			for _, id := range ids {
				if err := f.Remove(tx, id); err != nil {
					t.Fatal(err)
				}
			}
			if err := check(f, nil); err != nil {
				t.Fatalf("empty: %v", err)
			}
		}
	}
}

// TestNoSpace: an Insert for which the file cannot grow leaves it as it was.
func TestNoSpace(t *testing.T) {
	for room := uint32(2); room < 12; room++ {
		f, tx, _ := rig(t, fresh(User), 1024, room)
		want := map[uint32]Record{}
		for i := range uint32(5) {
			id := i * 0x01010101
			_, err := f.Insert(tx, id)
			if err == nil {
				want[id] = Record{ID: id}
			} else if !errors.Is(err, syscall.ENOSPC) {
				t.Fatal(err)
			}
			if err := check(f, want); err != nil {
				t.Fatalf("room for %d blocks: %v", room, err)
			}
		}
		if room == 6 && len(want) != 1 {
			t.Errorf("%d records in 6 blocks", len(want))
		}
	}
}

// TestCredits: no change touches more blocks than it says.
func TestCredits(t *testing.T) {
	f, _, cache := rig(t, fresh(User), 1024, 4096)
	rng := rand.New(rand.NewPCG(1, 2))
	var ids []uint32
	for range 2000 {
		tx := buffertest.New(cache)
		limit := CreditsInsert
		if len(ids) > 0 && rng.IntN(3) == 0 {
			i := rng.IntN(len(ids))
			if err := f.Remove(tx, ids[i]); err != nil {
				t.Fatal(err)
			}
			ids, limit = slices.Delete(ids, i, i+1), CreditsRemove
		} else {
			id := rng.Uint32()
			if _, err := f.Insert(tx, id); err != nil {
				t.Fatal(err)
			}
			ids = append(ids, id)
		}
		if n := len(tx.Modified()); n > limit {
			t.Fatalf("%d blocks were changed, %d promised", n, limit)
		}
	}
}

// FuzzFile changes what a hostile file says.
func FuzzFile(f *testing.F) {
	good, tx, cache := rig(f, fresh(User), 1024, 256)
	for i := range uint32(40) {
		if _, err := good.Insert(tx, i*i*977); err != nil {
			f.Fatal(err)
		}
	}
	if err := good.Remove(tx, 977); err != nil {
		f.Fatal(err)
	}
	var image []byte
	for blk := range uint64(good.blocks) {
		b, err := cache.Read(blk, good.tag, nil)
		if err != nil {
			f.Fatal(err)
		}
		image = append(image, b.Data...)
	}
	f.Add(image, uint32(977*4))
	for i := range 40 {
		bad := slices.Clone(image)
		binary.LittleEndian.PutUint32(bad[i*len(bad)/40&^3:], uint32(i))
		f.Add(bad, uint32(i))
	}
	f.Fuzz(func(t *testing.T, image []byte, id uint32) {
		image = image[:min(len(image), 256*BlockSize)]
		data := make([]byte, 512*BlockSize)
		copy(data, image)
		cache := buffer.New(bytes.NewReader(data), 1024, 1<<20)
		q, err := Open(cache, &plain{1024, data, 512}, User, uint64(len(data)))
		if err != nil {
			if !errors.Is(err, syscall.EUCLEAN) {
				t.Fatal(err)
			}
			return
		}
		tx := buffertest.New(cache)
		for i := range uint32(6) {
			_, _, ok, err := q.Find(id + i*300)
			if err == nil && !ok {
				_, err = q.Insert(tx, id+i*300)
			} else if err == nil && i%2 == 0 {
				err = q.Remove(tx, id+i*300)
			}
			if err != nil && !errors.Is(err, syscall.EUCLEAN) && !errors.Is(err, syscall.ENOSPC) {
				t.Fatal(err)
			}
		}
	})
}
