package main

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// series is a number of jobs on the same files.
type series struct {
	name  string // of its directory
	image string // which kind of image it is on; "": that of all jobs
	// fresh: each round begins with an empty directory.
	fresh bool
	// chained: a job needs what those before it leave, so these are run as well.
	chained bool
	// unmounted: the jobs mount and unmount by themselves.
	unmounted bool
	// cost is about how many seconds a round takes on the kernel and ext4box together,
	// for the estimate.
	cost float64

	// prepare makes what the jobs work on, once.
	prepare func(e *env, dir string) error
	jobs    []job
}

// job is one thing to measure.
type job struct {
	name  string
	class string // the line of targets it belongs to
	must  float64
	aim   float64
	// within is how long it may take, where the target is a time.
	within time.Duration
	unit   string // "MB/s" or "s"
	cold   bool   // it starts from a new mount and empty caches

	// before runs unmeasured.
	before func(e *env, dir string) error
	// run does the job. It returns the speed, if the unit is that of a speed; what counts is
	// else the time it takes.
	run func(e *env, dir string) (float64, error)
}

// env is what jobs run in.
type env struct {
	ctx    context.Context
	quick  bool
	tar    string  // an archive of real files
	system *system // that is being measured
}

// scale is n, or less of it with --quick.
func (e *env) scale(n int) int {
	if e.quick {
		return max(1, n/8)
	}
	return n
}

// shell runs a script, of which $1 and $2 are the archive and the directory.
func (e *env) shell(script, dir string) error {
	_, err := output(e.ctx, "sh", "-e", "-c", script, "sh", e.tar, dir)
	return err
}

// each calls f n times, unless the run is interrupted.
func (e *env) each(n int, f func(i int) error) error {
	for i := range n {
		if err := e.ctx.Err(); err != nil {
			return err
		}
		if err := f(i); err != nil {
			return err
		}
	}
	return nil
}

// output runs a program and returns what it prints; the error has what it complains of.
// The program is in a process group of its own, so that an interrupt from the terminal
// reaches only this program, which then ends that group.
func output(ctx context.Context, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	var out, complaint bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaint
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s: %w: %s", name, err, strings.TrimSpace(complaint.String()))
	}
	return out.String(), nil
}

// command runs a program whatever happens: those that clean up.
func command(name string, args ...string) (string, error) {
	return output(context.Background(), name, args...)
}

// timed is the time that f takes, in seconds.
func timed(f func() error) (float64, error) {
	start := time.Now()
	err := f()
	return time.Since(start).Seconds(), err
}
