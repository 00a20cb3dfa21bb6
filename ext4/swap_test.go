package ext4_test

import (
	"errors"
	"syscall"
	"testing"

	"ext4box/ext4"
	"ext4box/iomap"
)

// TestSwap: the blocks of a swap file stay where they are, whatever is done to it.
func TestSwap(t *testing.T) {
	r := newChangeRig(t, 32<<20, "-t ext4 -O inline_data")
	free := r.free()
	ino := r.create("swap")
	for _, name := range []string{"empty", "inline", "holes"} {
		bad := r.create(name)
		switch name {
		case "inline":
			r.must(r.WriteInline(bad, []byte("text"), 0))
		case "holes":
			r.fill(bad, 1, 1, 'a')
		}
		if err := r.SetSwap(bad, true); !errors.Is(err, syscall.EINVAL) {
			t.Errorf("%s: %v", name, err)
		}
		r.must(r.SetSwap(bad, false))
		r.must(r.Truncate(bad, 0))
		r.must(r.Unlink(ext4.RootIno, name))
		r.must(r.Unhold(bad, 1))
	}
	if err := r.SetSwap(ext4.RootIno, true); !errors.Is(err, syscall.EINVAL) {
		t.Errorf("a directory: %v", err)
	}
	m := r.fill(ino, 0, 4, 'a')
	r.must(r.Fallocate(ino, 0, 4*r.bs, 4*r.bs))
	r.must(r.SetSwap(ino, true))
	r.must(r.SetSwap(ino, true))
	for name, err := range map[string]error{
		"truncate": r.Truncate(ino, 0), "grow": r.Truncate(ino, 1<<20),
		"preallocate": r.Fallocate(ino, 0, 0, 1<<20), "punch": r.Fallocate(ino, ext4.FallocPunchHole|ext4.FallocKeepSize, 0, r.bs),
		"zero": r.Fallocate(ino, ext4.FallocZeroRange, 0, r.bs),
	} {
		if !errors.Is(err, syscall.ETXTBSY) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if got := r.types(ino, 8); got != "MMMMUUUU" {
		t.Errorf("mapped %s", got)
	}
	r.must(r.Unlink(ext4.RootIno, "swap"))
	r.must(r.Unhold(ino, 1))
	if typ, at := r.at(ino, 0); typ != iomap.Mapped || at != m[0] {
		t.Errorf("without a name it is at %d, not at %d", at, m[0])
	}
	r.must(r.SetSwap(ino, false))
	if _, err := r.Stat(ino); !errors.Is(err, syscall.ESTALE) {
		t.Errorf("it stays after all: %v", err)
	}
	if got := r.free(); got != free {
		t.Errorf("%d blocks are free, %d before", got, free)
	}
	// One that was never switched off.
	ino = r.create("left")
	r.fill(ino, 0, 4, 'a')
	r.must(r.SetSwap(ino, true))
	r.finish()
}
