// Package testimage makes ext2, ext3 and ext4 images for tests and says what
// is in them.
//
// It knows mke2fs, debugfs, tune2fs, e2fsck, loop devices and the kernel's own
// ext4, which are the judges of the project's tests, and it keeps no binary
// file: each image is made when a test needs it. [Configs] is the matrix of
// filesystem shapes, [Build] makes and fills one, [Mount] shows it through the
// kernel, and a [Manifest] is everything a reader can see of a tree, walked
// through a mount ([Walk]) or through debugfs ([WalkDebugfs]). The sibling
// package apitree walks through the project's Go library. [Manifest.Diff]
// compares two of them.
//
// It must not know how the project reads an image: nothing here imports the
// engine, so that the tests of any floor may use it and no reader judges
// itself. Production code never imports it.
//
// All of it is safe for concurrent use: each call works on its own image and
// its own mount. What is mounted or attached for a test is gone when the test
// ends. The trees are the same for the same [Options.Seed], apart from times
// that only the kernel sets.
package testimage
