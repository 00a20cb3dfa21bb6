// Command ext4box mounts ext2, ext3 and ext4 images without the kernel's ext4,
// and reads, edits and checks them without a mount.
//
// Each verb is a file of this package: an options struct, a constructor of the
// cobra command, and a function that does the work with library calls and prints
// to the command's output. See ext4box(1).
package main

import "os"

func main() {
	os.Exit(run(os.Args, os.Stdout, os.Stderr))
}
