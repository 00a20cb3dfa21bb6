package blocktest

import (
	"sync"

	"ext4box/blockdev"
)

// Counts is what a [Counting] device has seen. Requests that failed count too.
type Counts struct {
	Reads, Writes, Flushes, Discards int   // requests
	BytesRead, BytesWritten          int64 // that were asked for

	// BlocksRead and BlocksWritten are the numbers of different blocks that
	// were touched.
	BlocksRead, BlocksWritten int
}

// Counting counts the requests to a device.
type Counting struct {
	blockdev.Device
	blockSize int64

	mu            sync.Mutex
	counts        Counts
	read, written map[int64]struct{}
}

// NewCounting returns a device that passes everything on to dev and counts it.
// Distinct blocks are counted in units of blockSize bytes.
func NewCounting(dev blockdev.Device, blockSize int) *Counting {
	c := &Counting{Device: dev, blockSize: int64(blockSize)}
	c.Reset()
	return c
}

// Counts returns what has been seen since the last Reset.
func (c *Counting) Counts() Counts {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.counts
	n.BlocksRead, n.BlocksWritten = len(c.read), len(c.written)
	return n
}

// Reset begins to count anew.
func (c *Counting) Reset() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.counts = Counts{}
	c.read, c.written = make(map[int64]struct{}), make(map[int64]struct{})
}

// ReadAt implements blockdev.Device.
func (c *Counting) ReadAt(p []byte, off int64) (int, error) {
	c.mu.Lock()
	c.counts.Reads++
	c.counts.BytesRead += int64(len(p))
	c.touch(c.read, off, len(p))
	c.mu.Unlock()
	return c.Device.ReadAt(p, off)
}

// WriteAt implements blockdev.Device.
func (c *Counting) WriteAt(p []byte, off int64) (int, error) {
	c.mu.Lock()
	c.counts.Writes++
	c.counts.BytesWritten += int64(len(p))
	c.touch(c.written, off, len(p))
	c.mu.Unlock()
	return c.Device.WriteAt(p, off)
}

// Flush implements blockdev.Device.
func (c *Counting) Flush() error {
	c.mu.Lock()
	c.counts.Flushes++
	c.mu.Unlock()
	return c.Device.Flush()
}

// Discard implements blockdev.Device.
func (c *Counting) Discard(off, n int64) error {
	c.mu.Lock()
	c.counts.Discards++
	c.mu.Unlock()
	return c.Device.Discard(off, n)
}

// SectorSize implements blockdev.Sectored.
func (c *Counting) SectorSize() int { return blockdev.SectorSize(c.Device) }

// Name implements blockdev.Named.
func (c *Counting) Name() string { return blockdev.Name(c.Device) }

func (c *Counting) touch(set map[int64]struct{}, off int64, n int) {
	if n == 0 {
		return
	}
	for b := off / c.blockSize; b <= (off+int64(n)-1)/c.blockSize; b++ {
		set[b] = struct{}{}
	}
}
