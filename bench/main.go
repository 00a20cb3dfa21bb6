package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"time"
)

const (
	nameKernel  = "kernel"
	nameBox     = "ext4box"
	nameFuse2fs = "fuse2fs"
	nameUnboxed = "unboxed" // ext4box with --sandbox=off
)

func main() {
	var b bench
	flag.BoolVar(&b.env.quick, "quick", false, "an eighth of the work, and one round")
	flag.IntVar(&b.rounds, "rounds", 5, "how often each job is run on each file system")
	flag.StringVar(&b.json, "json", "", "also write the results to this file")
	flag.StringVar(&b.dir, "dir", "", "where the images are; the directory for temporary files if empty")
	flag.StringVar(&b.binary, "ext4box", "bin/ext4box", "the program to measure")
	flag.StringVar(&b.options, "o", "", "mount options for it")
	flag.StringVar(&b.sandbox, "sandbox", "", "its --sandbox")
	flag.BoolVar(&b.unboxed, "unboxed", false, "instead of fuse2fs, measure ext4box without its box")
	pattern := flag.String("jobs", "", "only the jobs whose names match this regular expression")
	list := flag.Bool("list", false, "list the jobs, and do nothing")
	flag.Parse()
	var err error
	if b.pattern, err = regexp.Compile(*pattern); err == nil && *list {
		for _, j := range jobs() {
			fmt.Printf("%-28s %s\n", j.name, j.class)
		}
		return
	}
	if err == nil {
		err = b.run()
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "bench: %v\n", err)
		os.Exit(1)
	}
}

type bench struct {
	env     env
	rounds  int
	json    string
	dir     string
	binary  string
	options string
	sandbox string
	unboxed bool
	pattern *regexp.Regexp

	systems []*system
}

// imageSize is that of the images, which are sparse.
const imageSize = "8G"

