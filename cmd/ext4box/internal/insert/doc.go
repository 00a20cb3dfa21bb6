// Package insert copies files into an image, with their metadata: from the host,
// from another image or from the same one.
//
// It knows in which order a file of an image is made so that a crash leaves all of
// it or nothing: a regular file is filled while it has no name, gets its
// metadata, and then its name; what was there before is replaced by a rename. It
// does not know where the files come from. The verb cp calls it, and the command
// ln shares how a name is replaced.
//
// # Trust
//
// The source may be a hostile image: names that are not single components do not
// get here (package tree), no symbolic link below the destination is followed,
// and a hard link is made only to what this package has copied.
package insert
