// Package posixfs is a filesystem as programs use it: the system calls that take a path or an open
// file, behind an interface, so that a test can do the same to a mount of the operating system
// ([Mounted]) and to whatever else plays the kernel.
//
// It knows what the calls are called and who makes them, and nothing of what is behind. Paths are
// relative to the root of the filesystem and follow the rules of the system; no path is absolute. Errors are
// those of the system: errors.As finds a syscall.Errno in each.
//
// An FS, and a File, may be used by several goroutines at once. Only tests import it.
package posixfs
