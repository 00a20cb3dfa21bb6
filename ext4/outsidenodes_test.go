package ext4_test

import (
	"errors"
	"syscall"
	"testing"

	"ext4box/ext4"
	"ext4box/iomap"
)

// TestOutsideNodes: when data has been written there are nodes for the map of its file, though nothing else is
// free, because they were promised when the blocks were handed out; and without that promise the data would
// be lost.
func TestOutsideNodes(t *testing.T) {
	const pieces = 60
	for _, c := range []struct {
		name         string
		preallocated bool
	}{{"holes", false}, {"preallocated", true}} {
		t.Run(c.name, func(t *testing.T) {
			for _, promised := range []bool{true, false} {
				r := newOutsideRig(t, 8<<20, "-t ext4 -b 1024 -J size=1", ext4.Options{})
				ino := r.create("f")
				var places []uint64
				for i := range uint64(pieces) {
					// Three extents become of each, if it was unwritten, or of a hole three.
					at := 8 * i * r.bs
					if c.preallocated {
						r.must(r.fs.Fallocate(ino, ext4.FallocKeepSize, at, 3*r.bs))
						places = append(places, at+r.bs)
					} else {
						places = append(places, at, at+2*r.bs, at+4*r.bs)
					}
				}
				for _, at := range places {
					if m, _, err := r.begin(ino, at, r.bs, iomap.Write|iomap.Direct); err != nil || m.Type != iomap.Unwritten {
						t.Fatalf("%+v, %v", m, err)
					}
				}
				if !promised {
					r.fs.BreakPromise(ino)
				}
				giveBack := r.fs.TakeSpace()
				failed := 0
				for _, at := range places {
					switch _, err := r.fs.IOEndOutside(ino, at, r.bs, 0); {
					case errors.Is(err, syscall.ENOSPC):
						failed++
					case err != nil:
						t.Fatal(err)
					}
				}
				giveBack()
				if promised != (failed == 0) {
					t.Errorf("promised %t: for %d of %d pieces there was no node", promised, failed, len(places))
				}
				r.files = nil // nothing was written
				r.must(r.fs.Unhold(ino, 1))
				r.close()
			}
		})
	}
}
