package journal

import (
	"bytes"
	"errors"
	"io"
	"syscall"
	"testing"

	"pgregory.net/rapid"

	"ext4box/blockdev"
)

// memDevice is a device in memory that must not be written to.
type memDevice struct {
	*bytes.Reader
	closed *bool
	reads  *int
}

func newMemDevice(b []byte) memDevice {
	return memDevice{bytes.NewReader(b), new(bool), new(int)}
}

func (d memDevice) ReadAt(p []byte, off int64) (int, error) {
	*d.reads++
	return d.Reader.ReadAt(p, off)
}
func (d memDevice) WriteAt([]byte, int64) (int, error) { panic("a write") }
func (d memDevice) Alignment() int                     { return 512 }
func (d memDevice) ReadOnly() bool                     { return false }
func (d memDevice) Flush() error                       { panic("a flush") }
func (d memDevice) Discard(int64, int64) error         { panic("a discard") }
func (d memDevice) Close() error                       { *d.closed = true; return nil }

var _ blockdev.Device = memDevice{}

// applied is the device's content after the kernel's replay.
func applied(t testing.TB, lb *logBuilder, device []byte) []byte {
	out := bytes.Clone(device)
	r := mustRecover(t, lb)
	for d := range r.All() {
		if err := r.readAt(d, out[d.Block*uint64(lb.bs):][:lb.bs], 0); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

func overlayFixture(t testing.TB) (view blockdev.Device, dev memDevice, want []byte) {
	lb := newLog()
	escaped := lb.fill(7, 9).data
	be.PutUint32(escaped, magicNumber)
	lb.descriptor(lb.fill(2, 1), lb.fill(3, 1), lb.fill(11, 1), write{7, escaped})
	lb.commit()
	content := make([]byte, 12*lb.bs+300) // a device need not end with a block
	for i := range content {
		content[i] = byte(i % 251)
	}
	dev = newMemDevice(content)
	return NewOverlay(dev, mustRecover(t, lb)), dev, applied(t, lb, content)
}

func TestOverlayReads(t *testing.T) {
	view, _, want := overlayFixture(t)
	rapid.Check(t, func(t *rapid.T) {
		off := rapid.IntRange(0, len(want)+10).Draw(t, "off")
		n := rapid.IntRange(0, 6000).Draw(t, "n")
		p := make([]byte, n)
		got, err := view.ReadAt(p, int64(off))
		expect := want[min(off, len(want)):min(off+n, len(want))]
		if got != len(expect) || !bytes.Equal(p[:got], expect) {
			t.Fatalf("%d bytes at %d: got %d, %v", n, off, got, err)
		}
		if (err == io.EOF) != (got < n) && n > 0 || err != nil && err != io.EOF {
			t.Fatalf("%d bytes at %d: %v", n, off, err)
		}
	})
}

func TestOverlayReadsOnlyWhatItNeeds(t *testing.T) {
	view, dev, _ := overlayFixture(t)
	p := make([]byte, 1024)
	for block, reads := range map[int64]int{2: 0, 7: 0, 4: 1} {
		*dev.reads = 0
		if _, err := view.ReadAt(p, block*1024); err != nil || *dev.reads != reads {
			t.Errorf("block %d: %d reads of the device, %v", block, *dev.reads, err)
		}
	}
	if n := testing.AllocsPerRun(100, func() { _, _ = view.ReadAt(p, 2*1024) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestOverlayIsReadOnly(t *testing.T) {
	view, dev, want := overlayFixture(t)
	if _, err := view.WriteAt([]byte{1}, 0); !errors.Is(err, syscall.EROFS) {
		t.Errorf("write: %v", err)
	}
	if err := view.Discard(0, 4096); !errors.Is(err, syscall.EROFS) {
		t.Errorf("discard: %v", err)
	}
	if err := view.Flush(); err != nil {
		t.Errorf("flush: %v", err)
	}
	if !view.ReadOnly() || view.Size() != int64(len(want)) || view.Alignment() != 512 {
		t.Error("not the device's properties")
	}
	if _, err := view.ReadAt(make([]byte, 1), -1); err == nil {
		t.Error("a negative offset is read")
	}
	if err := view.Close(); err != nil || !*dev.closed {
		t.Errorf("close: %v", err)
	}
}

func BenchmarkOverlay(b *testing.B) {
	view, _, _ := overlayFixture(b)
	p := make([]byte, 1024)
	for name, block := range map[string]int64{"redirected": 3, "plain": 5} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				_, _ = view.ReadAt(p, block*1024)
			}
		})
	}
}
