// Package archive writes files of an image as a tar archive.
//
// It knows the PAX format: attributes as SCHILY.xattr records, times with
// nanoseconds, hard links, devices. It does not know the disk format. The verb
// tar calls it.
//
// # Trust
//
// The image is hostile. Names are checked by package tree, so that an archive made
// from it cannot lead another program out of its directory by "..". Data that
// cannot be read becomes zeros in the archive, which by then has promised its
// length, and a problem that is reported.
package archive
