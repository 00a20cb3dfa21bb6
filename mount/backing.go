package mount

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
)

// bdiDir has a directory for each file system and device that the kernel caches data of, with
// what it may do for them.
const bdiDir = "/sys/class/bdi"

// backing is what the kernel may do for a mount. It begins with what suits a server that is slow and
// that nobody can trust to write back: 128 KiB are read ahead, and a hundredth of the dirty pages that
// the machine may have are allowed. Both hold up streams, and mappings most.
//
// Read ahead are two requests (1 MiB each) at a time, so that one is on its way while the other is being
// read. More brings nothing, and costs those who read a mapping here and there. With a fifth of the
// machine's dirty pages mappings are not held up any more. That it stays a limit for this mount alone
// (strict_limit) has the kernel begin to write back at half of it, beside the program that writes: without,
// streams are slower by a sixth, and a server that does not answer could keep everybody else from writing.
var backing = []struct{ name, value string }{
	{"max_ratio", "20"},
	{"read_ahead_kb", "2048"},
}

// MayLoosen tells why this process cannot set what the kernel may do for its mounts; nil: it can.
func MayLoosen() error {
	if os.Geteuid() != 0 {
		return errors.New("only root can set them")
	}
	dirs, err := filepath.Glob(filepath.Join(bdiDir, "*"))
	if err == nil && len(dirs) == 0 {
		return fmt.Errorf("%s is empty", bdiDir)
	}
	if err != nil {
		return err
	}
	f, err := os.OpenFile(filepath.Join(dirs[0], backing[0].name), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	return f.Close()
}

// loosen sets what the kernel may do for the mount, as far as it can be set: only root can, where
// /sys is there. INIT must have been answered, for the kernel takes read_ahead_kb down to what it
// has offered then.
func (l *launcher) loosen() {
	if l.mounted.Dev == (Dev{}) || l.mounted.helper || os.Geteuid() != 0 {
		return
	}
	if err := loosen(l.mounted.Dev); err != nil && l.log != nil {
		l.Request.logger(l.log).LogAttrs(context.Background(), slog.LevelDebug, "streams go slower: the kernel's limits for the mount stay what they are", slog.Any("error", err))
	}
}

func loosen(dev Dev) error {
	name := dev.String()
	if dev.Major != 0 {
		name += "-fuseblk" // the device has that name itself
	}
	var errs []error
	for _, b := range backing {
		errs = append(errs, os.WriteFile(filepath.Join(bdiDir, name, b.name), []byte(b.value), 0))
	}
	return errors.Join(errs...)
}
