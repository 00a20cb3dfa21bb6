package test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ext4box/internal/e2test"
	"ext4box/internal/testimage"
)

// superFields are fields of a superblock as dumpe2fs has them.
func superFields(t *testing.T, image string) map[string]string {
	t.Helper()
	fields := make(map[string]string)
	for line := range strings.Lines(e2test.Output(t, "dumpe2fs", "-h", image)) {
		key, value, _ := strings.Cut(line, ":")
		fields[key] = strings.TrimSpace(value)
	}
	return fields
}

// writtenKBytes is how much was ever written to a filesystem.
func writtenKBytes(t *testing.T, image string) uint64 {
	t.Helper()
	var info struct {
		KBytes uint64 `json:"written_kbytes"`
	}
	if err := json.Unmarshal([]byte(run(t, "info", "--json", image).stdout), &info); err != nil {
		t.Fatal(err)
	}
	return info.KBytes
}

// TestBookkeeping mounts images by the kernel and by ext4box, and compares what
// the superblock says of it while they are mounted and afterwards.
func TestBookkeeping(t *testing.T) {
	requireMounting(t)
	for _, c := range []struct{ name, journal, state string }{
		{"journal", "has_journal", "clean"}, {"no journal", "^has_journal", "not clean"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			var reports [2]string
			for i, kernel := range []bool{true, false} {
				img := &testimage.Image{Path: filepath.Join(dir, fmt.Sprint(kernel))}
				if err := testimage.Mke2fs(img.Path, 32<<20, "-t", "ext4", "-b", "4096", "-O", c.journal); err != nil {
					t.Fatal(err)
				}
				if err := testimage.Run("tune2fs", "-c", "2", img.Path); err != nil {
					t.Fatal(err)
				}
				start := time.Now().Truncate(time.Second)
				fields := []string{"Mount count", "Maximum mount count", "Filesystem state", "Filesystem features"}
				for range 2 {
					written := writtenKBytes(t, img.Path)
					var m string
					var k *testimage.Mount
					if kernel {
						k = testimage.MountRW(t, img, "")
						m = k.Dir
					} else {
						m = mountRW(t, img.Path)
					}
					if err := os.WriteFile(filepath.Join(m, "file"), make([]byte, 4<<20), 0o600); err != nil {
						t.Fatal(err)
					}
					if f, err := os.Open(m); err == nil {
						if err := f.Sync(); err != nil {
							t.Error(err)
						}
						f.Close()
					}
					device := img.Path
					if kernel {
						device = k.Device
					}
					during := superFields(t, device)
					for _, key := range fields {
						reports[i] += "mounted: " + key + ": " + during[key] + "\n"
					}
					if !strings.HasPrefix(during["Filesystem state"], c.state) {
						t.Errorf("state while mounted: %s", during["Filesystem state"])
					}
					if kernel {
						if err := k.Unmount(); err != nil {
							t.Fatal(err)
						}
					} else {
						umount(t, m)
						eventually(t, "the end of the server", func() bool { return unlocked(t, img.Path) })
					}
					after := superFields(t, img.Path)
					for _, key := range fields {
						reports[i] += "unmounted: " + key + ": " + after[key] + "\n"
					}
					for _, key := range []string{"Last mount time", "Last write time"} {
						at, err := time.ParseInLocation(time.ANSIC, after[key], time.Local)
						if err != nil || at.Before(start) || time.Since(at) > time.Minute {
							t.Errorf("kernel %v: %s: %q, %v", kernel, key, after[key], err)
						}
					}
					if len(m) < 64 && after["Last mounted on"] != m {
						t.Errorf("kernel %v: last mounted on %q, not %q", kernel, after["Last mounted on"], m)
					}
					if n := writtenKBytes(t, img.Path); n < written+4096 {
						t.Errorf("kernel %v: %d KiB written, %d before", kernel, n, written)
					}
				}
				if err := testimage.Run("e2fsck", "-fn", img.Path); err != nil {
					t.Error(err)
				}
			}
			if reports[0] != reports[1] {
				t.Errorf("kernel:\n%sext4box:\n%s", reports[0], reports[1])
			}
		})
	}
}

// TestCheckWarnings: the log says when a check is due.
func TestCheckWarnings(t *testing.T) {
	requireMounting(t)
	for want, args := range map[string][]string{
		"":                           {"-c", "5"},
		"as often as it should":      {"-c", "2", "-C", "2"},
		"the time of its check":      {"-i", "1d", "-T", "20200101"},
		"errors were found in it":    {"-E", "force_fsck"},
		"it was not closed properly": {"-O", "^has_journal"},
	} {
		t.Run(want, func(t *testing.T) {
			img := filepath.Join(t.TempDir(), "image")
			if err := testimage.Mke2fs(img, 32<<20, "-t", "ext4"); err != nil {
				t.Fatal(err)
			}
			if err := testimage.Run(append(append([]string{"tune2fs"}, args...), img)...); err != nil {
				t.Fatal(err)
			}
			if strings.Contains(want, "closed") {
				e2test.Change(t, img, "ssv state 0")
			}
			dir := t.TempDir()
			log := filepath.Join(t.TempDir(), "log")
			r := runMount(t, "--log", log, img, dir)
			if r.status != 0 {
				t.Fatal(r.stderr)
			}
			umount(t, dir)
			text, _ := os.ReadFile(log)
			text = append(text, r.stderr...) // where it says what it finds before it is in the background
			if !strings.Contains(string(text), want) || want == "" && strings.Contains(string(text), "e2fsck") {
				t.Errorf("log: %s", text)
			}
		})
	}
}
