package ext4

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"syscall"

	"ext4box/ext4/internal/dirent"
	"ext4box/ext4/internal/disk"
)

// Names in encrypted directories, seen without the key as here, are shown the
// way the kernel shows them: base64url of the name's hash and ciphertext, where
// a ciphertext too long for that is cut and its rest replaced by a digest.
const (
	cipherMin    = 16  // the shortest ciphertext of a name
	cipherShown  = 149 // bytes of ciphertext in an encoded name
	nokeyHash    = 8   // bytes before the ciphertext: two hash words
	nokeyMaxSize = nokeyHash + cipherShown + sha256.Size
)

// encodeCipherName is the name shown for a ciphertext. ok is false if it is too
// short to be one.
func encodeCipherName(major, minor uint32, cipher []byte) (name string, ok bool) {
	if len(cipher) < cipherMin {
		return "", false
	}
	b := make([]byte, 0, nokeyMaxSize)
	b = binary.LittleEndian.AppendUint32(b, major)
	b = binary.LittleEndian.AppendUint32(b, minor)
	if len(cipher) <= cipherShown {
		b = append(b, cipher...)
	} else {
		sum := sha256.Sum256(cipher[cipherShown:])
		b = append(append(b, cipher[:cipherShown]...), sum[:]...)
	}
	return base64.RawURLEncoding.EncodeToString(b), true
}

// cipherMatches tells whether a stored ciphertext is the one that an encoded name
// of a cut one stands for.
func cipherMatches(shown, cipher []byte) bool {
	if len(cipher) <= cipherShown {
		return false
	}
	sum := sha256.Sum256(cipher[cipherShown:])
	return bytes.Equal(shown[:cipherShown], cipher[:cipherShown]) && bytes.Equal(shown[cipherShown:], sum[:])
}

// cipherHash is the hash under which an encoded name shows a ciphertext: that
// of the directory index, or none where directories are not indexed.
func (fs *FS) cipherHash(cipher []byte) (major, minor uint32) {
	if fs.sb.Compat&disk.CompatDirIndex == 0 {
		return 0, 0
	}
	version := disk.HashVersion(fs.sb.DefHashVersion)
	if fs.sb.UnsignedHash() {
		version = version.Unsigned()
	}
	major, minor, err := disk.DirHash(version, fs.sb.HashSeed, cipher)
	if err != nil {
		return 0, 0
	}
	return major, minor
}

// encodeNames wraps a ReadDir callback so that it sees encoded names.
func (fs *FS) encodeNames(in *inode, fn func(Dirent) bool) func(Dirent) bool {
	return func(e Dirent) bool {
		if !dotName(e.Name) {
			major, minor := fs.cipherHash(e.Name)
			name, ok := encodeCipherName(major, minor, e.Name)
			if !ok {
				fs.log.Warn("encrypted directory has an entry that is no ciphertext", "inode", in.ino)
				return true
			}
			e.Name = []byte(name)
		}
		return fn(e)
	}
}

// findEncrypted finds an encoded name in an encrypted directory, and the
// ciphertext that is stored there. read is the number of bytes of entries that
// were gone through.
func (fs *FS) findEncrypted(in *inode, name string) (ino Ino, stored string, read uint64, err error) {
	d, err := fs.entries(in)
	if err != nil {
		return 0, "", 0, err
	}
	found := uint32(0)
	if dotName([]byte(name)) {
		found, err = d.Lookup(name)
		return Ino(found), name, fs.scanned(d), err
	}
	decoded, ok := decodeCipherName(name)
	if !ok {
		return 0, "", 0, syscall.ENOENT
	}
	shown := decoded[nokeyHash:]
	b, blocks := d.(*dirent.Dir)
	if len(shown) <= cipherShown {
		found, err = d.Lookup(string(shown))
		return Ino(found), string(shown), fs.scanned(d), err
	}
	if blocks {
		found, stored, err = b.Find(binary.LittleEndian.Uint32(decoded), func(cipher []byte) bool { return cipherMatches(shown, cipher) })
	}
	if !blocks || errors.Is(err, syscall.ENOENT) { // the index may use another hash than the name shows
		err = d.Read(0, func(e dirent.Entry) bool {
			if !dotName(e.Name) && cipherMatches(shown, e.Name) {
				found, stored = e.Ino, string(e.Name)
			}
			return found == 0
		})
		if err == nil && found == 0 {
			err = syscall.ENOENT
		}
	}
	return Ino(found), stored, fs.scanned(d), err
}

// decodeCipherName is the inverse of encodeCipherName, as far as there is one.
func decodeCipherName(name string) (b []byte, ok bool) {
	b, err := base64.RawURLEncoding.Strict().DecodeString(name)
	n := len(b) - nokeyHash
	// The decoder skips line breaks.
	return b, err == nil && base64.RawURLEncoding.EncodedLen(len(b)) == len(name) &&
		n >= cipherMin && (n <= cipherShown || n == cipherShown+sha256.Size)
}

// storedName is the name under which a directory, which is locked, has the entry
// that a name shows: the ciphertext where it is encrypted.
func (fs *FS) storedName(d *inode, name string) (string, error) {
	if !d.encrypted() {
		return name, nil
	}
	_, stored, _, err := fs.findEncrypted(d, name)
	return stored, err
}

func dotName(name []byte) bool { return string(name) == "." || string(name) == ".." }

// encodeEncryptedTarget shows the target of an encrypted symbolic link, which is
// stored as its length (16 bits) and ciphertext.
func encodeEncryptedTarget(what string, stored []byte) (string, error) {
	if len(stored) >= 2 {
		n := int(binary.LittleEndian.Uint16(stored))
		if n <= len(stored)-2 {
			if s, ok := encodeCipherName(0, 0, stored[2:2+n]); ok {
				return s, nil
			}
		}
	}
	return "", fmt.Errorf("%w", disk.Corruptf(what, "encrypted target is malformed"))
}
