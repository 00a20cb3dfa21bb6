package main

import (
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func near(a, b float64) bool { return math.Abs(a-b) < 1e-9 }

func TestMedian(t *testing.T) {
	for _, c := range []struct {
		rounds         []float64
		median, spread float64
	}{
		{nil, 0, 0},
		{[]float64{4}, 4, 0},
		{[]float64{3, 1, 2}, 2, 1},
		{[]float64{4, 1, 3, 2}, 2.5, 1.2},
	} {
		r := result{Rounds: c.rounds}
		r.sum()
		if !near(r.Median, c.median) || !near(r.Spread, c.spread) {
			t.Errorf("%v: %v, %v", c.rounds, r.Median, r.Spread)
		}
	}
}

// outcomeOf is a job that had one round on each system; 0: it failed there.
func outcomeOf(unit string, kernel, box, fuse float64) outcome {
	o := outcome{Job: "job", Class: streamDirect, Unit: unit, Must: 0.5, Aim: 1}
	for i, v := range []float64{kernel, box, fuse} {
		r := result{System: []string{nameKernel, nameBox, nameFuse2fs}[i], Rounds: []float64{v}}
		if v == 0 {
			r.Rounds, r.Failure = nil, "broken"
		}
		o.Results = append(o.Results, r)
	}
	o.sum()
	return o
}

func TestVerdicts(t *testing.T) {
	for _, c := range []struct {
		unit              string
		kernel, box, fuse float64
		ratio             float64
		verdict           string
		times             float64
		peer              string
	}{
		{"MB/s", 100, 100, 10, 1, "aim", 10, "ok"},
		{"MB/s", 100, 60, 10, 0.6, "must", 6, "ok"},
		{"MB/s", 100, 49, 20, 0.49, "below", 2.45, "below"},
		{"MB/s", 100, 100, 90, 1, "aim", 100. / 90, "limit"},
		{"s", 1, 2, 20, 0.5, "must", 10, "ok"},
		{"s", 1, 2.5, 20, 0.4, "below", 8, "below"},
		// On files fuse2fs has no limit of the device.
		{"s", 1, 0.5, 1, 2, "aim", 2, "below"},
		{"s", 1, 0, 1, 0, "failed", 0, ""},
		{"s", 0, 1, 0, 0, "", 0, ""},
	} {
		o := outcomeOf(c.unit, c.kernel, c.box, c.fuse)
		if !near(o.Ratio, c.ratio) || o.Verdict != c.verdict {
			t.Errorf("%+v: %v, %q", c, o.Ratio, o.Verdict)
		}
		if (o.Fuse2fs == nil) != (c.peer == "") || o.Fuse2fs != nil && (!near(o.Fuse2fs.Times, c.times) || o.Fuse2fs.Verdict != c.peer) {
			t.Errorf("%+v: %+v", c, o.Fuse2fs)
		}
	}
	for took, verdict := range map[float64]string{0.05: "must", 0.051: "below"} {
		o := outcome{Unit: "s", Class: mounting, Within: 0.05, Results: []result{{System: nameBox, Rounds: []float64{took}}}}
		if o.sum(); o.Verdict != verdict {
			t.Errorf("%v s: %q", took, o.Verdict)
		}
	}
}

func TestSlopes(t *testing.T) {
	of := func(system, op string, first, last float64) growth {
		return growth{Name: "files", Op: op, System: system, Judged: true, Points: []point{{1000, first}, {1_000_000, last}}}
	}
	all := []growth{
		of(nameKernel, "stat", 1, 1.5), of(nameBox, "stat", 2, 3.6), of(nameBox, "create", 1, 1.25),
		of(nameKernel, "unlink", 1, 1), of(nameBox, "unlink", 1, 1.26), {Name: "files", Op: "rename", System: nameBox, Judged: true, Points: []point{{1000, 1}}},
	}
	judge(all)
	var got []string
	for _, g := range all {
		got = append(got, g.Verdict)
	}
	if want := []string{"grows", "as the kernel", "flat", "flat", "grows", ""}; !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
	if r := (report{Scaling: all}); len(r.growing()) != 1 || !strings.Contains(r.growing()[0], "unlink") {
		t.Errorf("%q", r.growing())
	}
}

func TestSummary(t *testing.T) {
	r := report{Jobs: []outcome{outcomeOf("s", 1, 2, 0), outcomeOf("s", 2, 1, 0), outcomeOf("s", 1, 4, 0)}}
	r.Memory.Peak = memoryLimit + 1
	r.sum()
	if len(r.Classes) != 1 || !near(r.Classes[0].Mean, math.Cbrt(0.25)) || !near(r.Classes[0].Least, 0.25) || len(r.Classes[0].Below) != 1 {
		t.Errorf("%+v", r.Classes)
	}
	if r.Memory.Below {
		t.Error("too much memory is within the limit")
	}
}

func TestNumbers(t *testing.T) {
	for want, got := range map[string]string{
		"1234 MB/s": number(1234, "MB/s"), "12.3 MB/s": number(12.34, "MB/s"), "1.75 MB/s": number(1.75, "MB/s"),
		"2.50 s": number(2.5, "s"), "16.5 ms": number(0.0165, "s"), "1,000,000": count(1_000_000), "12,288": count(12288), "48": count(48),
	} {
		if got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func TestProgress(t *testing.T) {
	start := time.Now()
	p := progress{start: start, all: 100}
	if left := p.left(start); left != 100*time.Second {
		t.Error(left)
	}
	p.done = 20 // which took twice as long as estimated
	if left := p.left(start.Add(40 * time.Second)); left != 160*time.Second {
		t.Error(left)
	}
}

func TestParse(t *testing.T) {
	if v, err := rate([]byte(`{"jobs":[{"read":{"bw_bytes":2000000},"write":{"bw_bytes":1000000}}]}`)); err != nil || v != 3 {
		t.Error(v, err)
	}
	for _, text := range []string{`{"jobs":[]}`, `{"jobs":[{}]}`, `fio: out of memory`} {
		if v, err := rate([]byte(text)); err == nil {
			t.Errorf("%s: %v", text, v)
		}
	}
	before, after := parseProcessors("cpu  10 0 10 80 0 0 0 0 5 0"), parseProcessors("cpu  30 0 20 140 0 0 0 10 9 0")
	if busy, stolen := after.since(before); !near(busy, 0.3) || !near(stolen, 0.1) {
		t.Error(busy, stolen)
	}
	if kb := kilobytes("VmPeak:\t  9 kB\nVmHWM:\t    1234 kB\n", "VmHWM:"); kb != 1234 {
		t.Error(kb)
	}
}

// TestSeries: names are unique, classes are known, and each has a text.
func TestSeries(t *testing.T) {
	texts, err := sections(bounds)
	if err != nil {
		t.Fatal(err)
	}
	known := map[string]bool{"": true}
	for _, c := range classes {
		if known[c] = true; texts[c] == "" {
			t.Errorf("bounds.md has nothing on %q", c)
		}
	}
	for name := range texts {
		if !known[name] {
			t.Errorf("bounds.md is about %q, which is no class", name)
		}
	}
	seen := map[string]bool{}
	for _, s := range allSeries() {
		if seen["/"+s.name] {
			t.Errorf("two series %s", s.name)
		}
		seen["/"+s.name] = true
		if s.cost == 0 || s.chained && !s.fresh && !s.unmounted {
			t.Errorf("%s: %+v", s.name, s)
		}
		for _, j := range s.jobs {
			if seen[j.name] || !known[j.class] || j.unit != "s" && j.unit != "MB/s" || j.must > j.aim || j.run == nil {
				t.Errorf("%s: %+v", s.name, j)
			}
			seen[j.name] = true
		}
	}
}

// TestPage makes a page of results that went through JSON.
func TestPage(t *testing.T) {
	dir := t.TempDir()
	results, page := filepath.Join(dir, "results.json"), filepath.Join(dir, "page.md")
	r := report{Format: format, Rounds: 5, Jobs: []outcome{outcomeOf("MB/s", 1000, 400, 300), outcomeOf("MB/s", 1000, 0, 0)},
		Scaling: []growth{{Name: "files", Op: "create", System: nameBox, Unit: "files", Slope: 2, Verdict: "grows", Points: []point{{1000, 1e-5}, {10000, 2e-5}}}},
		Images:  []imageState{{Clean: true}, {}}}
	r.sum()
	write := func() {
		t.Helper()
		text, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(results, text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write()
	if err := document(page, results); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	texts, _ := sections(bounds)
	for _, want := range []string{
		"## Streaming direct\n", texts[streamDirect], texts[""], texts[scaling],
		"| job | 1000 MB/s | 400 MB/s | 300 MB/s | 0.40 | 0.50 | 1.00 | **below** | 1.3 BELOW |",
		"| job | 1000 MB/s | failed | failed | 0.00 | 0.50 | 1.00 | **failed** |  |",
		"| create | ext4box | 1,000: 10.0 µs, 10,000: 20.0 µs files | × 2.00 GROWS |",
		"found clean after the run: 1 of 2",
	} {
		if !strings.Contains(string(text), want) {
			t.Errorf("no %q in:\n%s", want, text)
		}
	}
	for _, no := range []string{"## Warm", "%!", "--quick`: one round"} {
		if strings.Contains(string(text), no) {
			t.Errorf("%q in:\n%s", no, text)
		}
	}
	r.Quick = true
	write()
	if err := document(page, results); err != nil {
		t.Fatal(err)
	}
	if text, _ := os.ReadFile(page); !strings.Contains(string(text), "--quick`: one round") {
		t.Error("a page of a quick run does not say so")
	}
	r.Format++
	write()
	if document(page, results) == nil || document(page, "") == nil {
		t.Error("a page is made of what it cannot be made of")
	}
}
