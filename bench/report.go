package main

import (
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// format is the version of the structure below. Fields may be added to it without a new one.
const format = 1

// report is what a run comes to: what --json writes. Times are in seconds, sizes in bytes.
type report struct {
	Format  int       `json:"format"`
	Date    time.Time `json:"date"`
	Quick   bool      `json:"quick"`   // an eighth of the work: the figures are only to try the program
	Rounds  int       `json:"rounds"`  // of kernel and ext4box
	Seconds float64   `json:"seconds"` // that the run took
	Machine machine   `json:"machine"`

	Jobs    []outcome    `json:"jobs"`
	Classes []class      `json:"classes"`
	Scaling []growth     `json:"scaling"`
	Memory  memory       `json:"memory"`
	Images  []imageState `json:"images"` // as e2fsck found them after the run
}

// outcome is a job with its results.
type outcome struct {
	Job     string   `json:"job"`
	Class   string   `json:"class"`
	Unit    string   `json:"unit"` // "MB/s", where more is better, or "s"
	Must    float64  `json:"must"` // least ratio to the kernel, 0: none
	Aim     float64  `json:"aim"`
	Within  float64  `json:"within,omitempty"` // most seconds, 0: none
	Results []result `json:"results"`

	Ratio   float64 `json:"ratio"`   // speed of ext4box, of that of the kernel
	Verdict string  `json:"verdict"` // on ext4box: "aim", "must", "below", "failed", "" where nothing is asked for
	// Fuse2fs is about fuse2fs, where that was measured.
	Fuse2fs *peer `json:"fuse2fs,omitempty"`
}

// result is what the rounds of a job came to on one file system.
type result struct {
	System  string    `json:"system"` // "kernel", "ext4box", "fuse2fs", "unboxed"
	Rounds  []float64 `json:"rounds"` // in the job's unit
	Median  float64   `json:"median"`
	Spread  float64   `json:"spread"`     // (most - least) / median
	Ratio   float64   `json:"ratio"`      // of the speed, to that of the kernel
	CPU     float64   `json:"cpuSeconds"` // of the server's processes, in all rounds
	Peak    uint64    `json:"peakBytes"`  // most memory of these while the job ran
	Failure string    `json:"failure,omitempty"`
}

// peer compares with fuse2fs.
type peer struct {
	Times   float64 `json:"times"`   // speed of ext4box, of that of fuse2fs
	Want    float64 `json:"want"`    // what that should be
	Limit   bool    `json:"atLimit"` // fuse2fs is itself about as fast as the kernel, so nothing is asked for
	Verdict string  `json:"verdict"` // "ok", "below", "limit"
}

// class sums up a line of targets.
type class struct {
	Class string   `json:"class"`
	Mean  float64  `json:"geometricMean"` // of the ratios
	Least float64  `json:"least"`
	Below []string `json:"below"` // the jobs that are below must
}

// growth is how the cost of an operation grows.
type growth struct {
	Name   string  `json:"name"`
	Op     string  `json:"operation"`
	System string  `json:"system"`
	Unit   string  `json:"unit"` // of the sizes
	Points []point `json:"points"`
	Slope  float64 `json:"slope"`  // cost at the largest size, of that at the smallest
	Judged bool    `json:"judged"` // the target is that it is flat
	// Verdict is "flat" within a quarter, "as the kernel" if it grows no more than a quarter
	// beyond what it does there, "grows", or "" where nothing is asked for.
	Verdict string `json:"verdict"`
}

type point struct {
	Size    int64   `json:"size"`
	Seconds float64 `json:"seconds"` // for each operation
}

// memory is that of ext4box in the whole run.
type memory struct {
	Peak  uint64 `json:"peakBytes"`
	Limit uint64 `json:"limitBytes"`
	Below bool   `json:"withinLimit"`
}

type imageState struct {
	System   string `json:"system"`
	Image    string `json:"image"`
	Clean    bool   `json:"clean"`
	Findings string `json:"findings,omitempty"`
}

const (
	memoryLimit = 128 << 20
	// What ext4box should be, of the speed of fuse2fs, and from which ratio to the kernel on
	// fuse2fs counts as being at the limit of the device.
	timesFiles = 10
	timesData  = 3
	deviceAt   = 0.8
)

// The names of the systems.
const (
	nameKernel  = "kernel"
	nameBox     = "ext4box"
	nameFuse2fs = "fuse2fs"
	nameUnboxed = "unboxed" // ext4box with --sandbox=off
)

func median(v []float64) float64 {
	if len(v) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(v))
	return (s[len(s)/2] + s[(len(s)-1)/2]) / 2
}

