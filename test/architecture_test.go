package test

import (
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
)

// TestArchitecture: docs/architecture.md has every package, and none imports one of a floor above
// it, nor, unless it is for tests itself, one that is for tests.
func TestArchitecture(t *testing.T) {
	page, err := os.ReadFile("../docs/architecture.md")
	if err != nil {
		t.Fatal(err)
	}
	floors := map[string]string{}
	for _, row := range regexp.MustCompile(`(?m)^\| (\d) \| (.*?) \|`).FindAllStringSubmatch(string(page), -1) {
		before := ""
		for _, name := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(row[2], -1) {
			path := name[1]
			if dir, ok := strings.CutSuffix(before, before[strings.LastIndex(before, "/")+1:]); ok && !strings.Contains(path, "/") {
				path = dir + path // the first of a row is written in full
			}
			floors[path], before = row[1], path
		}
	}
	floor := func(pkg string) string {
		for path := pkg; ; path = path[:strings.LastIndex(path, "/")] {
			if f, ok := floors[path]; ok || !strings.Contains(path, "/") {
				return f
			}
		}
	}
	forTests := func(pkg string) bool {
		return strings.Contains(pkg, "test") || pkg == "internal/posixfs" || pkg == "ext4/mutate" || pkg == "sandbox/exploit"
	}
	out, err := exec.Command("go", "list", "-f", `{{.ImportPath}}{{range .Imports}} {{.}}{{end}}`, "ext4box/...").Output()
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for line := range strings.Lines(string(out)) {
		fields := strings.Fields(line)
		pkg := strings.TrimPrefix(fields[0], "ext4box/")
		n++
		if forTests(pkg) {
			continue
		}
		if floor(pkg) == "" {
			t.Errorf("docs/architecture.md has no floor for %s", pkg)
		}
		for _, path := range fields[1:] {
			switch imported, ours := strings.CutPrefix(path, "ext4box/"); {
			case !ours:
			case forTests(imported):
				t.Errorf("%s imports %s, which is for tests", pkg, imported)
			case floor(imported) > floor(pkg):
				t.Errorf("%s (floor %s) imports %s (floor %s)", pkg, floor(pkg), imported, floor(imported))
			}
		}
	}
	if n < 30 || len(floors) < 15 {
		t.Fatalf("%d packages, %d floors", n, len(floors))
	}
	for path := range floors {
		if _, err := os.Stat("../" + path); err != nil {
			t.Errorf("docs/architecture.md: %v", err)
		}
	}
}
