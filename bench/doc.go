// Command bench measures ext4box against the kernel's ext4, and fuse2fs where it is
// installed, job by job, in one run on one machine.
//
//	bench [--quick] [--jobs REGEXP] [--rounds N] [--scale] [--unboxed] [--json FILE] [--dir DIR]
//	bench --json FILE --doc PAGE
//
// Each file system has images of its own, made alike, in files beside each other. Jobs
// that work on the same files are a series: these are prepared once on each file system,
// and the series is then run in rounds, in each of which the file systems take turns, from
// the first to the last and in the next round backwards, so that what else the machine does
// meets all of them. fuse2fs has one round. A job that says cold starts from a new mount
// and empty caches. What is printed is the median of the rounds, their spread, which is the
// distance of best and worst as a part of the median, and the ratio to the kernel's ext4:
// above 1 is faster than that.
//
// The scaling jobs do the same to more and more files, or to larger ones, and print what one
// operation costs. Sizes beyond a hundred thousand files and 10 GiB, which take long, are
// run with --scale, or when the size before promises that they take no longer than patience.
//
// In the end e2fsck judges the images. A job that fails, or an image that is not clean, is
// an error; one that is slow is not. An interrupt ends the run at once, with everything
// unmounted.
//
// --json writes a report, as the type of that name describes it: "format" is raised when a
// field changes its meaning or goes away. --doc makes docs/performance.md of it, together
// with bounds.md, which is kept by hand and says of each class of jobs what bounds it.
//
// It needs root, for loop devices and for emptying caches, and fio.
package main
