// Command bench measures ext4box against the kernel's ext4, and fuse2fs where it is
// installed, job by job, in one run on one machine.
//
//	go run ./bench [--quick] [--jobs REGEXP] [--rounds N] [--unboxed] [--json FILE] [--dir DIR]
//
// Each file system has an image of its own, made alike, in files beside each other. A job
// is prepared once on each and then run in rounds, in each of which the file systems take
// turns, so that what else the machine does meets all of them. A job that says cold starts
// from a new mount and empty caches. What is printed is the median of the rounds, how far
// they are apart, and the ratio to the kernel's ext4: above 1 is faster than that.
//
// It needs root, for loop devices and for emptying caches, and fio.
package main
