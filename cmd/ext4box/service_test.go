package main

import (
	"strings"
	"testing"

	"ext4box/mount/fuseservice"
	"ext4box/sandbox"
)

// TestServiceBox: what the unit says of the box holds, whatever a mount helper sends.
func TestServiceBox(t *testing.T) {
	for _, args := range [][]string{
		{"ext4box", "/img", "/mnt", "-o", "sandbox=off"},
		{"ext4box", "-s", "-o", "ro,sandbox=best-effort,unknown", "/img", "/mnt"},
		{"ext4box", "/img", "/mnt", "--sandbox=off"},
	} {
		a := activation{sandbox: string(sandbox.Enforce), helper: new(fuseservice.Server)}
		if _, _, err := a.parse(args); err == nil || !strings.Contains(err.Error(), "sandbox") {
			t.Errorf("%q: %v", args, err)
		}
	}
	a := activation{sandbox: string(sandbox.Enforce), options: []string{"sandbox=best-effort,memlimit=1G"}}
	if o, err := a.boxed(); err != nil || o.Mode != sandbox.BestEffort || !o.Service || o.Memory != 1<<30 {
		t.Errorf("%+v, %v", o, err)
	}
}
