package main

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"strconv"
)

// fioJob is what fio is asked to do.
type fioJob struct {
	rw     string // as in fio's option
	size   int    // of each file, in MiB
	block  string
	depth  int
	jobs   int
	direct bool
	engine string   // libaio, unless it is said
	limit  int      // MiB to move, of each job, if that is less than size
	extra  []string // more options
	laid   bool     // the files are there, and have all of their blocks
}

// files is the fio job as a job.
func (f fioJob) job(name, class string, must, aim float64) job {
	j := job{name: name, class: class, must: must, aim: aim, unit: "MB/s"}
	if f.laid {
		j.prepare = f.lay
	}
	j.run = f.run
	return j
}

func (f fioJob) count() int { return max(1, f.jobs) }

func (f fioJob) path(dir string, i int) string { return filepath.Join(dir, fmt.Sprintf("file.%d", i)) }

// lay writes the files.
func (f fioJob) lay(e *env, dir string) error {
	for i := range f.count() {
		_, err := output("fio", "--name=lay", "--filename="+f.path(dir, i), "--rw=write", "--bs=1M", "--direct=1",
			"--ioengine=psync", "--end_fsync=1", "--size="+mebibytes(e.scale(f.size)))
		if err != nil {
			return err
		}
	}
	return nil
}

func mebibytes(n int) string { return strconv.Itoa(n) + "M" }

// run returns the megabytes (10^6) per second of all jobs together, with the time
// that the final fsync takes where the job has one.
func (f fioJob) run(e *env, dir string) (float64, error) {
	engine := f.engine
	if engine == "" {
		engine = "libaio"
	}
	args := []string{
		"--output-format=json", "--group_reporting", "--thread", "--name=job",
		"--directory=" + dir, "--filename_format=file.$jobnum", "--rw=" + f.rw, "--bs=" + f.block,
		"--ioengine=" + engine, "--iodepth=" + strconv.Itoa(max(1, f.depth)), "--numjobs=" + strconv.Itoa(f.count()),
		"--size=" + mebibytes(e.scale(f.size)), "--randrepeat=1", "--invalidate=0", "--fallocate=none",
	}
	if f.direct {
		args = append(args, "--direct=1")
	}
	if f.limit > 0 {
		args = append(args, "--io_size="+mebibytes(e.scale(f.limit)))
	}
	args = append(args, f.extra...)
	text, err := output("fio", args...)
	if err != nil {
		return 0, err
	}
	var report struct {
		Jobs []struct {
			Read, Write struct {
				Bytes   uint64 `json:"io_bytes"`
				Runtime uint64 `json:"runtime"` // ms
				Rate    uint64 `json:"bw_bytes"`
			}
		}
	}
	if err := json.Unmarshal([]byte(text), &report); err != nil {
		return 0, fmt.Errorf("fio: %w", err)
	}
	if len(report.Jobs) != 1 {
		return 0, fmt.Errorf("fio: %d groups of jobs", len(report.Jobs))
	}
	j := report.Jobs[0]
	return float64(j.Read.Rate+j.Write.Rate) / 1e6, nil
}
