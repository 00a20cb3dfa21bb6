package edit

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"
)

// shWords is how the shell splits a line that it has nothing to expand in.
func shWords(t *testing.T, line string) ([]string, bool) {
	t.Helper()
	out, err := exec.Command("sh", "-c", "for w in "+line+"\ndo printf '%s\\0' \"$w\"; done").Output()
	if err != nil {
		return nil, false
	}
	return strings.Split(strings.TrimSuffix(string(out), "\x00"), "\x00"), true
}

func TestWordsAsShell(t *testing.T) {
	if _, err := exec.LookPath("sh"); err != nil {
		t.Skip("needs sh")
	}
	for _, line := range []string{
		"a b", "  a\t b  ", "'a b'c", `"a b"c'd e'f`, `a\ b`, `\a\'\"`, `"a\b\"c\\d\$e"`, `'a\'`, `''`, `"" a`, "a # b", "a#b", "#b a", `"#" \# '#'`,
		`a'`, `a"`, `'a"b'`, `"a'b"`, "grün \xff", `a\#b`, `"\` + "`" + `"`, `a "b`,
	} {
		want, ok := shWords(t, line)
		if strings.HasPrefix(strings.TrimSpace(line), "#") {
			want, ok = nil, true // there, for has no words
		}
		got, err := Words(line)
		if (err == nil) != ok || ok && !slices.Equal(got, want) {
			t.Errorf("%q: %q, %v; want %q, %v", line, got, err, want, ok)
		}
	}
	if _, err := Words(`a\`); err == nil {
		t.Error("a \\ at the end of a line passes")
	}
}

func FuzzWords(f *testing.F) {
	f.Add(`a 'b c' "d\"e" \f # g`)
	f.Fuzz(func(t *testing.T, line string) {
		words, err := Words(line)
		if err != nil {
			return
		}
		// What was split can be quoted and split again.
		for i, w := range words {
			words[i] = "'" + strings.ReplaceAll(w, "'", `'\''`) + "'"
		}
		again, err := Words(strings.Join(words, " "))
		if err != nil || len(again) != len(words) {
			t.Errorf("%q: %q, then %q, %v", line, words, again, err)
		}
	})
}

func TestParseDate(t *testing.T) {
	cet := time.FixedZone("", 3600)
	for text, want := range map[string]time.Time{
		"@0": time.Unix(0, 0), "@1.5": time.Unix(1, 5e8), "@-1.25": time.Unix(-2, 75e7), "@-0.5": time.Unix(-1, 5e8), "@17179869184.123456789": time.Unix(17179869184, 123456789),
		"2001-02-03":                    time.Date(2001, 2, 3, 0, 0, 0, 0, time.Local),
		"2001-02-03 04:05":              time.Date(2001, 2, 3, 4, 5, 0, 0, time.Local),
		"2001-02-03 04:05:06.25":        time.Date(2001, 2, 3, 4, 5, 6, 25e7, time.Local),
		"2001-02-03T04:05:06Z":          time.Date(2001, 2, 3, 4, 5, 6, 0, time.UTC),
		"2001-02-03 04:05:06 UTC":       time.Date(2001, 2, 3, 4, 5, 6, 0, time.UTC),
		"2001-02-03 04:05:06+01:00":     time.Date(2001, 2, 3, 4, 5, 6, 0, cet),
		"2001-02-03 04:05:06.789 +0100": time.Date(2001, 2, 3, 4, 5, 6, 789e6, cet), // as stat shows it
	} {
		if got, err := ParseDate(text); err != nil || !got.Equal(want) {
			t.Errorf("%q: %v, %v; want %v", text, got, err, want)
		}
	}
	for _, text := range []string{"", "@", "@x", "@1.x", "@1.1234567890", "now", "2001-02-30", "2001-02-03 04:05:06 PST", "2001-02-03 25:00"} {
		if got, err := ParseDate(text); err == nil {
			t.Errorf("%q passes as %v", text, got)
		}
	}
}

func TestParseValue(t *testing.T) {
	for text, want := range map[string]string{
		"": "", "text": "text", "0x6869": "hi", "0XFF": "\xff", "0saGk=": "hi", `"a\"b\\c\012"`: "a\"b\\c\n", `"`: `"`, `a\012`: `a\012`,
	} {
		if got, err := ParseValue(text); err != nil || string(got) != want {
			t.Errorf("%q: %q, %v; want %q", text, got, err, want)
		}
	}
	for _, text := range []string{"0x123", "0xgg", "0s!", `"\400"`, `"\01"`, `"a\"`} {
		if got, err := ParseValue(text); err == nil {
			t.Errorf("%q passes as %q", text, got)
		}
	}
}

func TestEscape(t *testing.T) {
	for _, tc := range []struct{ line, want string }{
		{"chmod disk.img -w /x", "disk.img -- -w /x"}, {"chmod -R disk.img -w /x", "-R disk.img -- -w /x"}, {"chmod -- -w /x", "-- -w /x"}, {"chmod --help", "--help"},
		{"chattr -R disk.img -i /x", "-R disk.img -- -i /x"}, {"chattr -p 5 +i /x", "-p 5 +i /x"}, {"rm -r /x", "-r /x"}, {"chmod -rwx,g-s /x", "-- -rwx,g-s /x"},
	} {
		words := strings.Fields(tc.line)
		if got := strings.Join(Escape(words[0], words[1:]), " "); got != tc.want {
			t.Errorf("%q: %q, want %q", tc.line, got, tc.want)
		}
	}
}
