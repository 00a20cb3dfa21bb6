package main

import "time"

// job is one thing to measure.
type job struct {
	name  string
	class string // the line of targets it belongs to
	must  float64
	aim   float64
	cold  bool // each run starts from a new mount and empty caches
	fresh bool // each run has a directory of its own, removed unmeasured afterwards
	slow  bool // not with --quick

	// prepare makes what the job works on, once, in the directory of the job.
	prepare func(e *env, dir string) error
	// before runs unmeasured before each run.
	before func(e *env, dir string) error
	// run does the job and returns its speed, in units of its own in a second. 0 stands
	// for one over the time it took.
	run func(e *env, dir string) (float64, error)
	// unit is that of the speed: "MB/s", or empty for jobs that count by their time.
	unit string
}

// env is what jobs share.
type env struct {
	quick bool
	tree  string // a tree of real files, outside of what is measured
	tar   string // the same as a tar archive
}

// scale is n, or less of it with --quick.
func (e *env) scale(n int) int {
	if e.quick {
		return max(1, n/8)
	}
	return n
}

// timed is the time that f takes.
func timed(f func() error) (time.Duration, error) {
	start := time.Now()
	err := f()
	return time.Since(start), err
}
