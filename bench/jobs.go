package main

// The classes of targets.
const (
	streamDirect   = "streaming direct"
	streamBuffered = "streaming buffered"
	randomBuffered = "random buffered"
	randomDirect   = "random direct"
	allocation     = "fresh random direct write"
	durable        = "append and overwrite, made durable"
	warm           = "warm metadata and small files"
	coldReads      = "cold metadata and small files"
	trees          = "trees of files"
	names          = "names in directories"
	mounting       = "mount and unmount"
	scaling        = "scaling"
)

// classes is the order in which they are shown.
var classes = []string{streamDirect, streamBuffered, randomBuffered, randomDirect, allocation, durable, warm, coldReads, trees, names, mounting, scaling}

// allSeries is everything that is measured in rounds.
func allSeries() []series {
	return append(append(dataJobs(), fileJobs()...), mountJobs()...)
}
