// Package cache is a bounded, concurrent map with CLOCK eviction. The metadata
// block cache and the inode cache are built on it.
//
// It knows nothing of what it stores. Memory is bounded by the number of
// entries; the garbage collector frees evicted values once their last user has
// dropped them, so a value may be used after its eviction. While it is, the cache
// gives out that very value for its key again, and never a second one.
package cache
