package blocktest

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"ext4box/blockdev"
)

// content reads sectors of dev and names each by its first byte.
func content(t *testing.T, dev blockdev.Device, sectors int) string {
	t.Helper()
	buf := make([]byte, sectors*SectorSize)
	if _, err := dev.ReadAt(buf, 0); err != nil {
		t.Fatal(err)
	}
	out := make([]byte, sectors)
	for i := range out {
		s := buf[i*SectorSize:][:SectorSize]
		if bytes.Count(s, s[:1]) != SectorSize {
			t.Fatalf("sector %d is torn inside", i)
		}
		if out[i] = s[0]; out[i] == 0 {
			out[i] = '.'
		}
	}
	return string(out)
}

func write(t *testing.T, dev blockdev.Device, sector int, what string) {
	t.Helper()
	var p []byte
	for i := range len(what) {
		p = append(p, bytes.Repeat([]byte{what[i]}, SectorSize)...)
	}
	if _, err := dev.WriteAt(p, int64(sector)*SectorSize); err != nil {
		t.Fatal(err)
	}
}

func flush(t *testing.T, dev blockdev.Device) {
	t.Helper()
	if err := dev.Flush(); err != nil {
		t.Fatal(err)
	}
}

// images returns the different images among crashes, sorted.
func images(t *testing.T, sectors int, crashes func(func(*Crash) bool)) []string {
	t.Helper()
	var all []string
	for c := range crashes {
		all = append(all, content(t, c.Image(), sectors))
	}
	slices.Sort(all)
	return slices.Compact(all)
}

func TestExhaustiveImages(t *testing.T) {
	r := NewRecording(nil, 4*SectorSize, nil)
	write(t, r, 0, "a")
	flush(t, r)
	write(t, r, 1, "bc")
	write(t, r, 0, "A")
	h := r.History()

	want := map[int64][]string{
		0:           {"...."},
		h.End():     {"A...", "Ab..", "Abc.", "a...", "ab..", "abc."},
		2:           {"....", "a..."}, // the write has ended, the flush has not begun
		3:           {"....", "a..."}, // the flush has begun
		4:           {"a..."},         // the flush has ended
		5:           {"a...", "ab..", "abc."},
		h.End() - 1: {"A...", "Ab..", "Abc.", "a...", "ab..", "abc."},
	}
	for cut, want := range want {
		if got := images(t, 4, h.At(cut, 1000, 1)); !slices.Equal(got, want) {
			t.Errorf("cut %d: got %q, want %q", cut, got, want)
		}
	}
	if got, want := h.Epochs(), []int64{3, h.End()}; !slices.Equal(got, want) {
		t.Errorf("epochs %v, want %v", got, want)
	}
	var everywhere []string
	for cut := range h.End() + 1 {
		everywhere = append(everywhere, images(t, 4, h.At(cut, 1000, 1))...)
	}
	slices.Sort(everywhere)
	if got := images(t, 4, h.All(1000, 1)); !slices.Equal(got, slices.Compact(everywhere)) {
		t.Errorf("the epochs leave %q, all cuts leave %q", got, everywhere)
	}
}

// A write that overlaps a flush in time is not covered by it.
func TestWriteDuringFlushIsPending(t *testing.T) {
	events := []Event{
		{Op: Write, Len: SectorSize, Data: make([]byte, SectorSize), Start: 0, End: 3},
		{Op: Flush, Start: 2, End: 5},
		{Op: Write, Off: SectorSize, Len: SectorSize, Data: make([]byte, SectorSize), Start: 1, End: 4},
		{Op: Flush, Start: 6, End: Unfinished}, // failed
	}
	h := newHistory(nil, 2*SectorSize, events, 8)
	if got, want := h.Pending(8), []int{0, 2}; !slices.Equal(got, want) {
		t.Errorf("pending %v, want %v", got, want)
	}
	events[1].Start, events[0].End = 3, 2
	h = newHistory(nil, 2*SectorSize, events, 8)
	if got, want := h.Pending(8), []int{2}; !slices.Equal(got, want) {
		t.Errorf("pending %v, want %v", got, want)
	}
	if got, want := h.Pending(5), []int{0, 2}; !slices.Equal(got, want) {
		t.Errorf("pending %v at the end of the flush, want %v", got, want)
	}
}

