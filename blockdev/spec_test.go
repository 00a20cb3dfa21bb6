package blockdev

import (
	"os"
	"path/filepath"
	"testing"
)

func TestParseSpec(t *testing.T) {
	dir := t.TempDir()
	literal := filepath.Join(dir, "disk@2")
	if err := os.WriteFile(literal, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		spec, path string
		partition  int
	}{
		{"disk.img", "disk.img", 0},
		{"disk.img@p2", "disk.img", 2},
		{"disk.img@2", "disk.img", 2},
		{"/dev/sda@128", "/dev/sda", 128},
		{"a@1@p2", "a@1", 2},
		{"me@host/disk.img", "me@host/disk.img", 0},
		{"disk.img@", "disk.img@", 0},
		{"disk.img@p", "disk.img@p", 0},
		{"disk.img@0", "disk.img@0", 0},
		{"disk.img@p0", "disk.img@p0", 0},
		{"disk.img@02", "disk.img@02", 0},
		{"disk.img@-1", "disk.img@-1", 0},
		{"disk.img@+1", "disk.img@+1", 0},
		{"disk.img@pp1", "disk.img@pp1", 0},
		{"disk.img@99999999999999999999", "disk.img@99999999999999999999", 0},
		{"@2", "@2", 0},
		{"", "", 0},
		{literal, literal, 0},
		{literal + "@3", literal, 3},
		{filepath.Join(dir, "disk@3"), filepath.Join(dir, "disk"), 3},
	} {
		if path, partition := ParseSpec(c.spec); path != c.path || partition != c.partition {
			t.Errorf("ParseSpec(%q) = %q, %d, want %q, %d", c.spec, path, partition, c.path, c.partition)
		}
	}
}
