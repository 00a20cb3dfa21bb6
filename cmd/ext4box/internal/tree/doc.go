// Package tree walks the directories of an image.
//
// It knows how to visit every file below a directory once, in bounded memory and
// without recursion, however deep, wide or circular the image makes its
// directories. It does not know the disk format, nor what is done with the files:
// that is the business of its callers, the verbs ls, cp and tar.
//
// # Trust
//
// Names and directories come from the image and are hostile. A name that is not
// a single path component is reported and left out, so that no caller ever sees
// one. A directory that is reached a second time is reported and not entered: it
// cannot make a walk endless, nor exponential.
//
// A walk has one goroutine and takes no locks.
package tree
