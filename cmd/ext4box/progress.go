package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	"ext4box/ext4/check"
)

// progress is a line on a terminal that says how far something long is.
type progress struct {
	w     io.Writer
	on    bool
	next  time.Time
	shown int
}

const (
	progressAfter = time.Second
	progressEvery = 200 * time.Millisecond
)

// due tells whether it is time for another line.
func (p *progress) due() bool {
	if !p.on {
		return false
	}
	now := time.Now()
	if p.next.IsZero() {
		p.next = now.Add(progressAfter)
	}
	if now.Before(p.next) {
		return false
	}
	p.next = now.Add(progressEvery)
	return true
}

// show writes line over the last one.
func (p *progress) show(line string) {
	fmt.Fprintf(p.w, "\r%s%s", line, strings.Repeat(" ", max(0, p.shown-len(line))))
	p.shown = len(line)
}

// copied tells of a copy.
func (p *progress) copied(files, bytes int64) {
	if p.due() {
		p.show(fmt.Sprintf("%d files, %d MiB", files, bytes>>20))
	}
}

// checked tells of a check.
func (p *progress) checked(at check.Progress) {
	if !p.due() {
		return
	}
	done := 100.0
	if at.Total > 0 {
		done = 100 * float64(at.Done) / float64(at.Total)
	}
	p.show(fmt.Sprintf("pass %d: %5.1f%% of %d %s", at.Pass, done, at.Total, at.Unit))
}

// clear takes the line away, so that another can be written.
func (p *progress) clear() {
	if p.shown > 0 {
		fmt.Fprintf(p.w, "\r%s\r", strings.Repeat(" ", p.shown))
		p.shown = 0
	}
}