// Samples stay within what is possible, reach all of it, and are reproducible.
func TestSamples(t *testing.T) {
	r := NewRecording(nil, 4*SectorSize, nil)
	write(t, r, 0, "xy")
	flush(t, r)
	write(t, r, 1, "abc")
	write(t, r, 1, "A")
	h := r.History()
	var got []string
	for seed := range uint64(600) {
		a, b := h.Sample(h.End(), seed), h.Sample(h.End(), seed)
		if a.String() != b.String() {
			t.Fatalf("seed %d: %v and %v", seed, a, b)
		}
		got = append(got, content(t, a.Image(), 4))
	}
	slices.Sort(got)
	got = slices.Compact(got)
	var want []string
	for _, one := range "yaA" {
		for _, two := range ".b" {
			for _, three := range ".c" {
				want = append(want, "x"+string([]rune{one, two, three}))
			}
		}
	}
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	first := images(t, 4, h.Samples(200, 7))
	if again := images(t, 4, h.Samples(200, 7)); !slices.Equal(first, again) {
		t.Errorf("samples differ: %q, %q", first, again)
	}
	if !slices.Contains(first, "....") || !slices.Contains(first, "xAbc") {
		t.Errorf("samples %q miss the beginning or the end", first)
	}
}

// Writes that overlap in time may arrive in either order, others may not.
func TestOrderOfOverlappingWrites(t *testing.T) {
	sector := func(c byte) []byte { return bytes.Repeat([]byte{c}, SectorSize) }
	events := []Event{
		{Op: Write, Len: SectorSize, Data: sector('a'), Start: 0, End: 2},
		{Op: Write, Len: SectorSize, Data: sector('b'), Start: 1, End: 3},
		{Op: Write, Off: SectorSize, Len: SectorSize, Data: sector('c'), Start: 4, End: 5},
		{Op: Write, Off: SectorSize, Len: SectorSize, Data: sector('d'), Start: 6, End: 7},
	}
	h := newHistory(nil, 2*SectorSize, events, 8)
	seen := map[string]bool{}
	for seed := range uint64(2000) {
		c := h.Sample(8, seed)
		whole := 0
		for _, f := range c.Fates {
			if f.Landed[0] {
				whole++
			}
		}
		if whole == len(events) {
			seen[content(t, c.Image(), 2)] = true
		}
	}
	if len(seen) != 2 || !seen["ad"] || !seen["bd"] {
		t.Errorf("with all writes whole there are %v, want ad and bd", seen)
	}
}

func TestLimitedImages(t *testing.T) {
	r := NewRecording(nil, 64*SectorSize, nil)
	for i := range 20 {
		write(t, r, 3*i, "xyz")
	}
	h := r.History()
	for _, limit := range []int{-1, 1, 2, 10, 200} {
		var got []string
		for c := range h.At(h.End(), limit, 1) {
			got = append(got, content(t, c.Image(), 60))
		}
		if want := max(limit, 2); len(got) != want {
			t.Errorf("limit %d: %d images, want %d", limit, len(got), want)
		}
		for _, must := range []string{strings.Repeat(".", 60), strings.Repeat("xyz", 20)} {
			if !slices.Contains(got, must) {
				t.Errorf("limit %d: %q is missing", limit, must)
			}
		}
		if limit == 200 {
			for _, must := range []string{
				"xyz" + strings.Repeat(".", 57),
				strings.Repeat("xyz", 19) + "...",
				strings.Repeat("xyz", 5) + "xy." + strings.Repeat("xyz", 14),
			} {
				if !slices.Contains(got, must) {
					t.Errorf("%q is missing", must)
				}
			}
		}
	}
}

