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
	names          = "names in one directory"
)

func jobs() []job {
	var all []job
	add := func(j ...job) { all = append(all, j...) }
	colder := func(j job) job { j.cold = true; return j }
	fresher := func(j job) job { j.fresh = true; return j }
	sync := []string{"--end_fsync=1"}

	seq := fioJob{size: 1024, block: "1M", depth: 4, direct: true}
	read, write := seq, seq
	read.rw, read.laid = "read", true
	write.rw, write.laid = "write", true
	add(read.job("seq-read-direct", streamDirect, 0.95, 1))
	add(write.job("seq-write-direct", streamDirect, 0.95, 1))
	write.laid = false
	add(fresher(write.job("seq-write-direct-new", streamDirect, 0.95, 1)))
	read.direct, read.engine, read.depth = false, "psync", 1
	add(colder(read.job("seq-read-buffered-cold", streamBuffered, 1.1, 1.2)))
	write.direct, write.engine, write.depth, write.extra = false, "psync", 1, sync
	add(fresher(write.job("seq-write-buffered", streamBuffered, 1.1, 1.2)))

	for _, depth := range []int{1, 16} {
		r := fioJob{rw: "randread", size: 512, limit: 128, block: "4k", depth: depth, direct: true, laid: true}
		w := r
		w.rw = "randwrite"
		for _, n := range []int{1, 4} {
			r.jobs, w.jobs = n, n
			if n > 1 {
				r.size, r.limit = 128, 32
				w.size, w.limit = 128, 32
			}
			suffix := map[int]string{1: "-qd1", 16: "-qd16"}[depth] + map[int]string{1: "", 4: "-j4"}[n]
			add(r.job("rand-read-direct"+suffix, randomDirect, 0.8, 0.95))
			add(w.job("rand-write-direct"+suffix, randomDirect, 0.8, 0.95))
		}
	}
	rb := fioJob{rw: "randread", size: 512, limit: 128, block: "4k", engine: "psync", laid: true}
	wb := fioJob{rw: "randwrite", size: 512, limit: 256, block: "4k", engine: "psync", laid: true, extra: sync}
	add(colder(rb.job("rand-read-buffered-cold", randomBuffered, 0.85, 1.2)))
	add(colder(wb.job("rand-write-buffered", randomBuffered, 0.85, 1.2)))
	rb.jobs, rb.size, rb.limit = 4, 128, 32
	wb.jobs, wb.size, wb.limit = 4, 128, 64
	add(colder(rb.job("rand-read-buffered-cold-j4", randomBuffered, 0.85, 1.2)))
	add(colder(wb.job("rand-write-buffered-j4", randomBuffered, 0.85, 1.2)))
	mix := fioJob{rw: "randrw", size: 512, limit: 128, block: "4k", depth: 16, direct: true, laid: true, extra: []string{"--rwmixread=70"}}
	add(mix.job("rand-mixed-direct-qd16", randomDirect, 0.8, 0.95))

	mr := fioJob{rw: "read", size: 512, block: "64k", engine: "mmap", laid: true}
	mw := fioJob{rw: "write", size: 512, block: "64k", engine: "mmap", laid: true, extra: sync}
	add(colder(mr.job("mmap-read-cold", streamBuffered, 1.1, 1.2)))
	add(mw.job("mmap-write", streamBuffered, 1.1, 1.2))

	hole := fioJob{rw: "randwrite", size: 512, limit: 64, block: "4k", depth: 16, direct: true}
	add(fresher(hole.job("rand-write-direct-hole", allocation, 0.8, 1)))
	hole.depth, hole.limit = 1, 32
	add(fresher(hole.job("rand-write-direct-hole-qd1", allocation, 0.8, 1)))

	add(fresher(fioJob{rw: "write", size: 8, block: "4k", engine: "psync", extra: []string{"--fsync=1"}}.
		job("append-fsync", durable, 0.8, 1)))
	add(fioJob{rw: "randwrite", size: 256, limit: 8, block: "4k", engine: "psync", laid: true, extra: []string{"--fdatasync=1"}}.
		job("overwrite-fdatasync", durable, 0.8, 1))

	return append(all, fileJobs()...)
}