func (r *result) sum() {
	if r.Median = median(r.Rounds); r.Median > 0 {
		r.Spread = (slices.Max(r.Rounds) - slices.Min(r.Rounds)) / r.Median
	}
}

// faster is the speed of a, of that of b.
func (o *outcome) faster(a, b *result) float64 {
	switch {
	case a == nil || b == nil || a.Median == 0 || b.Median == 0 || a.Failure != "" || b.Failure != "":
		return 0
	case o.Unit == "s":
		return b.Median / a.Median
	}
	return a.Median / b.Median
}

// of finds the result of a system.
func (o *outcome) of(system string) *result {
	for i := range o.Results {
		if o.Results[i].System == system {
			return &o.Results[i]
		}
	}
	return nil
}

// sum draws the conclusions from the rounds.
func (o *outcome) sum() {
	for i := range o.Results {
		o.Results[i].sum()
	}
	kernel, box := o.of(nameKernel), o.of(nameBox)
	for i := range o.Results {
		o.Results[i].Ratio = o.faster(&o.Results[i], kernel)
	}
	if box == nil {
		return
	}
	o.Ratio = box.Ratio
	switch {
	case box.Failure != "" || len(box.Rounds) == 0:
		o.Verdict = "failed"
	case o.Within > 0 && box.Median > o.Within, o.Must > 0 && o.Ratio > 0 && o.Ratio < o.Must:
		o.Verdict = "below"
	case o.Within > 0, o.Must > 0 && o.Ratio > 0 && o.Ratio < o.Aim:
		o.Verdict = "must"
	case o.Must > 0 && o.Ratio > 0:
		o.Verdict = "aim"
	}
	if fuse := o.of(nameFuse2fs); o.faster(box, fuse) > 0 && o.Class != mounting {
		p := peer{Times: o.faster(box, fuse), Want: timesFiles, Verdict: "ok"}
		if o.Unit != "s" {
			p.Want = timesData
			p.Limit = fuse.Ratio >= deviceAt
		}
		if p.Times < p.Want {
			p.Verdict = "below"
			if p.Limit {
				p.Verdict = "limit"
			}
		}
		o.Fuse2fs = &p
	}
}

// judge draws the conclusions from the costs of the same operations on all systems.
func judge(all []growth) {
	kernel := map[string]float64{}
	for i := range all {
		g := &all[i]
		if n := len(g.Points); n > 1 && g.Points[0].Seconds > 0 {
			g.Slope = g.Points[n-1].Seconds / g.Points[0].Seconds
		}
		if g.System == nameKernel {
			kernel[g.Name+g.Op] = g.Slope
		}
	}
	for i := range all {
		g := &all[i]
		switch {
		case g.Slope == 0 || !g.Judged:
		case g.Slope <= 1+flatWithin:
			g.Verdict = "flat"
		case g.System != nameKernel && g.Slope <= kernel[g.Name+g.Op]*(1+flatWithin):
			g.Verdict = "as the kernel"
		default:
			g.Verdict = "grows"
		}
	}
}

