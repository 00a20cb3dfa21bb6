package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// fuse2fsRounds is how often fuse2fs runs what others run in all rounds: it is slow, and its
// targets are factors.
const fuse2fsRounds = 1

// measure runs the chosen jobs of a series on all systems.
func (b *bench) measure(s *series) []outcome {
	last := -1
	outcomes := make([]outcome, len(s.jobs))
	for i, j := range s.jobs {
		if b.chosen(j.name) {
			last = i
		}
		outcomes[i] = outcome{Job: j.name, Class: j.class, Unit: j.unit, Must: j.must, Aim: j.aim, Within: j.within.Seconds()}
		for _, sys := range b.systems {
			outcomes[i].Results = append(outcomes[i].Results, result{System: sys.name})
		}
	}
	failures := make([]error, len(b.systems))
	for i, sys := range b.systems {
		failures[i] = b.prepare(s, sys)
	}
	for round := range b.rounds {
		for i := range b.systems {
			at := i
			if round%2 == 1 { // whoever was first is last
				at = len(b.systems) - 1 - i
			}
			sys := b.systems[at]
			if failures[at] != nil || sys.name == nameFuse2fs && round >= fuse2fsRounds || b.env.ctx.Err() != nil {
				continue
			}
			for k := range last + 1 {
				if !s.chained && !b.chosen(s.jobs[k].name) {
					continue
				}
				if k == 0 || !s.chained {
					b.line("round %d/%d %s %s", round+1, b.rounds, s.jobs[k].name, sys.name)
				}
				if failures[at] = b.once(s, &s.jobs[k], sys, k == 0, &outcomes[k].Results[at]); failures[at] != nil {
					failures[at] = fmt.Errorf("%s: %w", s.jobs[k].name, failures[at])
					break
				}
			}
		}
	}
	for i, sys := range b.systems {
		if err := failures[i]; err != nil {
			b.say("%s: %v", sys.name, err)
			for k := range outcomes {
				outcomes[k].Results[i].Failure = err.Error()
			}
		}
		b.finish(s, sys)
	}
	var chosen []outcome
	for _, o := range outcomes {
		if b.chosen(o.Job) {
			o.sum()
			chosen = append(chosen, o)
		}
	}
	return chosen
}

func (b *bench) chosen(name string) bool { return b.pattern.MatchString(name) }

func (s *series) kind() string {
	if s.image == "" {
		return mainImage
	}
	return s.image
}

func (s *series) path(sys *system) string { return filepath.Join(sys.dir, s.name) }

// use has an image of a kind in use by a system, and makes it first if need be.
func (b *bench) use(sys *system, kind string) error {
	path := filepath.Join(b.work, sys.name, kind+".img")
	if sys.image == path {
		return nil
	}
	if err := b.retire(sys); err != nil {
		return err
	}
	if _, err := os.Stat(path); err != nil {
		b.line("making the image %s for %s", kind, sys.name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), makeImage(path, kind, b.env.quick)); err != nil {
			return err
		}
	}
	return sys.attach(path)
}

// retire has e2fsck judge the image that is in use, and takes it out of use. All but that of
// most jobs are needed once and removed.
func (b *bench) retire(sys *system) error {
	if sys.image == "" {
		return nil
	}
	image := sys.image
	b.line("e2fsck %s of %s", filepath.Base(image), sys.name)
	b.states[image] = sys.check()
	if err := sys.detach(); err != nil || filepath.Base(image) == mainImage+".img" {
		return err
	}
	return os.Remove(image)
}

func (b *bench) prepare(s *series, sys *system) error {
	if err := b.use(sys, s.kind()); err != nil {
		return err
	}
	if s.unmounted {
		return sys.unmount()
	}
	if err := errors.Join(sys.mount(), os.Mkdir(s.path(sys), 0o755)); err != nil {
		return err
	}
	if sys.name == nameBox {
		b.machine.Transport = transportOf(sys.driver.servers(sys.dir))
	}
	if s.prepare == nil {
		return nil
	}
	b.line("preparing %s on %s", s.name, sys.name)
	return s.prepare(b.on(sys), s.path(sys))
}

// finish removes what a series leaves, also when it failed.
func (b *bench) finish(s *series, sys *system) {
	if s.unmounted {
		sys.release()
		return
	}
	if err := sys.rescue(); err != nil {
		b.say("%v", err)
		return
	}
	if err := os.RemoveAll(s.path(sys)); err != nil {
		b.say("%s: %v", sys.name, err)
	}
}

// on is the environment for jobs on a system.
func (b *bench) on(sys *system) *env {
	e := b.env
	e.system = sys
	return &e
}

// once runs a job once and adds to its result.
func (b *bench) once(s *series, j *job, sys *system, first bool, r *result) error {
	dir, e := s.path(sys), b.on(sys)
	if s.fresh && (first || !s.chained) {
		if err := errors.Join(os.RemoveAll(dir), os.Mkdir(dir, 0o755)); err != nil {
			return err
		}
	}
	if j.before != nil {
		if err := j.before(e, dir); err != nil {
			return err
		}
	}
	if !s.unmounted {
		// What was made before is not to be written back meanwhile.
		if err := e.shell("sync -f $2", sys.dir); err != nil {
			return err
		}
		if j.cold {
			if err := sys.remount(); err != nil {
				return err
			}
		}
	}
	sys.forget()
	cpu := sys.cpu()
	var speed float64
	took, err := timed(func() (err error) {
		speed, err = j.run(e, dir)
		return err
	})
	if err != nil {
		return err
	}
	if s.unmounted {
		cpu = 0 // the servers are new
	}
	r.CPU += max(0, sys.cpu()-cpu)
	r.Peak = max(r.Peak, sys.look())
	if j.unit == "s" {
		r.Rounds = append(r.Rounds, took)
	} else {
		r.Rounds = append(r.Rounds, speed)
	}
	return nil
}

// progress is how far the run is, by the costs of its series.
type progress struct {
	start time.Time
	done  float64 // seconds that were estimated for what is done
	all   float64
}

// left estimates the time to come by how the estimates were met so far.
func (p *progress) left(now time.Time) time.Duration {
	rest := p.all - p.done
	if p.done > 0 {
		rest *= now.Sub(p.start).Seconds() / p.done
	}
	return time.Duration(max(0, rest) * float64(time.Second))
}
