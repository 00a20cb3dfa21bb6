package mount

import (
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// needSync skips where the kernel cannot ask the server while it mounts.
func needSync(t *testing.T) {
	t.Helper()
	needMount(t)
	target, err := OpenTarget(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer target.Close()
	o := Default()
	m, err := target.prepareSync("x", &o)
	if err != nil {
		t.Skipf("needs Linux 6.18: %v", err)
	}
	m.close()
}

// TestSync mounts in the way of fuse-iomap, which ends in the same mount.
func TestSync(t *testing.T) {
	needSync(t)
	image, dir := scratch(t)
	var got []Info
	for _, mode := range []string{"slow", "sync slow"} {
		part(t, nil, "mount", image, dir, mode).run(t, 0, "")
		i, ok := mountAt(t, dir)
		if !ok || i.Source != image {
			t.Fatalf("mounted: %+v", i)
		}
		state := findState(&i)
		if state == nil {
			t.Fatal("no state file")
		}
		if r, err := state.Record(); err != nil || r.Dir != dir || r.Image != image || r.Device != i.Dev.String() {
			t.Errorf("record %+v, %v", r, err)
		}
		ours, err := state.file.Stat()
		if err != nil {
			t.Fatal(err)
		}
		if !isLocked(t, image) {
			t.Error("the image is not locked")
		}
		part(t, nil, "umount", dir, "").run(t, 0, "")
		if isLocked(t, image) {
			t.Error("umount returned before the image was closed")
		}
		// The name may be another mount's by now.
		if st, err := os.Stat(state.path); err == nil && os.SameFile(st, ours) {
			t.Error("the state file stays")
		}
		state.Close()
		i.ID, i.Dev = 0, Dev{}
		got = append(got, i)
	}
	if got[0] != got[1] {
		t.Errorf("classic: %+v\nsync:    %+v", got[0], got[1])
	}
}

// TestDataPath: there is a warning if the kernel could move data and does not, one.
func TestDataPath(t *testing.T) {
	needSync(t)
	image, dir := scratch(t)
	for _, c := range []struct {
		mode string
		want []string
	}{
		{"", []string{"data: through the server: ?[31mit is a test"}},
		{"iomap", []string{"data: fuse-iomap, device x"}},
		{"sync iomap", []string{"data: fuse-iomap, device x"}},
		{"on sync iomap", []string{"data: fuse-iomap, device x"}},
		{"sync slow", []string{"warning: " + image + ": file data goes through the server: ?[31mit is a test", "data: through the server: ?[31mit is a test"}},
		{"sync no iomap", []string{"warning: " + image + ": file data goes through the server: it cannot", "data: through the server: ?[31mit is a test"}},
	} {
		p := part(t, nil, "mount", image, dir, c.mode)
		p.run(t, 0, "")
		if got := strings.Split(strings.TrimSpace(p.out.String()), "\n"); !slices.Equal(got, c.want) {
			t.Errorf("%q says %q, want %q", c.mode, got, c.want)
		}
		part(t, nil, "umount", dir, "").run(t, 0, "")
	}
	for _, mode := range []string{"on sync slow", "on slow"} {
		part(t, nil, "mount", image, dir, mode).run(t, StatusFailed, `mount option "iomap=on": file data would go through the server`)
		if _, ok := mountAt(t, dir); ok || isLocked(t, image) {
			t.Errorf("%q leaves something", mode)
		}
	}
}

// TestSyncFailures: whatever the server does in the middle of mounting, the command ends,
// nothing stays mounted, nothing stays running.
func TestSyncFailures(t *testing.T) {
	needSync(t)
	image, dir := scratch(t)
	for _, c := range []struct {
		mode, want string
		status     int
	}{
		{"refuse", "not an ext4 image", StatusFailed},
		{"die", "the server ended unexpectedly (exit status 3)", StatusInternal},
		{"fail init", "cannot answer INIT", StatusFailed},
		{"refuse init", "mount on " + dir, StatusFailed},
		{"die in init", "the server ended unexpectedly (exit status 3)", StatusInternal},
		{"bad root", "does not answer", StatusFailed},
		{"foreground die in init", "the server ended unexpectedly (exit status 3)", StatusInternal},
	} {
		part(t, nil, "mount", image, dir, "sync "+c.mode).run(t, c.status, c.want)
		if i, ok := mountAt(t, dir); ok {
			t.Errorf("%s: still mounted: %+v", c.mode, i)
		}
		if isLocked(t, image) {
			t.Errorf("%s: the server still runs", c.mode)
		}
	}
}

// TestSyncInterrupt: the launcher waits in the kernel, for a server that does not answer.
func TestSyncInterrupt(t *testing.T) {
	needSync(t)
	image, dir := scratch(t)
	c := part(t, nil, "mount", image, dir, "sync hang in init")
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Process.Kill() })
	waitFor(t, "INIT", func() bool { _, err := os.Stat(image + ".init"); return err == nil })
	c.Process.Signal(unix.SIGINT)
	c.Wait()
	if got := c.ProcessState.ExitCode(); got != StatusInterrupted {
		t.Errorf("status %d: %s", got, c.out.String())
	}
	if _, ok := mountAt(t, dir); ok {
		t.Error("still mounted")
	}
	waitFor(t, "the server to end", func() bool { return !isLocked(t, image) })
}

func TestSyncForeground(t *testing.T) {
	needSync(t)
	image, dir := scratch(t)
	c := part(t, nil, "mount", image, dir, "sync foreground")
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the mount", func() bool { _, ok := mountAt(t, dir); return ok })
	waitFor(t, "umount", func() bool { return part(t, nil, "umount", dir, "").Run() == nil })
	c.Wait()
	if got := c.ProcessState.ExitCode(); got != 0 {
		t.Errorf("status %d: %s", got, c.out.String())
	}
	waitFor(t, "the end", func() bool { return !isLocked(t, image) })
}