// sum draws the conclusions from the jobs.
func (r *report) sum() {
	r.Classes = nil
	for _, name := range classes {
		c := class{Class: name, Least: math.Inf(1)}
		var logs, n float64
		for _, o := range r.Jobs {
			if o.Class != name {
				continue
			}
			if o.Verdict == "below" || o.Verdict == "failed" {
				c.Below = append(c.Below, o.Job)
			}
			if o.Ratio > 0 {
				logs += math.Log(o.Ratio)
				n++
				c.Least = min(c.Least, o.Ratio)
			}
		}
		if n > 0 {
			c.Mean = math.Exp(logs / n)
			r.Classes = append(r.Classes, c)
		}
	}
	r.Memory.Limit = memoryLimit
	r.Memory.Below = r.Memory.Peak <= memoryLimit
}

// box is what is left of the speed with the box.
func (o *outcome) box() string {
	if f := o.faster(o.of(nameBox), o.of(nameUnboxed)); f > 0 {
		return fmt.Sprintf("%.3f", f)
	}
	return ""
}

// target is what is asked for, for people.
func (o *outcome) target() (must, aim string) {
	switch {
	case o.Within > 0:
		return "≤ " + number(o.Within, "s"), ""
	case o.Must > 0:
		return fmt.Sprintf("%.2f", o.Must), fmt.Sprintf("%.2f", o.Aim)
	}
	return "", ""
}

// shout makes what is to be noticed so.
func shout(verdict string) string {
	switch verdict {
	case "below":
		return "BELOW"
	case "failed":
		return "FAILED"
	case "grows":
		return "GROWS"
	}
	return verdict
}

