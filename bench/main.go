package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"
)

func main() {
	var b bench
	flag.BoolVar(&b.env.quick, "quick", false, "an eighth of the work, and one round: to try it")
	flag.IntVar(&b.rounds, "rounds", 5, "how often each job is run on the kernel and ext4box")
	flag.BoolVar(&b.scale, "scale", false, "all sizes of the scaling jobs, however long they take")
	flag.StringVar(&b.json, "json", "", "also write the results to this file")
	flag.StringVar(&b.dir, "dir", "", "where the images are; the directory for temporary files if empty")
	flag.StringVar(&b.binary, "ext4box", "bin/ext4box", "the program to measure")
	flag.StringVar(&b.options, "o", "", "mount options for it")
	flag.StringVar(&b.sandbox, "sandbox", "", "its --sandbox")
	flag.BoolVar(&b.unboxed, "unboxed", false, "instead of fuse2fs, measure ext4box without its box")
	pattern := flag.String("jobs", "", "only the jobs whose names match this regular expression")
	list := flag.Bool("list", false, "list the jobs, and do nothing")
	doc := flag.String("doc", "", "measure nothing: write this page from the results in the file of --json")
	flag.Parse()
	var err error
	if flag.NArg() > 0 {
		err = fmt.Errorf("%q: there are only flags", flag.Arg(0))
	}
	if err == nil {
		b.pattern, err = regexp.Compile(*pattern)
	}
	switch {
	case err != nil:
	case *list:
		b.list()
	case *doc != "":
		err = document(*doc, b.json)
	default:
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
	scale   bool
	json    string
	dir     string
	binary  string
	options string
	sandbox string
	unboxed bool
	pattern *regexp.Regexp

	work     string
	systems  []*system
	states   map[string]imageState // by image
	progress progress
	machine  machine
}

// scalePrefix makes names by which --jobs finds the scaling jobs.
const scalePrefix = "scaling: "

func (b *bench) list() {
	for _, s := range allSeries() {
		for _, j := range s.jobs {
			fmt.Printf("%-28s %s\n", j.name, j.class)
		}
	}
	for _, s := range scalers() {
		fmt.Println(scalePrefix + s.name)
	}
}

func warn(form string, args ...any) { fmt.Fprintf(os.Stderr, "bench: "+form+"\n", args...) }

// say prints a line that stays.
func (b *bench) say(form string, args ...any) {
	if terminal {
		fmt.Fprint(os.Stderr, "\r\x1b[K")
	}
	warn(form, args...)
}

// line shows what is being done, on terminals.
func (b *bench) line(form string, args ...any) {
	if terminal {
		fmt.Fprintf(os.Stderr, "\r\x1b[K%s left: %s", b.progress.left(time.Now()).Round(time.Second), fmt.Sprintf(form, args...))
	}
}

var terminal = func() bool {
	info, err := os.Stderr.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}()

func (b *bench) run() (err error) {
	if os.Geteuid() != 0 {
		return errors.New("this takes root: it mounts loop devices and empties caches")
	}
	if b.binary, err = filepath.Abs(b.binary); err != nil {
		return err
	}
	if b.env.quick {
		b.rounds = 1
	}
	// What is mounted is unmounted whatever happens: an interrupt ends the job that runs,
	// and what follows is the usual end.
	var stop context.CancelFunc
	b.env.ctx, stop = signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	if b.work, err = os.MkdirTemp(b.dir, "ext4box-bench-"); err != nil {
		return err
	}
	if b.work, err = filepath.Abs(b.work); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(b.work)) }()
	b.machine = describe(b.work, b.binary, b.mountOptions())
	if b.machine.Busy = busyNow(); b.machine.Busy > 0.1 {
		warn("something else uses %.0f%% of the processors: the figures will not be worth much", b.machine.Busy*100)
	}
	if err := b.env.collect(b.work); err != nil {
		return err
	}
	b.states = map[string]imageState{}
	b.progress = progress{start: time.Now(), all: b.estimate()}
	warn("this takes about %s", b.progress.left(time.Now()).Round(10*time.Second))
	defer func() {
		for _, s := range b.systems {
			s.close()
		}
	}()
	if err := b.add(); err != nil {
		return err
	}
	before := readProcessors()
	r := b.all()
	_, r.Machine.Stolen = readProcessors().since(before)
	if err := b.env.ctx.Err(); err != nil {
		return errors.New("interrupted")
	}
	r.table(os.Stdout)
	r.growthTable(os.Stdout)
	r.summary(os.Stdout)
	if b.json != "" {
		text, err := json.MarshalIndent(r, "", "  ")
		if err != nil {
			return err
		}
		if err := os.WriteFile(b.json, append(text, '\n'), 0o644); err != nil {
			return err
		}
	}
	return r.broken()
}