func (b *bench) run() (err error) {
	if os.Geteuid() != 0 {
		return errors.New("this takes root: it mounts loop devices and empties caches")
	}
	if b.binary, err = filepath.Abs(b.binary); err != nil {
		return err
	}
	work, err := os.MkdirTemp(b.dir, "ext4box-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	if b.env.quick {
		b.rounds = 1
	}
	if err := b.env.collect(work); err != nil {
		return err
	}
	defer func() {
		for _, s := range b.systems {
			err = errors.Join(err, s.unmount())
		}
	}()
	if err := b.add(work); err != nil {
		return err
	}
	var outcomes []outcome
	for _, j := range jobs() {
		if !b.pattern.MatchString(j.name) || j.slow && b.env.quick {
			continue
		}
		start := time.Now()
		o := b.measure(j)
		fmt.Fprintf(os.Stderr, "bench: %s: %.2f (%.0f s)\n", j.name, ratioOf(&o), time.Since(start).Seconds())
		outcomes = append(outcomes, o)
	}
	table(os.Stdout, outcomes, b.systems)
	for _, s := range b.systems {
		s.look()
		if s.peak > 0 {
			fmt.Printf("%s: at most %d MiB of memory\n", s.name, s.peak>>20)
		}
	}
	if b.json == "" {
		return nil
	}
	text, err := json.MarshalIndent(map[string]any{"jobs": outcomes, "rounds": b.rounds, "processors": runtime.NumCPU()}, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(b.json, append(text, '\n'), 0o644)
}

func ratioOf(o *outcome) float64 {
	if r := o.of(nameBox); r != nil {
		return r.Ratio
	}
	return 0
}

// collect makes the archive of real files: the sources of Go itself, which are on every
// machine that can build this.
func (e *env) collect(work string) error {
	root, err := output("go", "env", "GOROOT")
	if err != nil {
		return err
	}
	e.tree = filepath.Join(strings.TrimSpace(root), "src")
	if e.quick {
		e.tree = filepath.Join(e.tree, "internal")
	}
	e.tar = filepath.Join(work, "tree.tar")
	_, err = output("tar", "cf", e.tar, "-C", e.tree, ".")
	return err
}

// add makes the images, and mounts them.
func (b *bench) add(work string) error {
	var options []string
	if b.sandbox != "" {
		options = append(options, "--sandbox="+b.sandbox)
	}
	if b.options != "" {
		options = append(options, "-o", b.options)
	}
	drivers := []*system{
		{name: nameKernel, driver: kernelDriver{}},
		{name: nameBox, driver: &boxDriver{b.binary, options}},
	}
	if b.unboxed {
		drivers = append(drivers, &system{name: nameUnboxed, driver: &boxDriver{b.binary, []string{"--sandbox=off"}}})
	} else if _, err := exec.LookPath("fuse2fs"); err == nil {
		drivers = append(drivers, &system{name: nameFuse2fs, driver: fuse2fsDriver{}})
	}
	for _, s := range drivers {
		s.image = filepath.Join(work, s.name+".img")
		s.dir = filepath.Join(work, s.name)
		if err := os.Mkdir(s.dir, 0o755); err != nil {
			return err
		}
		// Everything is there from the beginning: the kernel would else write its inode
		// tables while others are measured.
		if _, err := output("mke2fs", "-q", "-F", "-t", "ext4", "-E", "lazy_itable_init=0,lazy_journal_init=0", s.image, imageSize); err != nil {
			return err
		}
		if err := s.mount(); err != nil {
			return err
		}
		b.systems = append(b.systems, s)
	}
	return nil
}

// measure runs a job on all systems.
func (b *bench) measure(j job) outcome {
	o := outcome{Job: j.name, Class: j.class, Unit: j.unit, Must: j.must, Aim: j.aim}
	for _, s := range b.systems {
		r := result{System: s.name}
		if err := b.prepare(&j, s); err != nil {
			r.Failure = err.Error()
		}
		o.Results = append(o.Results, r)
	}
	for round := range b.rounds {
		for i := range b.systems {
			at := (i + round) % len(b.systems)
			b.round(&j, b.systems[at], &o.Results[at])
		}
	}
	var kernel float64
	for i := range o.Results {
		r := &o.Results[i]
		if r.sum(); r.System == nameKernel {
			kernel = r.Median
		}
	}
	for i, s := range b.systems {
		r := &o.Results[i]
		if r.Failure != "" {
			fmt.Fprintf(os.Stderr, "bench: %s: %s: %s\n", j.name, s.name, r.Failure)
		} else if kernel > 0 {
			r.Ratio = r.Median / kernel
		}
		if err := os.RemoveAll(s.path(&j)); err != nil {
			fmt.Fprintf(os.Stderr, "bench: %s: %s: %v\n", j.name, s.name, err)
		}
	}
	return o
}

func (s *system) path(j *job) string { return filepath.Join(s.dir, j.name) }

func (b *bench) prepare(j *job, s *system) error {
	if err := os.Mkdir(s.path(j), 0o755); err != nil {
		return err
	}
	if j.prepare == nil {
		return nil
	}
	return j.prepare(&b.env, s.path(j))
}

// round runs a job once and adds to its result.
func (b *bench) round(j *job, s *system, r *result) {
	if r.Failure != "" {
		return
	}
	speed, err := b.once(j, s, r)
	if err != nil {
		r.Failure = err.Error()
		return
	}
	r.Speeds = append(r.Speeds, speed)
}

func (b *bench) once(j *job, s *system, r *result) (float64, error) {
	dir := s.path(j)
	if j.fresh {
		if err := errors.Join(os.RemoveAll(dir), os.Mkdir(dir, 0o755)); err != nil {
			return 0, err
		}
	}
	if j.before != nil {
		if err := j.before(&b.env, dir); err != nil {
			return 0, err
		}
	}
	// What was made before is not to be written back meanwhile.
	if err := shell("sync -f $2", "", s.dir); err != nil {
		return 0, err
	}
	if j.cold {
		if err := s.remount(); err != nil {
			return 0, err
		}
	}
	cpu := s.cpu()
	var speed float64
	took, err := timed(func() (err error) {
		speed, err = j.run(&b.env, dir)
		return err
	})
	r.CPU += s.cpu() - cpu
	if err != nil {
		return 0, err
	}
	if speed == 0 {
		speed = 1 / took.Seconds()
	}
	return speed, nil
}
