// Package e2test gives tests the tools of e2fsprogs: it makes images with
// mke2fs, changes them with debugfs and returns what debugfs and dumpe2fs say
// about them.
//
// It knows the tools and the form of their output, and nothing of the engine,
// whose judges they are. Package testimage, on which it builds, makes whole
// trees; this one is for tests that look at one thing. Only tests import it. All
// of it may be called concurrently for different images.
package e2test
