package probe

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"ext4box/mount"
)

func TestIomap(t *testing.T) {
	if c := iomap(mount.Iomap{Known: true}); c.Answer != Yes || c.Advice != "" {
		t.Errorf("a kernel with it: %+v", c)
	}
	if c := iomap(mount.Iomap{Known: true, Why: "off", Advice: "on"}); c.Answer != No || c.Detail != "off" || c.Advice != "on" {
		t.Errorf("switched off: %+v", c)
	}
}

func TestDataPath(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, make([]byte, 4096), 0o600); err != nil {
		t.Fatal(err)
	}
	can := mount.Iomap{Known: true}
	if c := dataPath(mount.Iomap{Why: "not here"}, Options{Dir: dir}); c.Answer != No || c.Detail != "file data goes through the server: not here" {
		t.Errorf("a kernel without it: %+v", c)
	}
	if c := dataPath(can, Options{File: filepath.Join(dir, "none")}); c.Answer != Unknown {
		t.Errorf("no such image: %+v", c)
	}
	for _, o := range []Options{{Dir: dir}, {File: file}} {
		c := dataPath(can, o)
		if f, err := os.OpenFile(loopControl, os.O_RDWR, 0); err != nil {
			if c.Answer != No || !strings.Contains(c.Detail, loopControl) {
				t.Errorf("without loop devices: %+v", c)
			}
			continue
		} else {
			f.Close()
		}
		if c.Answer == Yes && !strings.Contains(c.Detail, "behind a loop device") || c.Answer == No && !strings.Contains(c.Detail, "no direct I/O") || c.Answer == Unknown {
			t.Errorf("%+v: %+v", o, c)
		}
	}
	if devices, _ := filepath.Glob("/dev/loop[0-9]*"); len(devices) > 0 {
		if c := dataPath(can, Options{File: devices[0]}); c.Answer != Yes || !strings.HasSuffix(c.Detail, "on "+devices[0]) {
			t.Errorf("a device: %+v", c)
		}
	}
}
