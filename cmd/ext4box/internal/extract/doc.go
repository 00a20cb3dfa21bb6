// Package extract copies files out of an image into a directory of the host, with
// their metadata.
//
// It knows how to make files of every type relative to open directories, and in
// which order owner, attributes, mode and times have to be set so that none
// undoes another. It does not know the disk format. The verb cp calls it.
//
// # Trust
//
// The image is hostile, the destination's owner is the user. Nothing outside the
// destination is ever created, opened or changed: directories are entered one
// component at a time, from the descriptor of the one above and never through a
// symbolic link, files are created exclusively after the old name was removed,
// and names that are not single components do not get here (package tree). The
// way back up is "..", compared with where the way down began.
//
// The number of open descriptors does not depend on the depth. Memory grows with
// the number of directories, and of files with several links.
package extract
