// Package iomap is the vocabulary in which the engine and whoever moves file
// data talk: mappings from a range of a file to a range of a device, and the
// [Mover], which executes them where the kernel does not.
//
// It knows nothing of ext4 and nothing of FUSE. The numbers of types and flags
// are those of the fuse-iomap protocol, so that a mapping goes to the kernel
// as it is. The engine produces mappings; the server and the engine's own
// readers run the mover.
//
// # Trust
//
// Mappings come from the engine and are trusted to lie on the device; the
// device refuses what does not.
package iomap