// table prints the jobs for people.
func (r *report) table(w io.Writer) {
	if len(r.Jobs) == 0 {
		return
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	systems := r.systems()
	fmt.Fprint(t, "job\t")
	for _, s := range systems {
		fmt.Fprintf(t, "%s\t±%%\t", s)
	}
	fmt.Fprintln(t, "ratio\tmust\taim\t\tserver CPU s\tMiB\t× fuse2fs\tboxed/unboxed\t")
	for _, o := range r.Jobs {
		fmt.Fprintf(t, "%s\t", o.Job)
		for _, s := range systems {
			switch res := o.of(s); {
			case res == nil || res.Failure == "" && len(res.Rounds) == 0:
				fmt.Fprint(t, "\t\t")
			case res.Failure != "":
				fmt.Fprint(t, "failed\t\t")
			default:
				fmt.Fprintf(t, "%s\t%.0f\t", number(res.Median, o.Unit), res.Spread*100)
			}
		}
		var box result
		if r := o.of(nameBox); r != nil {
			box = *r
		}
		must, aim := o.target()
		fmt.Fprintf(t, "%.2f\t%s\t%s\t%s\t%.2f\t%d\t%s\t%s\t\n", o.Ratio, must, aim, shout(o.Verdict), box.CPU, box.Peak>>20, o.Fuse2fs, o.box())
	}
	t.Flush()
}

func (p *peer) String() string {
	if p == nil {
		return ""
	}
	s := fmt.Sprintf("%.1f", p.Times)
	if p.Verdict != "ok" {
		s += " " + shout(p.Verdict)
	}
	return s
}

// systems are those measured, in order.
func (r *report) systems() []string {
	var all []string
	for _, o := range r.Jobs {
		for _, res := range o.Results {
			if !slices.Contains(all, res.System) {
				all = append(all, res.System)
			}
		}
	}
	return all
}

// growthTable prints how costs grow.
func (r *report) growthTable(w io.Writer) {
	if len(r.Scaling) == 0 {
		return
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	var name string
	for _, g := range r.Scaling {
		if g.Name != name {
			name = g.Name
			fmt.Fprintf(t, "\n%s: cost of an operation\n", name)
		}
		fmt.Fprintf(t, "  %s\t%s\t%s\t%s\n", g.Op, g.System, g.costs(), g.verdict())
	}
	t.Flush()
}

func (g *growth) costs() string {
	var s string
	for i, p := range g.Points {
		if i > 0 {
			s += ", "
		}
		s += fmt.Sprintf("%s: %s", count(p.Size), micros(p.Seconds))
	}
	return s + " " + g.Unit
}

func (g *growth) verdict() string {
	if g.Slope == 0 {
		return ""
	}
	return strings.TrimSpace(fmt.Sprintf("× %.2f %s", g.Slope, shout(g.Verdict)))
}

// count writes a number with commas.
func count(n int64) string {
	if n < 1000 {
		return fmt.Sprint(n)
	}
	return fmt.Sprintf("%s,%03d", count(n/1000), n%1000)
}

func micros(s float64) string { return fmt.Sprintf("%.1f µs", s*1e6) }

// summary prints the conclusions.
func (r *report) summary(w io.Writer) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	below := 0
	fmt.Fprintln(w)
	if len(r.Classes) > 0 {
		fmt.Fprintln(w, "ratio to the kernel, geometric mean of each class:")
	}
	for _, c := range r.Classes {
		fmt.Fprintf(t, "  %s\t%.2f\tleast %.2f", c.Class, c.Mean, c.Least)
		if below += len(c.Below); len(c.Below) > 0 {
			fmt.Fprintf(t, "\tbelow: %s", list(c.Below))
		}
		fmt.Fprintln(t)
	}
	t.Flush()
	fmt.Fprintf(w, "%d of %d jobs are below must\n", below, len(r.Jobs))
	if few, of := r.peers(); of > 0 {
		fmt.Fprintf(w, "less than %d times (files) or %d times (data) fuse2fs: %s of %d jobs\n", timesFiles, timesData, list(few), of)
	}
	if n := r.growing(); len(r.Scaling) > 0 {
		fmt.Fprintf(w, "costs that grow by more than %.0f%%, and more than the kernel's: %s\n", flatWithin*100, list(n))
	}
	fmt.Fprintf(w, "memory of the server: at most %d MiB; %d are allowed\n", r.Memory.Peak>>20, r.Memory.Limit>>20)
	for _, s := range r.Images {
		if !s.Clean {
			fmt.Fprintf(w, "NOT CLEAN: %s of %s: %s\n", s.Image, s.System, s.Findings)
		}
	}
	if clean := r.cleanImages(); clean > 0 {
		fmt.Fprintf(w, "clean after the run, by e2fsck -fn: %d of %d images\n", clean, len(r.Images))
	}
}

// peers are the jobs that are not enough faster than fuse2fs, and how many were compared.
func (r *report) peers() (few []string, of int) {
	for _, o := range r.Jobs {
		if o.Fuse2fs != nil {
			of++
			if o.Fuse2fs.Verdict == "below" {
				few = append(few, o.Job)
			}
		}
	}
	return few, of
}

// growing are the operations of ext4box whose cost should be flat and is not.
func (r *report) growing() []string {
	var all []string
	for _, g := range r.Scaling {
		if g.System == nameBox && g.Verdict == "grows" {
			all = append(all, fmt.Sprintf("%s, %s (× %.2f)", g.Op, g.Name, g.Slope))
		}
	}
	return all
}

// broken is an error if something failed, rather than being slow.
func (r *report) broken() error {
	var failed []string
	for _, o := range r.Jobs {
		for _, res := range o.Results {
			if res.Failure != "" {
				failed = append(failed, o.Job+" on "+res.System)
			}
		}
	}
	for _, s := range r.Images {
		if !s.Clean {
			failed = append(failed, "the image "+s.Image+" of "+s.System+" is not clean")
		}
	}
	if len(failed) > 0 {
		return fmt.Errorf("failed: %s", list(failed))
	}
	return nil
}

func (r *report) cleanImages() int {
	n := 0
	for _, s := range r.Images {
		if s.Clean {
			n++
		}
	}
	return n
}

func list(s []string) string {
	if len(s) == 0 {
		return "none"
	}
	return strings.Join(s, ", ")
}

// number is a figure for people, with three digits.
func number(v float64, unit string) string {
	switch {
	case unit == "s" && v < 1:
		return digits(v*1000) + " ms"
	default:
		return digits(v) + " " + unit
	}
}

func digits(v float64) string {
	switch {
	case v >= 100 || v == 0:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}
