package journal

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"syscall"
	"testing"

	"pgregory.net/rapid"

	"ext4box/ext4/internal/disk"
)

// versions reads all of a replay back: home block to version.
func versions(t testing.TB, lb *logBuilder, r *Replay) map[uint64]byte {
	t.Helper()
	got := map[uint64]byte{}
	for d := range r.All() {
		b := make([]byte, lb.bs)
		if err := r.readAt(d, b, 0); err != nil {
			t.Fatal(err)
		}
		if want := lb.fill(d.Block, b[2]).data; !bytes.Equal(b, want) {
			t.Fatalf("block %d reads as %x...", d.Block, b[:8])
		}
		got[d.Block] = b[2]
	}
	return got
}

func mustRecover(t testing.TB, lb *logBuilder) *Replay {
	t.Helper()
	r, err := lb.recover()
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func wantVersions(t testing.TB, lb *logBuilder, want map[uint64]byte) *Replay {
	t.Helper()
	r := mustRecover(t, lb)
	if got := versions(t, lb, r); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Fatalf("recovered %v, want %v", got, want)
	}
	return r
}

func wantCorrupt(t testing.TB, lb *logBuilder, what string) {
	t.Helper()
	r, err := lb.recover()
	var corrupt *disk.CorruptError
	if !errors.As(err, &corrupt) || !errors.Is(err, syscall.EUCLEAN) || !strings.Contains(err.Error(), what) {
		t.Fatalf("%v, %v; want corruption: %s", r, err, what)
	}
}

// everyFormat runs a test on each variant of the format.
func everyFormat(t *testing.T, fn func(t *testing.T, lb func(...func(*logBuilder)) *logBuilder)) {
	for _, c := range []Checksum{ChecksumNone, ChecksumV1, ChecksumV2, ChecksumV3} {
		for _, wide := range []bool{false, true} {
			for _, uuid := range []bool{false, true} {
				t.Run(fmt.Sprintf("v%d,wide=%v,uuid=%v", c, wide, uuid), func(t *testing.T) {
					fn(t, func(opts ...func(*logBuilder)) *logBuilder {
						return newLog(append([]func(*logBuilder){func(lb *logBuilder) {
							lb.checksum, lb.wide, lb.uuidTags = c, wide, uuid
						}}, opts...)...)
					})
				})
			}
		}
	}
}

func TestRecoverLastVersionWins(t *testing.T) {
	everyFormat(t, func(t *testing.T, newLog func(...func(*logBuilder)) *logBuilder) {
		lb := newLog()
		lb.transaction(1, 100, 200, 0)
		lb.descriptor(lb.fill(300, 2), lb.fill(100, 2))
		lb.descriptor(lb.fill(400, 2))
		lb.commit()
		head := lb.next
		lb.descriptor(lb.fill(200, 3)) // never committed
		r := wantVersions(t, lb, map[uint64]byte{0: 1, 100: 2, 200: 1, 300: 2, 400: 2})
		if r.Transactions != 2 || r.EndTID != 9 || r.NextTID != 10 || r.Head != head || !r.Dirty || r.Logged != 6 {
			t.Errorf("%+v", r)
		}
	})
}

func TestRecoverWideBlockNumbers(t *testing.T) {
	for _, c := range []Checksum{ChecksumNone, ChecksumV2, ChecksumV3} {
		lb := newLog(withChecksum(c))
		lb.transaction(1, 1<<33+5)
		wantVersions(t, lb, map[uint64]byte{1<<33 + 5: 1})
	}
}

func TestRecoverRevokes(t *testing.T) {
	everyFormat(t, func(t *testing.T, newLog func(...func(*logBuilder)) *logBuilder) {
		lb := newLog()
		lb.transaction(1, 10, 11, 12, 13)
		lb.revoke(10, 11, 99)
		lb.descriptor(lb.fill(11, 2), lb.fill(14, 2)) // a revoke covers its own transaction
		lb.commit()
		lb.transaction(3, 10) // logged again after it was revoked
		lb.revoke(13)
		lb.commit()
		lb.revoke(14) // not committed
		r := wantVersions(t, lb, map[uint64]byte{10: 3, 12: 1, 14: 2})
		if r.Revoked != 4 || r.Revokes != 4 {
			t.Errorf("%d blocks revoked by %d records", r.Revoked, r.Revokes)
		}
	})
}

