// Package test holds the tests of ext4box as a whole: the program and the Go
// library on images that the kernel, mke2fs and debugfs made, compared with
// what the kernel and debugfs say about them. It has no code of its own; see
// internal/testimage for how images are made and trees compared.
//
// Tests that mount need root, loop devices, /dev/fuse and a kernel with ext4,
// and skip without; those of the library run as any user. With -short a few
// members of the matrix stand for all.
package test
