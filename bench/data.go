package main

import (
	"fmt"
	"os"
	"path/filepath"
)

// dataJobs are those that move the content of files.
func dataJobs() []series {
	sync := []string{"--end_fsync=1"}
	// A new file that grows: fio would else set its size first.
	growing := []string{"--create_on_open=1"}
	colder := func(j job) job { j.cold = true; return j }

	direct := fioJob{size: 1024, block: "1M", depth: 4, direct: true}
	read, write := direct, direct
	read.rw, write.rw = "read", "write"
	fresh := write
	fresh.extra = growing
	buffered := fioJob{rw: "read", size: 1024, block: "1M", engine: "psync"}
	bufferedWrite := fioJob{rw: "write", size: 1024, block: "1M", engine: "psync", extra: append(growing, sync...)}
	mmapRead := fioJob{rw: "read", size: 1024, limit: 512, block: "64k", engine: "mmap"}
	mmapWrite := fioJob{rw: "write", size: 1024, limit: 512, block: "64k", engine: "mmap", extra: sync}
	all := []series{
		{name: "stream", prepare: direct.lay, cost: 12, jobs: []job{
			read.job("seq-read-direct", streamDirect, 0.95, 1),
			write.job("seq-write-direct", streamDirect, 0.95, 1),
			colder(buffered.job("seq-read-buffered-cold", streamBuffered, 1.1, 1.2)),
			colder(mmapRead.job("mmap-read-cold", streamBuffered, 1.1, 1.2)),
			mmapWrite.job("mmap-write", streamBuffered, 1.1, 1.2),
		}},
		{name: "stream-new", fresh: true, cost: 4, jobs: []job{fresh.job("seq-write-direct-new", streamDirect, 0.95, 1)}},
		{name: "stream-new-buffered", fresh: true, cost: 4, jobs: []job{bufferedWrite.job("seq-write-buffered", streamBuffered, 1.1, 1.2)}},
	}

	for _, n := range []int{1, 4} {
		suffix := map[int]string{4: "-j4"}[n]
		files := fioJob{size: 512 / n, block: "4k", jobs: n}
		s := series{name: "random" + suffix, prepare: files.lay, cost: 13}
		for _, depth := range []int{1, 16} {
			r := files
			r.rw, r.depth, r.direct, r.limit = "randread", depth, true, 64/n
			w := r
			w.rw = "randwrite"
			s.jobs = append(s.jobs, r.job(fmt.Sprintf("rand-read-direct-qd%d%s", depth, suffix), randomDirect, 0.8, 0.95),
				w.job(fmt.Sprintf("rand-write-direct-qd%d%s", depth, suffix), randomDirect, 0.8, 0.95))
		}
		mix := files
		mix.rw, mix.depth, mix.direct, mix.limit, mix.extra = "randrw", 16, true, 64/n, []string{"--rwmixread=70"}
		rb := files
		rb.rw, rb.engine, rb.limit = "randread", "psync", 64/n
		wb := files
		wb.rw, wb.engine, wb.limit, wb.extra = "randwrite", "psync", 128/n, sync
		s.jobs = append(s.jobs, mix.job("rand-mixed-direct-qd16"+suffix, randomDirect, 0.8, 0.95),
			colder(rb.job("rand-read-buffered-cold"+suffix, randomBuffered, 0.85, 1.2)),
			colder(wb.job("rand-write-buffered"+suffix, randomBuffered, 0.85, 1.2)))
		all = append(all, s)
	}

	hole := fioJob{rw: "randwrite", size: 512, limit: 64, block: "4k", depth: 16, direct: true}
	slow := hole
	slow.depth, slow.limit = 1, 32
	all = append(all,
		series{name: "hole", fresh: true, cost: 3, jobs: []job{hole.job("rand-write-direct-hole", allocation, 0.8, 1)}},
		series{name: "hole-qd1", fresh: true, cost: 3, jobs: []job{slow.job("rand-write-direct-hole-qd1", allocation, 0.8, 1)}})

	over := fioJob{rw: "randwrite", size: 256, limit: 16, block: "4k", engine: "psync", extra: []string{"--fdatasync=1"}}
	return append(all,
		series{name: "append", fresh: true, cost: 3, jobs: []job{
			{name: "append-fsync", class: durable, must: 0.8, aim: 1, unit: "MB/s", run: appendSynced}}},
		series{name: "overwrite", prepare: over.lay, cost: 3, jobs: []job{over.job("overwrite-fdatasync", durable, 0.8, 1)}})
}

// appendSynced writes 4 KiB to the end of a file and has that made durable, again and
// again. fio gives a file its size before it begins, so its writes only fill it.
func appendSynced(e *env, dir string) (speed float64, err error) {
	f, err := os.OpenFile(filepath.Join(dir, "log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	n, record := e.scale(1500), make([]byte, 4096)
	took, err := timed(func() error {
		return e.each(n, func(int) error {
			if _, err := f.Write(record); err != nil {
				return err
			}
			return f.Sync()
		})
	})
	return float64(n*len(record)) / 1e6 / took, err
}
