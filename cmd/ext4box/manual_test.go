package main

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/pflag"
)

// TestManual: the manual page has every verb and every flag, and no others.
func TestManual(t *testing.T) {
	page, err := os.ReadFile("../../docs/ext4box.1")
	if err != nil {
		t.Fatal(err)
	}
	text := strings.ReplaceAll(string(page), `\-`, "-")
	// Font changes stand before and behind, never inside of, a flag.
	text = regexp.MustCompile(`\\f[RBIP]`).ReplaceAllString(text, " ")
	section := func(verb string) string {
		for part := range strings.SplitSeq(text, "\n.SS ") {
			title, body, _ := strings.Cut(part, "\n")
			for name := range strings.SplitSeq(title, ", ") {
				if name == verb {
					return body
				}
			}
		}
		return ""
	}
	_, shared, _ := strings.Cut(text, ".SH OPTIONS FOR IMAGES")
	shared += section("Options of the verbs that change an image")
	named := func(text, flag string) bool {
		return regexp.MustCompile(`(^|[^-\w])` + flag + `($|[^-\w])`).MatchString(text)
	}
	long := map[string]bool{"help": true, "version": true}
	for _, cmd := range newRootCommand().Commands() {
		verb := cmd.Name()
		if cmd.Hidden || verb == "help" {
			cmd.Flags().VisitAll(func(f *pflag.Flag) { long[f.Name] = true })
			continue
		}
		if !strings.Contains(text, "ext4box "+verb) {
			t.Errorf("the synopsis lacks %s", verb)
		}
		own := section(verb)
		_, synopsis, _ := strings.Cut(text, ".SH SYNOPSIS")
		synopsis, _, _ = strings.Cut(synopsis, ".SH DESCRIPTION")
		for line := range strings.Lines(synopsis) {
			if strings.Contains(line, "ext4box "+verb+" ") {
				own += "\n" + line
			}
		}
		cmd.Flags().VisitAll(func(f *pflag.Flag) {
			long[f.Name] = true
			letters := f.Shorthand != "" && regexp.MustCompile(`(^|[^-\w])-\w*`+f.Shorthand).MatchString(own)
			if !f.Hidden && f.Name != "help" && !letters && !named(own+shared, "--"+f.Name) {
				t.Errorf("%s: the page does not have --%s", verb, f.Name)
			}
		})
		for _, sub := range cmd.Commands() {
			sub.Flags().VisitAll(func(f *pflag.Flag) { long[f.Name] = true })
		}
	}
	// Those of other programs.
	for _, other := range []string{"bind", "xattrs", "xattrs-include", "acls", "now"} {
		long[other] = true
	}
	for _, m := range regexp.MustCompile(`(?:^|[^-\w])--([a-z][-a-z]*)`).FindAllStringSubmatch(text, -1) {
		if !long[m[1]] {
			t.Errorf("the page has --%s, which no verb knows", m[1])
		}
	}
}
