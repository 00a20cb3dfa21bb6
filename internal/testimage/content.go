package testimage

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

const (
	// Files up to this size are read as a whole, holes included.
	readWhole = 8 << 20
	// Of each hole of a larger file that much is read at its start, for up to
	// that many holes: enough to see that holes read as zeros.
	holeSample = 16 << 10
	maxHoles   = 64

	pieceSize = 4096
)

var buffers = sync.Pool{New: func() any { return new([1 << 20]byte) }}

// ContentSum digests a file's content given its data ranges, without reading
// all of a large file's holes. Pieces that are zero are left out, so that
// readers with different ideas of what is a hole agree.
func ContentSum(r io.ReaderAt, size int64, data []Range) (string, error) {
	if size == 0 {
		return "", nil
	}
	buf := buffers.Get().(*[1 << 20]byte)
	defer buffers.Put(buf)
	h := sha256.New()
	var word [8]byte
	binary.LittleEndian.PutUint64(word[:], uint64(size))
	h.Write(word[:])
	for _, part := range toRead(data, size) {
		for part.Off < part.End {
			b := buf[:min(int64(len(buf)), part.End-part.Off)]
			n, err := r.ReadAt(b, part.Off)
			if n < len(b) {
				if err == nil || errors.Is(err, io.EOF) {
					err = io.ErrUnexpectedEOF
				}
				return "", fmt.Errorf("reading %d bytes at %d: %w", len(b), part.Off, err)
			}
			sumPieces(h, part.Off, b)
			part.Off += int64(n)
		}
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// toRead is the data ranges, widened to whole pieces, and samples of the holes.
func toRead(data []Range, size int64) []Range {
	if size <= readWhole {
		return []Range{{0, size}}
	}
	var parts []Range
	var end int64
	for i, r := range append(joinRanges(data, size), Range{size, size}) {
		if i < maxHoles {
			parts = append(parts, Range{end, min(r.Off, end+holeSample)})
		}
		parts = append(parts, Range{r.Off &^ (pieceSize - 1), r.End})
		end = r.End
	}
	return joinRanges(parts, size)
}

var zeros [pieceSize]byte

// sumPieces digests the aligned pieces of b that are not zero, each with its
// place.
func sumPieces(h hash.Hash, off int64, b []byte) {
	for len(b) > 0 {
		n := min(int64(len(b)), pieceSize-off%pieceSize)
		if !bytes.Equal(b[:n], zeros[:n]) {
			var word [8]byte
			binary.LittleEndian.PutUint64(word[:], uint64(off))
			h.Write(word[:])
			h.Write(b[:n])
		}
		b, off = b[n:], off+n
	}
}

// ImageSum digests an image file, skipping its holes: it is equal before and
// after if no byte changed.
func ImageSum(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return "", err
	}
	ranges, err := seekMap(f, st.Size())
	if err != nil {
		return "", err
	}
	return ContentSum(f, st.Size(), ranges)
}

// CopyImage copies an image sparsely, also from under a live mount.
func CopyImage(dst, src string) error {
	in, err := os.Open(src)
	if err != nil {
		return err
	}
	defer in.Close()
	st, err := in.Stat()
	if err != nil {
		return err
	}
	out, err := os.Create(dst)
	if err != nil {
		return err
	}
	defer out.Close()
	if err := out.Truncate(st.Size()); err != nil {
		return err
	}
	ranges, err := seekMap(in, st.Size())
	if err != nil {
		return err
	}
	for _, r := range ranges {
		if _, err := io.Copy(io.NewOffsetWriter(out, r.Off), io.NewSectionReader(in, r.Off, r.End-r.Off)); err != nil {
			return err
		}
	}
	return out.Close()
}

// seekMap finds the data ranges of an open file.
func seekMap(f *os.File, size int64) ([]Range, error) {
	return SeekMap(size, func(off int64, whence int) (int64, error) {
		fd := int(f.Fd())
		at, err := unix.Seek(fd, off, whence)
		var fs unix.Statfs_t
		if whence == unix.SEEK_HOLE && errors.Is(err, unix.ENOENT) && unix.Fstatfs(fd, &fs) == nil && fs.Type == unix.EXT4_SUPER_MAGIC {
			// The kernel's ext4 knows nothing behind what is stored of inline
			// data, even if the file is longer.
			return size, nil
		}
		return at, err
	})
}

// SeekMap finds the data ranges of a file by SEEK_DATA and SEEK_HOLE, and
// checks on the way that the answers fit each other.
func SeekMap(size int64, seek func(off int64, whence int) (int64, error)) ([]Range, error) {
	var ranges []Range
	for off := int64(0); off < size; {
		data, err := seek(off, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) || err == nil && data == size {
			// The kernel's ext4 says the latter of a file that has just outgrown
			// its inode, where blocks are smaller than pages.
			break
		}
		if err != nil {
			return nil, fmt.Errorf("SEEK_DATA from %d: %w", off, err)
		}
		hole, err := seek(data, unix.SEEK_HOLE)
		if err != nil {
			return nil, fmt.Errorf("SEEK_HOLE from %d: %w", data, err)
		}
		if data < off || hole <= data || hole > size {
			return nil, fmt.Errorf("SEEK_DATA from %d is %d, SEEK_HOLE from there %d, in a file of %d bytes", off, data, hole, size)
		}
		ranges = append(ranges, Range{data, hole})
		off = hole
	}
	if _, err := seek(size, unix.SEEK_DATA); !errors.Is(err, unix.ENXIO) {
		return nil, fmt.Errorf("SEEK_DATA at the end is %v, want ENXIO", err)
	}
	return ranges, nil
}
