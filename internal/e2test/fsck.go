package e2test

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// Fsck is what e2fsck says about an image that it must not change.
type Fsck struct {
	Status   int       // exit status, as fsck(8) has it
	Problems []Problem // in the order in which they were found
	Output   string
}

// Problem is one line of e2fsck's that names a problem or what it is about.
type Problem struct {
	Pass int    // 0: before the first one; 1 also for 1B, 1C and 1D
	Text string // without the question that follows
}

// Clean tells whether e2fsck found nothing to correct.
func (f *Fsck) Clean() bool { return f.Status&^0x20 == 0 }

var (
	fsckPass = regexp.MustCompile(`^Pass (\d)[A-E]?: `)
	// A question and its answer, or what follows where nothing is asked.
	fsckAnswer = regexp.MustCompile(`(?:^|\s+)(?:[A-Z][A-Za-z+/ -]*\? (?:no|yes)|IGNORED\.?)$`)
	// What is said at the beginning and at the end of each run.
	fsckFrame = regexp.MustCompile(`^e2fsck \d|^\S+: \d+/\d+ files |: \*{5,} WARNING: Filesystem still has errors \*{5,}$|^e2fsck: aborted$`)
)

// What a hostile image can make e2fsck say, and how long it may take, has no end.
const (
	fsckOutput = 1 << 20
	fsckTime   = 20 * time.Second
)

// RunFsck runs e2fsck -fn. Where that says more than a megabyte or takes too long, it
// has found something and is stopped.
func RunFsck(tb testing.TB, image string, args ...string) Fsck {
	tb.Helper()
	tool, err := exec.LookPath("e2fsck")
	if err != nil {
		tool = filepath.Join("/usr/sbin", "e2fsck")
	}
	ctx, cancel := context.WithTimeout(tb.Context(), fsckTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, tool, append(append([]string{"-fn"}, args...), image)...)
	cmd.Env = append(os.Environ(), "TZ=UTC", "LC_ALL=C")
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		tb.Fatal(err)
	}
	cmd.Stderr = cmd.Stdout
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	out, _ := io.ReadAll(io.LimitReader(pipe, fsckOutput))
	f := Fsck{Output: string(out)}
	if len(out) == fsckOutput {
		cancel()
	}
	switch exit, ok := errors.AsType[*exec.ExitError](cmd.Wait()); {
	case ok && exit.Exited():
		f.Status = exit.ExitCode()
	case ok || ctx.Err() != nil:
		f.Status = 4
	}
	f.Problems = fsckProblems(f.Output)
	return f
}

func fsckProblems(output string) (list []Problem) {
	pass := 0
	for line := range strings.Lines(output) {
		line = strings.TrimRight(line, " \n")
		if m := fsckPass.FindStringSubmatch(line); m != nil {
			pass = int(m[1][0] - '0')
			continue
		}
		if line == "" || fsckFrame.MatchString(line) {
			continue
		}
		for again := true; again; {
			text := fsckAnswer.ReplaceAllString(line, "")
			again, line = text != line, strings.TrimRight(text, " ")
		}
		if line != "" {
			list = append(list, Problem{pass, line})
		}
	}
	return list
}
