package journal

import (
	"errors"
	"fmt"
	"maps"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"

	"pgregory.net/rapid"

	"ext4box/blockdev/blocktest"
)

// drawRig makes a rig of any kind.
func drawRig(t *rapid.T) *rig {
	external := rapid.Bool().Draw(t, "external")
	return newRig(rapid.IntRange(6, 24).Draw(t, "blocks"), external, func(lb *logBuilder) {
		lb.checksum = Checksum(rapid.IntRange(0, 3).Draw(t, "checksum"))
		lb.wide = rapid.Bool().Draw(t, "wide")
		lb.maxLen = uint32(rapid.IntRange(48, 110).Draw(t, "length"))
		lb.sequence = rapid.SampledFrom([]uint32{1, 0xFFFFFFFC, 0x7FFFFFFC, 99}).Draw(t, "sequence")
	})
}

// Short histories, cut at every flush, which stands for every tick before it:
// in all ways that there are, or many.
func TestLogCrashAnywhere(t *testing.T) {
	images, wrapped, revokes := 0, 0, int64(0)
	rapid.Check(t, func(t *rapid.T) {
		r := drawRig(t)
		d := newDriver(t, r, WriterOptions{Strict: true}, func(n int) int { return rapid.IntRange(0, n-1).Draw(t, "n") })
		defer d.log.Close()
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			if !d.step() {
				t.Fatalf("%v", d.failed)
			}
		}
		d.close()
		images += d.checkAll(24, 0, 1)
		if s := d.log.Stats(); s.Blocks > int64(r.lb.maxLen) {
			wrapped++
		}
		revokes += d.log.Stats().Revokes
	})
	t.Logf("%d images of crashes, %d histories wrapped around, %d revokes", images, wrapped, revokes)
	if revokes == 0 { // few of these histories are long enough to wrap around
		t.Error("no block was ever freed")
	}
}

// Long histories in each format, at sampled points, on logs that wrap around
// many times.
func TestLogCrashSampled(t *testing.T) {
	samples := 400
	if testing.Short() {
		samples = 50
	}
	total := 0
	for _, c := range []Checksum{ChecksumNone, ChecksumV1, ChecksumV2, ChecksumV3} {
		for _, wide := range []bool{false, true} {
			for _, external := range []bool{false, true} {
				t.Run(fmt.Sprintf("v%d,wide=%v,external=%v", c, wide, external), func(t *testing.T) {
					r := newRig(60, external, withChecksum(c), func(lb *logBuilder) {
						lb.wide, lb.maxLen, lb.sequence = wide, 120, 0xFFFFFFF0
					})
					d := newDriver(t, r, WriterOptions{Strict: true}, seeded(uint64(c)))
					for range 600 {
						if !d.step() {
							t.Fatal(d.failed)
						}
					}
					d.close()
					total += d.checkAll(0, samples, uint64(c))
					if s := d.log.Stats(); s.Blocks < 4*120 || s.Checkpoints < 4 || s.Overruns > 0 {
						t.Errorf("too little happened: %+v", s)
					}
				})
			}
		}
	}
	t.Logf("%d images of crashes", total)
}

// Crash after crash on the same device: what an earlier life has left in the
// log never counts again.
func TestLogLivesAgain(t *testing.T) {
	for _, c := range []Checksum{ChecksumNone, ChecksumV3} {
		t.Run(fmt.Sprintf("v%d", c), func(t *testing.T) {
			pick := seeded(uint64(c))
			r := newRig(20, false, withChecksum(c), func(lb *logBuilder) { lb.sequence = 0xFFFFFFF0 })
			d := newDriver(t, r, WriterOptions{Strict: true}, pick)
			for life := range 60 {
				for range 5 + pick(50) {
					if !d.step() {
						t.Fatal(d.failed)
					}
				}
				h := r.home.History()
				crash := h.Sample(h.End()-int64(pick(int(h.End())/4+1)), uint64(life))
				d.log.Abort(syscall.ESHUTDOWN)
				_ = d.log.Close()

				image := crash.Image()
				if err := d.check(image.Clone(), nil, crash.Cut, false); err != nil {
					t.Fatalf("life %d: %v\n%v", life, err, crash)
				}
				j, log, err := r.load(image, nil)
				if err != nil {
					t.Fatal(err)
				}
				rec, err := j.Recover()
				if err != nil {
					t.Fatal(err)
				}
				if rec.Dirty {
					if err := errors.Join(rec.WriteHome(image), j.Reset(log, rec)); err != nil {
						t.Fatal(err)
					}
				}
				lb := *r.lb
				lb.sequence = j.Superblock.Sequence
				r = &rig{lb: &lb, blocks: r.blocks}
				r.home = blocktest.NewRecording(image, image.Size(), &r.clock)
				next := newDriver(t, r, WriterOptions{Strict: true}, pick)
				if tid := next.log.running.Load().tid; tid != lb.sequence+1 {
					t.Fatalf("transaction %d follows superblock %d", tid, lb.sequence)
				}
				next.now, next.id = d.after[rec.EndTID-1], d.id
				next.after[lb.sequence-1], next.after[lb.sequence] = maps.Clone(next.now), maps.Clone(next.now)
				next.now = maps.Clone(next.now)
				d = next
			}
			d.close()
		})
	}
}