func TestRecoverEscapes(t *testing.T) {
	everyFormat(t, func(t *testing.T, newLog func(...func(*logBuilder)) *logBuilder) {
		lb := newLog()
		data := lb.fill(5, 1).data
		be.PutUint32(data, magicNumber)
		lb.descriptor(write{5, data}, lb.fill(6, 1))
		lb.commit()
		r := mustRecover(t, lb)
		d, ok := r.Lookup(5)
		if !ok || !d.Escaped {
			t.Fatalf("%+v, %v", d, ok)
		}
		for _, within := range []int{0, 1, 3, 4, 100} {
			for _, n := range []int{1, 2, 3, 5, 500} {
				p := make([]byte, n)
				if err := r.readAt(d, p, within); err != nil || !bytes.Equal(p, data[within:within+n]) {
					t.Errorf("%d bytes at %d: %x, %v", n, within, p, err)
				}
			}
		}
	})
}

func TestRecoverWrapsAround(t *testing.T) {
	everyFormat(t, func(t *testing.T, newLog func(...func(*logBuilder)) *logBuilder) {
		for start := uint32(1); start < 16; start++ {
			lb := newLog(func(lb *logBuilder) { lb.maxLen, lb.start = 16, start })
			lb.transaction(1, 1, 2, 3)
			lb.transaction(2, 2, 4)
			lb.transaction(3, 5, 6)
			r := wantVersions(t, lb, map[uint64]byte{1: 1, 2: 2, 3: 1, 4: 2, 5: 3, 6: 3})
			if r.Head != lb.next {
				t.Errorf("start %d: head is %d, want %d", start, r.Head, lb.next)
			}
		}
	})
}

func TestRecoverFullLog(t *testing.T) {
	lb := newLog(func(lb *logBuilder) { lb.maxLen = 16 })
	for v := byte(1); v <= 5; v++ {
		lb.transaction(v, uint64(v)) // three blocks each: all fifteen of the log
	}
	if lb.next != lb.start {
		t.Fatalf("the log is not full, next is %d", lb.next)
	}
	wantVersions(t, lb, map[uint64]byte{1: 1, 2: 2, 3: 3, 4: 4, 5: 5})
}

func TestRecoverSequenceWrapsAround(t *testing.T) {
	everyFormat(t, func(t *testing.T, newLog func(...func(*logBuilder)) *logBuilder) {
		lb := newLog(func(lb *logBuilder) { lb.sequence = 0xFFFFFFFE })
		for v := byte(1); v <= 4; v++ {
			lb.transaction(v, uint64(v), 50)
		}
		lb.revoke(1, 50)
		lb.commit()
		r := wantVersions(t, lb, map[uint64]byte{2: 2, 3: 3, 4: 4})
		if r.EndTID != 3 || r.Transactions != 5 {
			t.Errorf("%+v", r)
		}
	})
	// A log that ends in front of transaction 0 is not one whose end is unknown.
	lb := newLog(func(lb *logBuilder) { lb.sequence = 0xFFFFFFFF })
	lb.transaction(1, 1)
	if r := wantVersions(t, lb, map[uint64]byte{1: 1}); r.EndTID != 0 || r.NextTID != 1 {
		t.Errorf("%+v", r)
	}
}

func TestRecoverCleanJournal(t *testing.T) {
	lb := newLog(func(lb *logBuilder) { lb.sequence = 0 })
	lb.transaction(1, 1)
	lb.start = 0
	r := wantVersions(t, lb, map[uint64]byte{})
	if r.Dirty || r.Len() != 0 || r.NextTID != 1 {
		t.Errorf("%+v", r)
	}
}

func TestRecoverDirtyWithoutTransactions(t *testing.T) {
	lb := newLog()
	r := wantVersions(t, lb, map[uint64]byte{})
	if !r.Dirty || r.EndTID != 7 || r.NextTID != 8 {
		t.Errorf("%+v", r)
	}
}

func TestRecoverIgnoresStaleBlocks(t *testing.T) {
	everyFormat(t, func(t *testing.T, newLog func(...func(*logBuilder)) *logBuilder) {
		lb := newLog()
		lb.transaction(1, 1)
		lb.tid = 42 // an earlier life of the log
		lb.transaction(9, 2)
		wantVersions(t, lb, map[uint64]byte{1: 1})
	})
}

func TestTornCommitBlock(t *testing.T) {
	lb := newLog()
	lb.transaction(1, 1)
	at := lb.commit()
	for i := 512; i < lb.bs; i++ {
		lb.block(at)[i] = 0xEE // what was there before
	}
	if r := wantVersions(t, lb, map[uint64]byte{1: 1}); r.Transactions != 2 {
		t.Errorf("%+v", r)
	}
}

