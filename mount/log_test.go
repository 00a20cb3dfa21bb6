package mount

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestRelay: whatever a server writes, the log gets plain lines, and not without end.
func TestRelay(t *testing.T) {
	relayed := func(kind LogKind, all bool, text string) string {
		t.Helper()
		path := filepath.Join(t.TempDir(), "log")
		f, err := os.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		relay(strings.NewReader(text), &logWriter{f, kind, 42}, all)
		f.Close()
		got, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return string(got)
	}
	for _, c := range []struct {
		kind       LogKind
		text, want string
	}{
		{LogText, "", ""},
		{LogText, "level=ERROR msg=\"grün\"\n\tmain.go:1\nend", "level=ERROR msg=\"grün\"\n    main.go:1\nend\n"},
		{LogText, "\x1b]0;title\x07\r\x00\xff\u009b\u202e\n", "?]0;title??????\n"},
		{LogSyslog, "a\n<0>kernel: b\n", "<29>ext4box[42]: a\n<29>ext4box[42]: <0>kernel: b\n"},
	} {
		if got := relayed(c.kind, false, c.text); got != c.want {
			t.Errorf("%q becomes %q, want %q", c.text, got, c.want)
		}
	}
	for line := range strings.Lines(relayed(LogText, false, strings.Repeat("x", 3*maxLine))) {
		if len(line) > maxLine+1 {
			t.Errorf("a line of %d bytes", len(line))
		}
	}
	flood := strings.Repeat("x\n", 2*logBurst)
	if got := relayed(LogText, false, flood); strings.Count(got, "x\n") != logBurst || !strings.Contains(got, "too much") {
		t.Errorf("of %d lines %d", 2*logBurst, strings.Count(got, "\n"))
	}
	if got := relayed(LogText, true, flood); got != flood {
		t.Error(fmt.Errorf("of %d bytes %d, where nothing is to be dropped", len(flood), len(got)))
	}
}