func TestDiscardIsPendingUntilFlushed(t *testing.T) {
	r := NewRecording(strings.NewReader(strings.Repeat("o", 16*SectorSize)), 16*SectorSize, nil)
	if err := r.Discard(4*SectorSize, 10*SectorSize); err != nil {
		t.Fatal(err)
	}
	old := strings.Repeat("o", 16)
	gone := "oooo..........oo"
	h := r.History()
	if got := images(t, 16, h.All(10, 1)); !slices.Equal(got, []string{gone, old}) {
		t.Errorf("unflushed discard: %q", got)
	}
	flush(t, r)
	h = r.History()
	if got := images(t, 16, h.At(h.End(), 10, 1)); !slices.Equal(got, []string{gone}) {
		t.Errorf("flushed discard: %q", got)
	}
	if got := content(t, r, 16); got != gone {
		t.Errorf("live: %q", got)
	}
}

// Two devices on one clock are cut at the same instant; a flush of one says
// nothing about the other.
func TestSharedClock(t *testing.T) {
	var clock Clock
	fs := NewRecording(nil, SectorSize, &clock)
	journal := NewRecording(nil, SectorSize, &clock)
	write(t, journal, 0, "j")
	write(t, fs, 0, "f")
	flush(t, journal)
	cut := clock.Now()
	write(t, journal, 0, "J")
	if got := images(t, 1, journal.History().At(cut, 10, 1)); !slices.Equal(got, []string{"j"}) {
		t.Errorf("journal: %q", got)
	}
	if got := images(t, 1, fs.History().At(cut, 10, 1)); !slices.Equal(got, []string{".", "f"}) {
		t.Errorf("filesystem: %q", got)
	}
}

// An image is independent of others, of the base and of the recording, and can
// be recorded again.
func TestImagesAreIndependent(t *testing.T) {
	base := NewMem(4 * SectorSize)
	write(t, base, 0, "base")
	r := NewRecording(base, base.Size(), nil)
	write(t, r, 0, "A")
	flush(t, r)
	h := r.History()
	one, two := h.Sample(h.End(), 1).Image(), h.Sample(h.End(), 1).Image()
	write(t, one, 1, "1")
	again := NewRecording(two, two.Size(), nil)
	write(t, again, 2, "2")
	write(t, r, 3, "3")
	for _, c := range []struct {
		dev  blockdev.Device
		want string
	}{{base, "base"}, {r, "Aas3"}, {one, "A1se"}, {two, "Aase"}, {again, "Aa2e"}, {h.Sample(0, 1).Image(), "base"}} {
		if got := content(t, c.dev, 4); got != c.want {
			t.Errorf("got %q, want %q", got, c.want)
		}
	}
}

// Everything whole at the end of a history is the live content, also after
// concurrent writes, partly of sectors.
func TestWholeHistoryIsLiveContent(t *testing.T) {
	r := NewRecording(nil, 1<<20, nil)
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for i := range 100 {
				off := int64((i*7919 + g*104729) % (1<<20 - 3000))
				if _, err := r.WriteAt(bytes.Repeat([]byte{byte(g*100 + i)}, 1+i*29), off); err != nil {
					t.Error(err)
				}
				if i%10 == 0 {
					if err := r.Flush(); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	wg.Wait()
	h := r.History()
	pending := h.Pending(h.End())
	state := make([]int, len(pending))
	for i, ev := range pending {
		state[i] = h.events[ev].units()
	}
	img := h.crash(h.End(), pending, state).Image()
	got, want := make([]byte, 1<<20), make([]byte, 1<<20)
	if _, err := img.ReadAt(got, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := r.ReadAt(want, 0); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Error("image and live content differ")
	}
}

func ExampleHistory_All() {
	r := NewRecording(nil, 1<<20, nil)
	r.WriteAt([]byte("data"), 4096)
	r.Flush()
	promised := r.Now() // from this tick on the data must be there
	r.WriteAt([]byte("more"), 8192)

	lost := 0
	for c := range r.History().All(1000, 1) {
		buf := make([]byte, 4)
		c.Image().ReadAt(buf, 4096)
		if c.Cut >= promised && string(buf) != "data" {
			lost++
		}
	}
	fmt.Println(lost, "promises broken")
	// Output: 0 promises broken
}
