package fuse

import (
	"errors"
	"os"
	"strings"
	"syscall"
	"testing"
)

// TestProbeIomap asks the kernel that there is. One without the extension says so in a way that can be
// told apart; whatever another says must be consistent.
func TestProbeIomap(t *testing.T) {
	f, err := os.OpenFile(DevicePath, os.O_RDWR, 0)
	if err != nil {
		t.Skip(err)
	}
	defer f.Close()
	flags, err := ProbeIomap(f)
	if err == nil {
		if flags&^(IomapSupportFileIO|IomapSupportAtomic) != 0 {
			t.Errorf("the kernel supports %#x", flags)
		}
		t.Skip("this kernel has fuse-iomap")
	}
	for _, err := range []error{err, AddIomap(f)} {
		if !errors.Is(err, ErrNoIomap) || !errors.Is(err, syscall.ENOTTY) || !strings.Contains(err.Error(), "the kernel has no fuse-iomap") {
			t.Errorf("a kernel without it: %v", err)
		}
	}
	if flags != 0 {
		t.Errorf("flags %#x beside an error", flags)
	}
}

// TestProbeIomapElsewhere: other failures are not taken for an answer.
func TestProbeIomapElsewhere(t *testing.T) {
	f, err := os.Open(DevicePath)
	if err != nil {
		t.Skip(err)
	}
	f.Close()
	if _, err := ProbeIomap(f); err == nil || errors.Is(err, ErrNoIomap) {
		t.Errorf("a closed descriptor: %v", err)
	}
	if err := AddIomap(f); err == nil || errors.Is(err, ErrNoIomap) {
		t.Errorf("a closed descriptor: %v", err)
	}
}
