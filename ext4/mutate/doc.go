// Package mutate makes hostile images: it knows the on-disk format well enough
// to damage an ext2, ext3 or ext4 image where it hurts, and to have the checksums
// right afterwards, so that the damage reaches the code behind them.
//
// A [Base] is a sound image with the places of its structures. A [Mutant] of it
// is made from a seed, always the same one, and is little more than the list of
// what changed: fields of every structure set to interesting values, pointers
// exchanged, blocks claimed twice, directories that contain themselves, trees
// and lists in a circle, logs that replay all of this over a sound image, lengths
// that lie, geometry that overflows, an image that ends early, flipped bits, and
// several of these together. Its String says in words what was done.
//
// It knows the format only through ext4/internal/disk, and of the journal and the
// quota files what it needs to write them. It must not know how the engine reads
// an image, nor decide what is right about one. Only tests import it. A Base does
// not change and may be used concurrently, a Mutant as well.
package mutate
