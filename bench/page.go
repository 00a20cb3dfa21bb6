package main

import (
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
)

// bounds is what bounds each class: kept by hand, in sections with the names of the classes.
//
//go:embed bounds.md
var bounds string

// document writes a page from the results in a file.
func document(path, results string) error {
	if results == "" {
		return errors.New("--doc takes the results from the file of --json")
	}
	text, err := os.ReadFile(results)
	if err != nil {
		return err
	}
	var r report
	if err := json.Unmarshal(text, &r); err != nil {
		return fmt.Errorf("%s: %w", results, err)
	}
	if r.Format != format {
		return fmt.Errorf("%s: of format %d, and this reads %d", results, r.Format, format)
	}
	texts, err := sections(bounds)
	if err != nil {
		return err
	}
	return os.WriteFile(path, []byte(r.page(texts)), 0o644)
}

// sections takes text apart at its headings of the second level; what is before the first
// belongs to "".
func sections(text string) (map[string]string, error) {
	all, name := map[string]string{}, ""
	var b strings.Builder
	keep := func() error {
		if _, there := all[name]; there {
			return fmt.Errorf("bounds.md: %q is there twice", name)
		}
		all[name] = strings.TrimSpace(b.String())
		b.Reset()
		return nil
	}
	for line := range strings.Lines(text) {
		heading, ok := strings.CutPrefix(line, "## ")
		if !ok {
			b.WriteString(line)
			continue
		}
		if err := keep(); err != nil {
			return nil, err
		}
		name = strings.TrimSpace(heading)
	}
	return all, keep()
}

// page is the report as Markdown, with a text for each class.
func (r *report) page(texts map[string]string) string {
	var b strings.Builder
	p := func(form string, args ...any) { fmt.Fprintf(&b, form+"\n", args...) }
	p("# Performance\n")
	p("<!-- Made by `make bench-doc` from the results of `make bench`. The texts are kept in bench/bounds.md. -->\n")
	if r.Quick {
		p("**These figures are of `make bench BENCHFLAGS=--quick`: one round of an eighth of the work, to show the form.\nNothing is to be concluded from them.**\n")
	}
	p("%s\n", texts[""])
	p("## The machine\n")
	r.describe(p)
	p("\n## Verdicts\n")
	r.verdicts(p)
	for _, c := range classes {
		rows := r.rows(c)
		if c == scaling {
			rows = r.growthRows()
		}
		if rows == "" {
			continue
		}
		p("\n## %s%s\n", strings.ToUpper(c[:1]), c[1:])
		b.WriteString(rows)
		if text := texts[c]; text != "" {
			p("\n%s", text)
		}
	}
	return b.String()
}

func (r *report) describe(p func(string, ...any)) {
	m := &r.Machine
	row := func(what, value string) {
		if value != "" {
			p("| %s | %s |", what, value)
		}
	}
	p("| | |\n| --- | --- |")
	row("processors", fmt.Sprintf("%d, %s", m.Processors, m.Model))
	row("memory", fmt.Sprintf("%.1f GiB", float64(m.Memory)/(1<<30)))
	row("kernel", "Linux "+m.Kernel)
	row("images", "files on "+m.Host)
	options := m.Options
	if options == "" {
		options = "default options"
	}
	transport := m.Transport
	if transport == "dev" {
		transport = "/dev/fuse"
	}
	row("ext4box", fmt.Sprintf("%s; %s; requests by %s", m.Ext4box, options, transport))
	row("fuse2fs", m.Fuse2fs)
	row("fio", m.Fio)
	row("rounds", fmt.Sprintf("%d, on %s, in %.0f minutes", r.Rounds, r.Date.Format("2006-01-02"), r.Seconds/60))
	row("disturbance", fmt.Sprintf("%.0f%% of the processors busy before, %.1f%% stolen by other machines meanwhile", m.Busy*100, m.Stolen*100))
}

func (r *report) verdicts(p func(string, ...any)) {
	p("| class | ratio, geometric mean | least | below must |\n| --- | ---: | ---: | --- |")
	for _, c := range r.Classes {
		p("| %s | %.2f | %.2f | %s |", c.Class, c.Mean, c.Least, list(c.Below))
	}
	p("")
	if few, of := r.peers(); of > 0 {
		p("- %d times the speed of fuse2fs on files and %d times on data, where fuse2fs is below %.0f%% of the kernel: %d of %d jobs; not %s.",
			timesFiles, timesData, deviceAt*100, of-len(few), of, list(few))
	}
	p("- Memory of the server through the whole run: %d MiB at most; %d are allowed.", r.Memory.Peak>>20, r.Memory.Limit>>20)
	if len(r.Scaling) > 0 {
		p("- Costs that grow by more than %.0f%% with the number of files, and more than the kernel's: %s.", flatWithin*100, list(r.growing()))
	}
	p("- Images that `e2fsck -fn` found clean after the run: %d of %d.", r.cleanImages(), len(r.Images))
}

// rows is the table of a class.
func (r *report) rows(class string) string {
	var b strings.Builder
	systems := r.systems()
	for _, o := range r.Jobs {
		if o.Class != class {
			continue
		}
		if b.Len() == 0 {
			head, rule := "| job |", "| --- |"
			for _, s := range systems {
				head, rule = head+" "+s+" |", rule+" ---: |"
			}
			fmt.Fprintf(&b, "%s ratio | must | aim | | × fuse2fs | server CPU | memory |\n%s ---: | ---: | ---: | --- | ---: | ---: | ---: |\n", head, rule)
		}
		fmt.Fprintf(&b, "| %s |", o.Job)
		for _, s := range systems {
			switch res := o.of(s); {
			case res == nil || res.Failure == "" && len(res.Rounds) == 0:
				b.WriteString(" |")
			case res.Failure != "":
				b.WriteString(" failed |")
			case len(res.Rounds) == 1:
				fmt.Fprintf(&b, " %s |", number(res.Median, o.Unit))
			default:
				fmt.Fprintf(&b, " %s ±%.0f%% |", number(res.Median, o.Unit), res.Spread*50)
			}
		}
		var box result
		if res := o.of(nameBox); res != nil {
			box = *res
		}
		must, aim := o.target()
		verdict := o.Verdict
		if verdict == "below" || verdict == "failed" {
			verdict = "**" + verdict + "**"
		}
		fmt.Fprintf(&b, " %.2f | %s | %s | %s | %s | %s | %d MiB |\n", o.Ratio, must, aim, verdict, o.Fuse2fs,
			number(box.CPU/float64(max(1, len(box.Rounds))), "s"), box.Peak>>20)
	}
	return b.String()
}

// growthRows are the tables of what grows.
func (r *report) growthRows() string {
	var b strings.Builder
	var name string
	for _, g := range r.Scaling {
		if g.Name != name {
			name = g.Name
			fmt.Fprintf(&b, "\n%s%s:\n\n| operation | system | cost of one | largest / smallest |\n| --- | --- | --- | ---: |\n", strings.ToUpper(name[:1]), name[1:])
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", g.Op, g.System, g.costs(), g.verdict())
	}
	return strings.TrimPrefix(b.String(), "\n")
}