// The smallest log that the kernel takes, for many rounds, and all block sizes.
func TestLogWrapsAround(t *testing.T) {
	for _, bs := range []int{1024, 2048, 4096, 8192, 16384, 32768, 65536} {
		t.Run(fmt.Sprint(bs), func(t *testing.T) {
			maxLen, steps := uint32(1024), 4000
			if bs > 4096 {
				maxLen, steps = 64, 300
			}
			r := newRig(100, false, func(lb *logBuilder) { lb.bs, lb.maxLen = bs, maxLen })
			d := newDriver(t, r, WriterOptions{Strict: true}, seeded(uint64(bs)))
			for range steps {
				if !d.step() {
					t.Fatal(d.failed)
				}
			}
			d.close()
			if n := d.checkAll(0, 60, 5); n != 60 {
				t.Errorf("%d images", n)
			}
			if s := d.log.Stats(); s.Blocks+s.Commits*2 < 4*int64(maxLen) {
				t.Errorf("the log did not wrap around four times: %+v", s)
			}
		})
	}
}

// Several goroutines, each of which keeps its blocks equal in each transaction.
func TestLogCrashConcurrent(t *testing.T) {
	const writers, each, rounds = 4, 3, 60
	for _, external := range []bool{false, true} {
		t.Run(fmt.Sprintf("external=%v", external), func(t *testing.T) {
			r := newRig(writers*each, external, func(lb *logBuilder) { lb.maxLen = 100 })
			d := newDriver(t, r, WriterOptions{Strict: true, Interval: 200 * time.Microsecond}, nil)
			type promise struct {
				tick   int64
				writer int
				round  uint32
			}
			var mu sync.Mutex
			var promises []promise
			var wg sync.WaitGroup
			for w := range writers {
				wg.Go(func() {
					for round := uint32(1); round <= rounds; round++ {
						h, err := d.log.Begin(Credits{Blocks: each})
						if err != nil {
							t.Error(err)
							return
						}
						for k := range each {
							b, err := h.New(uint64(w*each+k), tagOf(1))
							if err != nil {
								t.Error(err)
								return
							}
							copy(b.Data, content(r.lb.bs, b.Block, round))
							runtime.Gosched()
						}
						tid := h.TID()
						if err := h.End(); err != nil {
							t.Error(err)
						}
						if round%4 != 0 {
							continue
						}
						if err := d.log.Commit(tid); err != nil {
							t.Error(err)
						}
						mu.Lock()
						promises = append(promises, promise{r.clock.Now(), w, round})
						mu.Unlock()
					}
				})
			}
			wg.Wait()
			if err := d.log.Close(); err != nil {
				t.Fatal(err)
			}
			n := 0
			for c := range r.home.History().Samples(600, 3) {
				home, ext := c.Image(), r.ext
				view, err := d.recovered(home, ext, c.Cut, uint64(n))
				if err != nil {
					t.Fatalf("%v\n%v", err, c)
				}
				least := [writers]uint32{}
				for _, p := range promises {
					if p.tick <= c.Cut {
						least[p.writer] = max(least[p.writer], p.round)
					}
				}
				for w := range writers {
					var got [each]uint32
					for k := range each {
						b := make([]byte, r.lb.bs)
						if _, err := view.ReadAt(b, int64(w*each+k)*int64(r.lb.bs)); err != nil {
							t.Fatal(err)
						}
						got[k] = be.Uint32(b[r.lb.bs-4:])
						if got[k] != got[0] || got[k] < least[w] {
							t.Fatalf("writer %d has rounds %v, promised %d\n%v", w, got, least[w], c)
						}
					}
				}
				n++
			}
			if s := d.log.Stats(); s.Checkpoints == 0 || s.Commits == 0 || s.Commits >= writers*rounds {
				t.Errorf("%+v", s)
			}
		})
	}
}
