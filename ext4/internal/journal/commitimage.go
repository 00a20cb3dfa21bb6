package journal

// chunkBytes is the greatest length of a contiguous part of an image, and so of
// a write to the log.
const chunkBytes = 1 << 20

// image is a transaction's part of the log, without its commit block, in
// aligned memory.
type image struct {
	bs       int
	blocks   int
	perChunk int
	chunks   [][]byte // all full but the last
}

func newImage(blockSize, blocks int) *image {
	im := &image{bs: blockSize, blocks: blocks, perChunk: chunkBytes / blockSize}
	for left := blocks; left > 0; left -= im.perChunk {
		im.chunks = append(im.chunks, buffers.Get(min(left, im.perChunk)*blockSize))
	}
	return im
}

// block returns the memory of block i.
func (im *image) block(i int) []byte { return im.span(i, 1) }

// span returns the memory of n blocks from block i on, which must be in one chunk.
func (im *image) span(i, n int) []byte {
	at := i % im.perChunk * im.bs
	return im.chunks[i/im.perChunk][at : at+n*im.bs : at+n*im.bs]
}

// release gives the memory back.
func (im *image) release() {
	for _, c := range im.chunks {
		buffers.Put(c)
	}
	im.chunks = nil
}
