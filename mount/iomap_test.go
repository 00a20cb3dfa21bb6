package mount

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"ext4box/fuse"
)

// fakeKernel answers as a kernel with fuse-iomap does.
type fakeKernel struct {
	flags     uint64 // once it is allowed
	probeErr  error
	needs     bool  // it has to be allowed
	addErr    error // of allowing it
	parameter string

	allowed bool
}

func (k *fakeKernel) calls() kernelIomap {
	return kernelIomap{
		probe: func(*os.File) (uint64, error) {
			if k.probeErr != nil || k.needs && !k.allowed {
				return 0, k.probeErr
			}
			return k.flags, nil
		},
		add: func(*os.File) error {
			if k.addErr == nil {
				k.allowed = true
			}
			return k.addErr
		},
		parameter: func() (string, error) {
			if k.parameter == "" {
				return "", os.ErrNotExist
			}
			return k.parameter, nil
		},
	}
}

func TestAskIomap(t *testing.T) {
	const can = fuse.IomapSupportFileIO | fuse.IomapSupportAtomic
	noIomap := fmt.Errorf("ask: %w", fuse.ErrNoIomap)
	denied := fmt.Errorf("allow: %w", unix.EPERM)
	for name, c := range map[string]struct {
		k      fakeKernel
		known  bool
		why    string // part of it; empty: it can be used
		status int    // of a mount that insists
	}{
		"stock kernel":     {fakeKernel{probeErr: noIomap}, false, "does not have fuse-iomap", StatusFailed},
		"strange kernel":   {fakeKernel{probeErr: unix.EIO}, false, "input/output error", StatusFailed},
		"at once":          {fakeKernel{flags: can, addErr: denied, parameter: "Y"}, true, "", 0},
		"when allowed":     {fakeKernel{flags: can, needs: true, parameter: "Y"}, true, "", 0},
		"switched off":     {fakeKernel{needs: true, addErr: denied, parameter: "N"}, true, "switched off (/sys/module/fuse/parameters/enable_iomap)", StatusFailed},
		"no capability":    {fakeKernel{needs: true, addErr: denied, parameter: "Y"}, true, "CAP_SYS_RAWIO", StatusUsage},
		"no parameter":     {fakeKernel{needs: true, addErr: denied}, true, "CAP_SYS_RAWIO", StatusUsage},
		"allowed, but not": {fakeKernel{flags: 0, parameter: "Y"}, true, "does not allow", StatusFailed},
		"no file I/O":      {fakeKernel{flags: fuse.IomapSupportAtomic, parameter: "Y"}, true, "cannot do file I/O", StatusFailed},
	} {
		got := askIomap(nil, c.k.calls())
		err := got.Refusal()
		if got.Known != c.known || (got.Why == "") != (c.why == "") || !strings.Contains(got.Why, c.why) || ExitStatus(err) != c.status {
			t.Errorf("%s: %+v, status %d", name, got, ExitStatus(err))
		}
		if c.why != "" && (!strings.Contains(err.Error(), `"iomap=on"`) || strings.Contains(err.Error(), "\n")) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestAskThisKernel: whatever it answers, it answers the same through a target.
func TestAskThisKernel(t *testing.T) {
	needMount(t)
	dev, err := openFuse()
	if err != nil {
		t.Fatal(err)
	}
	defer dev.Close()
	target, err := OpenTarget(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer target.Close()
	want := AskIomap()
	for _, target := range []*Target{target, {fuse: dev}} {
		if got := target.AskIomap(); got != want {
			t.Errorf("%+v, then %+v", want, got)
		}
	}
	if _, err := fuse.ProbeIomap(dev); errors.Is(err, fuse.ErrNoIomap) && (want.Known || want.Why == "") {
		t.Errorf("a kernel without it: %+v", want)
	}
}
