package mount

import (
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// parameter is a file in the place of the kernel's switch.
func parameter(t *testing.T, value string) (path, dir string) {
	t.Helper()
	dir = t.TempDir()
	path = filepath.Join(dir, "parameter")
	if err := os.WriteFile(path, []byte(value+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	return path, dir
}

func checkParameter(t *testing.T, path, want string) {
	t.Helper()
	if text, err := os.ReadFile(path); err != nil || string(text[:1]) != want {
		t.Errorf("the switch is %q, want %s: %v", text, want, err)
	}
}

// TestUringSwitch: mounts at the same time leave the switch as it was.
func TestUringSwitch(t *testing.T) {
	for _, before := range []string{"N", "Y"} {
		path, dir := parameter(t, before)
		var wg sync.WaitGroup
		for range 30 {
			wg.Go(func() {
				s, err := switchUring(path, dir)
				if err != nil {
					t.Error(err)
				}
				checkParameter(t, path, "Y")
				if s != nil {
					_ = os.Remove(s.record()) // as who tidies up might
				}
				time.Sleep(time.Millisecond)
				checkParameter(t, path, "Y")
				s.release()
			})
		}
		wg.Wait()
		checkParameter(t, path, before)
	}
}

// TestUringSwitchDead: who finds a record of somebody who has died puts the switch back.
func TestUringSwitchDead(t *testing.T) {
	path, dir := parameter(t, "Y")
	if err := os.WriteFile(filepath.Join(dir, uringRecord), []byte("N"), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := switchUring(path, dir)
	if err != nil || s == nil {
		t.Fatal(s, err)
	}
	checkParameter(t, path, "Y")
	s.release()
	checkParameter(t, path, "N")
	s.release()
	if list, err := os.ReadDir(dir); err != nil || len(list) != 2 {
		t.Error(list, err) // the parameter and the lock
	}
}

// TestUringSwitchLocked: who can only read the parameter keeps nobody from switching it.
func TestUringSwitchLocked(t *testing.T) {
	path, dir := parameter(t, "N")
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	s, err := switchUring(path, dir)
	if err != nil {
		t.Fatal(err)
	}
	checkParameter(t, path, "Y")
	sweep(dir)
	if _, err := os.Stat(filepath.Join(dir, uringLock)); err != nil {
		t.Error(err)
	}
	s.release()
	checkParameter(t, path, "N")
	st, err := os.Stat(filepath.Join(dir, uringLock))
	if err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", st, err)
	}
}

// TestUringSwitchAbsent: where there is none, or it cannot be written, that is an error unless it is on.
func TestUringSwitchAbsent(t *testing.T) {
	if _, err := switchUring("/nonexistent", t.TempDir()); err == nil {
		t.Error("no error")
	}
	if why, _ := askUring("/nonexistent"); why == "" {
		t.Error("it is there")
	}
}
