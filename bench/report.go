package main

import (
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
	"time"
)

// result is what the rounds of a job came to on one file system.
type result struct {
	System  string        `json:"system"`
	Speeds  []float64     `json:"speeds"` // in the job's unit, one for each round
	Median  float64       `json:"median"`
	Spread  float64       `json:"spread"` // (most - least) / median
	Ratio   float64       `json:"ratio"`  // of the median, to that of the kernel
	CPU     time.Duration `json:"cpuNanoseconds"`
	Failure string        `json:"failure,omitempty"`
}

// outcome is a job with its results.
type outcome struct {
	Job     string   `json:"job"`
	Class   string   `json:"class"`
	Unit    string   `json:"unit"`
	Must    float64  `json:"must"`
	Aim     float64  `json:"aim"`
	Results []result `json:"results"`
}

func (r *result) sum() {
	if len(r.Speeds) == 0 {
		return
	}
	s := slices.Sorted(slices.Values(r.Speeds))
	r.Median = (s[len(s)/2] + s[(len(s)-1)/2]) / 2
	r.Spread = (s[len(s)-1] - s[0]) / r.Median
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

// verdict compares with what is asked for.
func (o *outcome) verdict() string {
	r := o.of(nameBox)
	switch {
	case r == nil || r.Ratio == 0:
		return "-"
	case r.Ratio >= o.Aim:
		return "aim"
	case r.Ratio >= o.Must:
		return "must"
	}
	return "BELOW"
}

// box is what is left of the speed with the box.
func (o *outcome) box() string {
	with, without := o.of(nameBox), o.of(nameUnboxed)
	if with == nil || without == nil || without.Median == 0 {
		return ""
	}
	return fmt.Sprintf("%.3f", with.Median/without.Median)
}

// table prints outcomes for people.
func table(w io.Writer, outcomes []outcome, systems []*system) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprint(t, "job\t")
	for _, s := range systems {
		fmt.Fprintf(t, "%s\t±%%\t", s.name)
	}
	fmt.Fprintln(t, "ratio\tmust\taim\t\tserver CPU s\tboxed/unboxed\t")
	for _, o := range outcomes {
		fmt.Fprintf(t, "%s\t", o.Job)
		for _, s := range systems {
			r := o.of(s.name)
			switch {
			case r == nil:
				fmt.Fprint(t, "\t\t")
			case r.Failure != "":
				fmt.Fprint(t, "failed\t\t")
			default:
				fmt.Fprintf(t, "%s\t%.0f\t", number(r.Median, o.Unit), r.Spread*100)
			}
		}
		ratio, cpu := 0.0, time.Duration(0)
		if r := o.of(nameBox); r != nil {
			ratio, cpu = r.Ratio, r.CPU
		}
		fmt.Fprintf(t, "%.2f\t%.2f\t%.2f\t%s\t%.2f\t%s\t\n", ratio, o.Must, o.Aim, o.verdict(), cpu.Seconds(), o.box())
	}
	t.Flush()
}

func number(v float64, unit string) string {
	if unit == "" {
		return fmt.Sprintf("%.3f s", 1/v)
	}
	return fmt.Sprintf("%.0f %s", v, unit)
}
