package dirent

import (
	"encoding/binary"

	"ext4box/ext4/internal/disk"
)

// hasher hashes names for the index of a directory.
type hasher struct {
	version disk.HashVersion
	seed    [4]uint32
	fold    func(dst, name []byte) ([]byte, error) // nil: names are hashed as they are
	stored  bool                                   // the hash, which needs a key, is behind each name
	buf     []byte
}

// hasher returns what hashes the names of a directory whose index has, or would
// have, the given version.
func (f *Format) hasher(version disk.HashVersion, casefold, rawNames bool) hasher {
	if f.Unsigned {
		version = version.Unsigned()
	}
	h := hasher{version: version, seed: f.HashSeed, stored: casefold && rawNames}
	if casefold && !rawNames {
		h.fold = f.Fold
	}
	return h
}

// folded hashes a name that is folded already, where it has to be.
func (h *hasher) folded(name []byte) (major, minor uint32, err error) {
	return disk.DirHash(h.version, h.seed, name)
}

// entry hashes the name of the entry at off of b.
func (h *hasher) entry(b []byte, off int, e *disk.DirEntry) (major, minor uint32, err error) {
	name := e.Name
	if h.stored {
		at := off + disk.DirEntrySize(len(name))
		if at+disk.DirHashSize > off+e.RecLen {
			return 0, 0, nil // "." and ".." have none
		}
		le := binary.LittleEndian
		return le.Uint32(b[at:]) &^ 1, le.Uint32(b[at+4:]), nil
	}
	if h.fold != nil {
		// A name that is not valid in the encoding is hashed as it is.
		if f, err := h.fold(h.buf[:0], name); err == nil {
			h.buf, name = f, f
		}
	}
	return h.folded(name)
}

// usable tells whether names can be hashed at all.
func (h *hasher) usable() error {
	if h.stored {
		return nil
	}
	_, _, err := h.folded(nil)
	return err
}