func TestBadChecksums(t *testing.T) {
	for _, c := range []Checksum{ChecksumV2, ChecksumV3} {
		build := func(damage func(lb *logBuilder, d, r, c uint32)) *logBuilder {
			lb := newLog(withChecksum(c))
			lb.transaction(1, 1)
			d := lb.descriptor(lb.fill(2, 2), lb.fill(3, 2))
			r := lb.revoke(77)
			c := lb.commit()
			damage(lb, d, r, c)
			return lb
		}
		t.Run("descriptor", func(t *testing.T) {
			wantCorrupt(t, build(func(lb *logBuilder, d, _, _ uint32) { lb.block(d)[500] ^= 1 }), "transaction 8 is corrupt")
		})
		t.Run("revoke", func(t *testing.T) {
			wantCorrupt(t, build(func(lb *logBuilder, _, r, _ uint32) { lb.block(r)[500] ^= 1 }), "transaction 8 is corrupt")
		})
		t.Run("commit", func(t *testing.T) {
			wantCorrupt(t, build(func(lb *logBuilder, _, _, c uint32) { lb.block(c)[20] ^= 1 }), "transaction 8 is corrupt")
		})
		t.Run("data", func(t *testing.T) {
			wantCorrupt(t, build(func(lb *logBuilder, d, _, _ uint32) { lb.block(d + 2)[500] ^= 1 }), "checksum of block 3")
		})
		t.Run("stale", func(t *testing.T) {
			// A whole transaction with the right number but a commit time in
			// the past and checksums of another journal.
			for damaged := range 3 {
				wantVersions(t, build(func(lb *logBuilder, d, r, c uint32) {
					lb.block([]uint32{d, r, c}[damaged])[900] ^= 1
					lb.block(c)[21] ^= 1
					be.PutUint64(lb.block(c)[0x30:], 10)
				}), map[uint64]byte{1: 1})
			}
		})
		t.Run("uncommitted", func(t *testing.T) {
			wantVersions(t, build(func(lb *logBuilder, d, _, c uint32) {
				lb.block(d)[500] ^= 1
				clear(lb.block(c))
			}), map[uint64]byte{1: 1})
		})
		t.Run("revoked data", func(t *testing.T) {
			wantVersions(t, build(func(lb *logBuilder, d, _, _ uint32) {
				lb.block(d + 2)[500] ^= 1
				lb.revoke(3)
				lb.commit()
			}), map[uint64]byte{1: 1, 2: 2})
		})
		t.Run("async", func(t *testing.T) {
			lb := build(func(lb *logBuilder, _, _, c uint32) {
				lb.block(c)[20] ^= 1
				lb.transaction(3, 4)
			})
			lb.async = true
			if r := wantVersions(t, lb, map[uint64]byte{1: 1}); r.EndTID != 8 {
				t.Errorf("%+v", r)
			}
		})
	}
}

func TestV1Checksums(t *testing.T) {
	build := func(async, follow bool, damage func(lb *logBuilder, d, c uint32)) *logBuilder {
		lb := newLog(withChecksum(ChecksumV1))
		lb.async = async
		lb.transaction(1, 1)
		d := lb.descriptor(lb.fill(2, 2))
		lb.revoke(1) // not part of the checksum
		c := lb.commit()
		if follow {
			lb.transaction(3, 3)
		}
		damage(lb, d, c)
		return lb
	}
	hurt := func(lb *logBuilder, d, _ uint32) { lb.block(d + 1)[7] ^= 1 }
	fine := func(*logBuilder, uint32, uint32) {}

	wantVersions(t, build(false, true, fine), map[uint64]byte{2: 2, 3: 3})
	wantCorrupt(t, build(false, false, hurt), "transaction 8 is corrupt")
	wantCorrupt(t, build(false, true, hurt), "transaction 8 is corrupt")
	wantVersions(t, build(true, false, hurt), map[uint64]byte{1: 1})
	wantCorrupt(t, build(true, true, hurt), "transaction 8 is corrupt")
	lb := build(false, false, func(lb *logBuilder, d, c uint32) {
		hurt(lb, d, c)
		clear(lb.block(c)[0x0C:0x14]) // no checksum in the commit block
	})
	if r := mustRecover(t, lb); r.Len() != 1 || r.EndTID != 9 {
		t.Errorf("%+v", r)
	}
}

