// Package probe finds out what this machine offers to a FUSE server in a box.
//
// It knows how to ask: by trying, where trying has no effect that outlives the
// question, and otherwise by what /proc and /sys say. It mounts nothing anywhere:
// the kernel's side of the FUSE protocol is learned from a mount that is attached
// to no directory. It reads no image, and attaches none. The verb doctor calls it.
package probe