// all runs everything that is chosen.
func (b *bench) all() *report {
	r := &report{Format: format, Date: b.progress.start.UTC().Truncate(time.Second), Quick: b.env.quick, Rounds: b.rounds}
	for _, s := range allSeries() {
		if b.env.ctx.Err() != nil || !b.any(&s) {
			continue
		}
		start := time.Now()
		outcomes := b.measure(&s)
		if b.env.ctx.Err() != nil {
			break
		}
		for i := range outcomes {
			b.say("%s: %.2f %s", outcomes[i].Job, outcomes[i].Ratio, shout(outcomes[i].Verdict))
		}
		r.Jobs = append(r.Jobs, outcomes...)
		b.advance(b.costOf(&s), start, s.name)
	}
	for _, s := range scalers() {
		if b.env.ctx.Err() == nil && b.chosen(scalePrefix+s.name) {
			start := time.Now()
			r.Scaling = append(r.Scaling, b.grow(&s)...)
			b.advance(b.growCost(&s), start, s.name)
		}
	}
	for _, s := range b.systems {
		if err := b.retire(s); err != nil {
			b.say("%v", err)
		}
		if s.name == nameBox {
			r.Memory.Peak = s.peak
		}
	}
	for _, image := range slices.Sorted(maps.Keys(b.states)) {
		r.Images = append(r.Images, b.states[image])
	}
	r.Seconds = time.Since(b.progress.start).Seconds()
	r.Machine = b.machine
	r.sum()
	return r
}

func (b *bench) any(s *series) bool {
	for _, j := range s.jobs {
		if b.chosen(j.name) {
			return true
		}
	}
	return false
}

// costOf estimates how long a series takes, in seconds.
func (b *bench) costOf(s *series) float64 {
	// Preparation, and the other systems, are worth another two rounds.
	cost := s.cost * float64(b.rounds+2)
	if b.env.quick {
		cost /= 3
	}
	return cost
}

func (b *bench) growCost(s *scaler) float64 {
	switch {
	case b.env.quick:
		return s.cost / 5
	case b.scale:
		return s.cost * 10
	}
	return s.cost
}

func (b *bench) estimate() float64 {
	sum := 20.0 // for the images
	for _, s := range allSeries() {
		if b.any(&s) {
			sum += b.costOf(&s)
		}
	}
	for _, s := range scalers() {
		if b.chosen(scalePrefix + s.name) {
			sum += b.growCost(&s)
		}
	}
	return sum
}

func (b *bench) advance(cost float64, start time.Time, name string) {
	b.progress.done += cost
	now := time.Now()
	b.say("%s took %.0f s; about %s left", name, now.Sub(start).Seconds(), b.progress.left(now).Round(time.Second))
}

// collect makes the archive of real files: the sources of Go's library, which are on every
// machine that can build this.
func (e *env) collect(work string) error {
	root, err := command("go", "env", "GOROOT")
	if err != nil {
		return err
	}
	tree := filepath.Join(strings.TrimSpace(root), "src")
	if e.quick {
		tree = filepath.Join(tree, "internal")
	}
	e.tar = filepath.Join(work, "tree.tar")
	_, err = command("tar", "cf", e.tar, "-C", tree, "--exclude=./cmd", ".")
	return err
}

func (b *bench) mountOptions() string {
	return strings.Join(b.arguments(), " ")
}

// arguments are those of ext4box mount, before image and directory.
func (b *bench) arguments() []string {
	var args []string
	if b.sandbox != "" {
		args = append(args, "--sandbox="+b.sandbox)
	}
	if b.options != "" {
		args = append(args, "-o", b.options)
	}
	return args
}

// add has the systems.
func (b *bench) add() error {
	systems := []*system{
		{name: nameKernel, driver: kernelDriver{}},
		{name: nameBox, driver: &boxDriver{binary: b.binary, options: b.arguments()}},
	}
	if b.unboxed {
		systems = append(systems, &system{name: nameUnboxed, driver: &boxDriver{binary: b.binary, options: append(b.arguments(), "--sandbox=off")}})
	} else if _, err := exec.LookPath("fuse2fs"); err == nil {
		systems = append(systems, &system{name: nameFuse2fs, driver: fuse2fsDriver{}})
		b.machine.Fuse2fs = fuse2fsVersion()
	} else {
		warn("fuse2fs is not installed, and left out")
	}
	for _, s := range systems {
		s.dir = filepath.Join(b.work, "on-"+s.name)
		if err := os.Mkdir(s.dir, 0o755); err != nil {
			return err
		}
		b.systems = append(b.systems, s)
	}
	return nil
}
