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
}

// longest is how many seconds fio may take: what is counted is what it moved until then.
const longest = 2

// job is the fio job as a job.
func (f fioJob) job(name, class string, must, aim float64) job {
	return job{name: name, class: class, must: must, aim: aim, unit: "MB/s", run: f.run}
}

func (f fioJob) count() int { return max(1, f.jobs) }

// lay writes the files, so that they have all of their blocks.
func (f fioJob) lay(e *env, dir string) error {
	for i := range f.count() {
		_, err := output(e.ctx, "fio", "--name=lay", "--filename="+filepath.Join(dir, fmt.Sprintf("file.%d", i)), "--rw=write", "--bs=1M",
			"--direct=1", "--ioengine=psync", "--end_fsync=1", "--create_on_open=1", "--size="+mebibytes(e.scale(f.size)))
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
		"--size=" + mebibytes(e.scale(f.size)), "--runtime=" + strconv.Itoa(longest), "--randrepeat=1", "--invalidate=0", "--fallocate=none",
	}
	if f.direct {
		args = append(args, "--direct=1")
	}
	if f.limit > 0 {
		args = append(args, "--io_size="+mebibytes(e.scale(f.limit)))
	}
	args = append(args, f.extra...)
	text, err := output(e.ctx, "fio", args...)
	if err != nil {
		return 0, err
	}
	return rate([]byte(text))
}

// rate finds the speed in what fio reports.
func rate(text []byte) (float64, error) {
	var report struct {
		Jobs []struct {
			Read, Write struct {
				Rate uint64 `json:"bw_bytes"`
			}
		}
	}
	if err := json.Unmarshal(text, &report); err != nil {
		return 0, fmt.Errorf("fio: %w", err)
	}
	if len(report.Jobs) != 1 {
		return 0, fmt.Errorf("fio: %d groups of jobs", len(report.Jobs))
	}
	j := report.Jobs[0]
	sum := float64(j.Read.Rate+j.Write.Rate) / 1e6
	if sum == 0 {
		return 0, fmt.Errorf("fio: nothing moved")
	}
	return sum, nil
}
