package check_test

import (
	"testing"

	"ext4box/blockdev"
	"ext4box/ext4/check"
	"ext4box/internal/e2test"
)

// checkImage checks an image.
func checkImage(t *testing.T, path string, o check.Options) *check.Report {
	t.Helper()
	dev, err := blockdev.Open(path, blockdev.Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer dev.Close()
	r, err := check.Check(t.Context(), dev, o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestFreshImage(t *testing.T) {
	img := e2test.Image(t, 64<<20, "-t", "ext4")
	r := checkImage(t, img, check.Options{})
	if !r.Clean() || check.ExitStatus(r, nil) != check.ExitClean {
		t.Errorf("a fresh image has %+v", r.Findings)
	}
}
