// Package hosttree shows a file of the host, and what is below it, as the copying
// packages see an image: numbered files, read by number.
//
// It knows how to read files of every type of the host without effects on them. It
// knows no image. The verb cp calls it, to copy into images.
//
// # Trust
//
// Whoever runs the program may be root and copy a directory that another user
// changes meanwhile: below the path that was named no symbolic link is ever
// followed, directories are entered one component at a time, and a file that is
// not what it was when it was looked at is not read.
//
// Names are in byte order, so that the same tree makes the same image. Memory
// grows with the number of files, by their names and some fifty bytes each. The
// number of open descriptors is constant.
package hosttree
