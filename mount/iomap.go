package mount

import (
	"errors"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"ext4box/fuse"
)

// The values of the option iomap=: whether the kernel is to move file data itself.
const (
	IomapAuto = "auto" // where it can
	IomapOn   = "on"   // or the mount fails
	IomapOff  = "off"
)

// iomapParameter is the switch of fuse-iomap.
const iomapParameter = "/sys/module/fuse/parameters/enable_iomap"

// Iomap is what a kernel says when it is asked whether it could move file data itself
// (fuse-iomap).
type Iomap struct {
	Known bool   // the kernel has the extension
	Why   string // why it cannot be used, half a sentence; empty: it can
	// Advice is what to do about that, if there is anything.
	Advice string
	// Denied says that it is only this user who cannot.
	Denied bool
}

// AskIomap asks the kernel behind the target. Nothing is mounted for that.
func (t *Target) AskIomap() Iomap {
	if t.fuse != nil {
		return askIomap(t.fuse, iomapCalls)
	}
	return AskIomap()
}

// AskIomap asks the kernel of this machine, on behalf of this user.
func AskIomap() Iomap {
	dev, err := openFuse()
	if err != nil {
		return Iomap{Why: err.Error(), Denied: ExitStatus(err) == StatusUsage}
	}
	defer dev.Close()
	return askIomap(dev, iomapCalls)
}

// kernelIomap is how a kernel is asked. It is the seam at which tests put one that has the
// extension.
type kernelIomap struct {
	probe     func(dev *os.File) (uint64, error)
	add       func(dev *os.File) error
	parameter func() (string, error)
}

var iomapCalls = kernelIomap{
	probe: fuse.ProbeIomap,
	add:   fuse.AddIomap,
	parameter: func() (string, error) {
		text, err := os.ReadFile(iomapParameter)
		return strings.TrimSpace(string(text)), err
	},
}

func askIomap(dev *os.File, k kernelIomap) Iomap {
	flags, err := k.probe(dev)
	var refused error
	if err == nil && flags == 0 {
		// The kernel looks at this descriptor only: what it allows shows when it is asked for.
		if refused = k.add(dev); refused == nil {
			flags, err = k.probe(dev)
		}
	}
	switch {
	case errors.Is(err, fuse.ErrNoIomap):
		return Iomap{Why: "this kernel does not have fuse-iomap, as no released one does"}
	case err != nil:
		return Iomap{Why: err.Error()}
	case flags&fuse.IomapSupportFileIO != 0:
		return Iomap{Known: true}
	case flags != 0:
		return Iomap{Known: true, Why: "the fuse-iomap of this kernel cannot do file I/O"}
	}
	if value, err := k.parameter(); err == nil && value != "Y" {
		return Iomap{Known: true, Why: "fuse-iomap is switched off (" + iomapParameter + ")",
			Advice: "echo Y >" + iomapParameter + " as root"}
	}
	if errors.Is(refused, unix.EPERM) {
		return Iomap{Known: true, Denied: true, Why: "fuse-iomap needs CAP_SYS_RAWIO, which this user does not have", Advice: "run as root"}
	}
	return Iomap{Known: true, Why: "the kernel does not allow fuse-iomap here"}
}

// Refusal is the error of a mount with iomap=on that cannot have it, nil if it can.
func (i *Iomap) Refusal() error {
	switch {
	case i.Why == "":
		return nil
	case i.Denied:
		return usagef("mount option \"iomap=on\": %s", i.Why)
	}
	return failedf("mount option \"iomap=on\": %s", i.Why)
}