func TestLyingLogs(t *testing.T) {
	t.Run("beyond the device", func(t *testing.T) {
		lb := newLog()
		lb.transaction(1, 5)
		o := lb.options()
		o.DeviceBlocks = 5
		j, err := Load(lb.reader(), o)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := j.Recover(); !errors.Is(err, syscall.EUCLEAN) {
			t.Errorf("%v", err)
		}
		lb.revoke(5) // what is not replayed may be anywhere
		lb.commit()
		if j, err = Load(lb.reader(), o); err != nil {
			t.Fatal(err)
		}
		if _, err := j.Recover(); err != nil {
			t.Errorf("%v", err)
		}
	})
	t.Run("revoke count", func(t *testing.T) {
		lb := newLog(withChecksum(ChecksumNone))
		at := lb.revoke(1)
		lb.commit()
		be.PutUint32(lb.block(at)[12:], 1<<31)
		wantCorrupt(t, lb, "revoke block")
		be.PutUint32(lb.block(at)[12:], 3) // less than its header: none
		wantVersions(t, lb, map[uint64]byte{})
	})
	t.Run("circle of revokes", func(t *testing.T) {
		lb := newLog()
		for range lb.maxLen - 1 {
			lb.revoke(1)
		}
		wantVersions(t, lb, map[uint64]byte{})
	})
	t.Run("descriptors without end", func(t *testing.T) {
		lb := newLog(withChecksum(ChecksumNone), func(lb *logBuilder) { lb.wide = false })
		d := lb.header(DescriptorBlock)
		for off := 12; off < lb.bs; off += 8 {
			be.PutUint16(d[min(off+6, lb.bs-2):], TagSameUUID)
		}
		lb.put(d) // claims more blocks than the log has
		for range 10 {
			lb.put(d)
		}
		wantVersions(t, lb, map[uint64]byte{})
	})
	t.Run("short log", func(t *testing.T) {
		lb := newLog()
		lb.transaction(1, 1)
		lb.reader()
		j, err := Load(bytes.NewReader(lb.image[:3*lb.bs]), lb.options())
		if err == nil {
			_, err = j.Recover()
		}
		if !errors.Is(err, syscall.EUCLEAN) {
			t.Errorf("%v", err)
		}
	})
}

type failingReader struct{ io.ReaderAt }

func (r failingReader) ReadAt(p []byte, off int64) (int, error) {
	if off > 0 {
		return 0, syscall.EIO
	}
	return r.ReaderAt.ReadAt(p, off)
}

func TestReadErrorsAreReported(t *testing.T) {
	lb := newLog()
	lb.transaction(1, 1)
	j, err := Load(failingReader{lb.reader()}, lb.options())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := j.Recover(); !errors.Is(err, syscall.EIO) {
		t.Errorf("%v", err)
	}
}

// Random histories on a small log, with what a recovery of each prefix must
// give, in every format.
func TestRecoverRandomHistories(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		lb := newLog(func(lb *logBuilder) {
			lb.checksum = Checksum(rapid.IntRange(0, 3).Draw(t, "checksum"))
			lb.wide = rapid.Bool().Draw(t, "wide")
			lb.uuidTags = rapid.Bool().Draw(t, "uuid")
			lb.maxLen = uint32(rapid.IntRange(40, 80).Draw(t, "length"))
			lb.start = uint32(rapid.IntRange(1, int(lb.maxLen)-1).Draw(t, "start"))
			lb.sequence = rapid.SampledFrom([]uint32{1, 0xFFFFFFFF, 0x7FFFFFFE, 99}).Draw(t, "sequence")
		})
		state := map[uint64]byte{}
		room := int(lb.maxLen) - 1
		version := byte(1)
		for {
			homes := rapid.SliceOfNDistinct(rapid.Uint64Range(0, 12), 0, 6, rapid.ID).Draw(t, "homes")
			revokes := rapid.SliceOfNDistinct(rapid.Uint64Range(0, 12), 0, 4, rapid.ID).Draw(t, "revokes")
			if room -= len(homes) + 3; room < 0 {
				break
			}
			pending := map[uint64]bool{}
			if len(homes) > 0 {
				var ws []write
				for _, h := range homes {
					ws = append(ws, lb.fill(h, version))
				}
				lb.descriptor(ws...)
			}
			if len(revokes) > 0 {
				lb.revoke(revokes...)
			}
			if rapid.IntRange(0, 9).Draw(t, "crash") == 0 {
				break
			}
			lb.commit()
			for _, h := range homes {
				pending[h] = true
			}
			for h := range pending {
				state[h] = version
			}
			for _, h := range revokes {
				delete(state, h)
			}
			version++
		}
		r, err := lb.recover()
		if err != nil {
			t.Fatal(err)
		}
		got := map[uint64]byte{}
		for d := range r.All() {
			got[d.Block] = lb.block(d.Log)[2]
		}
		if fmt.Sprint(got) != fmt.Sprint(state) {
			t.Fatalf("recovered %v, want %v", got, state)
		}
	})
}
