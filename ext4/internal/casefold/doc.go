// Package casefold folds names the way ext4's case-insensitive directories do.
//
// A filesystem with the casefold feature and the encoding "utf8" compares and
// hashes the names in directories marked +F by their NFDICF form, as of Unicode
// 12.1: full case folding, canonical decomposition with canonical ordering,
// and removal of the code points that are ignorable by default. Code points
// that Unicode 12.1 does not assign stand for themselves, for names written
// under an older kernel must keep their hash for ever.
//
// The package knows Unicode and nothing else: no directories, no hashes, no
// superblock. The directory code calls it with names from the disk and from
// the user, both hostile; neither makes it fail in any way but with
// [ErrInvalid]. Nothing here has state, so everything may be called
// concurrently.
//
// The tables are generated from the Unicode Character Database, of any version
// from 12.1 on: Unicode's stability policies promise that decompositions, case
// foldings and combining classes of assigned code points do not change, so
// what was assigned later is all that has to be left out.
package casefold

//go:generate go run gen.go -o tables.go $UCD
