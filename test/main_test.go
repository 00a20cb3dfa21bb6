package test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ext4box/blockdev"
	"ext4box/ext4"
	"ext4box/internal/testimage"
)

var buildDir string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "ext4box-test")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	buildDir = dir
	code := m.Run()
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// program builds ext4box once.
var program = sync.OnceValues(func() (string, error) {
	path := filepath.Join(buildDir, "ext4box")
	build := exec.Command("go", "build", "-o", path, "ext4box/cmd/ext4box")
	build.Env = append(os.Environ(), "CGO_ENABLED=0") // as the Makefile does
	out, err := build.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("building ext4box: %w\n%s", err, out)
	}
	return path, nil
})

// requireMounting skips tests that mount.
func requireMounting(t testing.TB) {
	t.Helper()
	testimage.RequireRoot(t)
	if _, err := os.Stat("/dev/fuse"); err != nil {
		t.Skip("needs /dev/fuse")
	}
}

// A result is what a run of ext4box left.
type result struct {
	status         int
	stdout, stderr string
}

// patience is how long anything here may take before it counts as hanging. It
// asserts nothing about speed.
const patience = 2 * time.Minute

// run runs ext4box.
func run(t testing.TB, args ...string) result {
	t.Helper()
	bin, err := program()
	if err != nil {
		t.Fatal(err)
	}
	var stdout, stderr bytes.Buffer
	cmd := exec.Command(bin, args...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.WaitDelay = time.Second // a background server may keep the pipes
	timer := time.AfterFunc(patience, func() { _ = cmd.Process.Kill() })
	defer timer.Stop()
	err = cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) && !errors.Is(err, exec.ErrWaitDelay) {
		t.Fatalf("ext4box %q: %v", args, err)
	}
	return result{cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()}
}

// runMount runs ext4box mount on what is to be mounted. The loop device of an
// earlier mount, by ext4box or the kernel, is detached when everybody has closed
// it, and the whole machine takes a look at new devices: for that it waits.
func runMount(t testing.TB, args ...string) result {
	t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		r := run(t, append([]string{"mount"}, args...)...)
		if !strings.Contains(r.stderr, "in use by the loop device") || time.Now().After(end) {
			return r
		}
	}
}

// mount mounts a file through ext4box until the test ends and returns the
// mount point.
func mount(t testing.TB, source string, options ...string) string {
	t.Helper()
	requireMounting(t)
	dir := t.TempDir()
	opts := strings.Join(append([]string{"ro"}, options...), ",")
	if r := runMount(t, "-o", opts, source, dir); r.status != 0 {
		t.Fatalf("mounting %s -o %s: status %d: %s", source, opts, r.status, r.stderr)
	}
	t.Cleanup(func() {
		if mounted(dir) {
			umount(t, dir)
		}
	})
	return dir
}

// mountImage is mount with the options an image needs.
func mountImage(t testing.TB, img *testimage.Image, options ...string) string {
	t.Helper()
	if img.Journal != "" {
		options = append(options, "journal_path="+img.Journal)
	}
	return mount(t, img.Path, options...)
}

func umount(t testing.TB, dir string) {
	t.Helper()
	if r := run(t, "umount", dir); r.status != 0 {
		t.Errorf("unmounting %s: status %d: %s", dir, r.status, r.stderr)
		_ = unix.Unmount(dir, unix.MNT_DETACH)
	}
}

// mounted tells whether dir is a mount point.
func mounted(dir string) bool {
	b, err := os.ReadFile("/proc/self/mountinfo")
	return err == nil && bytes.Contains(b, []byte(" "+dir+" "))
}

// openDevice opens an image file as the library's callers do.
func openDevice(t testing.TB, path string) blockdev.Device {
	t.Helper()
	dev, err := blockdev.Open(path, blockdev.Options{ReadOnly: true, Lock: blockdev.LockShared})
	if err != nil {
		t.Fatal(err)
	}
	return dev
}

// openImage opens an image with the library until the test ends.
func openImage(t testing.TB, img *testimage.Image, o ext4.Options) *ext4.FS {
	t.Helper()
	o.ReadOnly = true
	if img.Journal != "" {
		o.JournalDevice = openDevice(t, img.Journal)
	}
	dev := openDevice(t, img.Path)
	fs, err := ext4.Open(dev, o)
	if err != nil {
		dev.Close()
		t.Fatalf("opening %s: %v", img.Path, err)
	}
	t.Cleanup(func() {
		if err := fs.Close(); err != nil {
			t.Errorf("closing %s: %v", img.Path, err)
		}
	})
	return fs
}

// imageSums digests everything that must not change.
func imageSums(t testing.TB, img *testimage.Image) string {
	t.Helper()
	sum, err := testimage.ImageSum(img.Path)
	if err == nil && img.Journal != "" {
		var journal string
		journal, err = testimage.ImageSum(img.Journal)
		sum += journal
	}
	if err != nil {
		t.Fatal(err)
	}
	return sum
}

// walkMount makes the manifest of a mount.
func walkMount(t testing.TB, dir string) testimage.Manifest {
	t.Helper()
	tree, err := testimage.Walk(dir)
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

// copyImage copies an image, and its journal, for somebody who may change it. It may be
// mounted, but nobody works on it.
func copyImage(t testing.TB, img *testimage.Image, suffix string) *testimage.Image {
	t.Helper()
	c := *img
	c.Path += suffix
	if img.Journal != "" {
		c.Journal += suffix
	}
	for range 20 {
		if err := testimage.CopyImage(c.Path, img.Path); err != nil {
			t.Fatal(err)
		}
		if img.Journal != "" {
			if err := testimage.CopyImage(c.Journal, img.Journal); err != nil {
				t.Fatal(err)
			}
		}
		// The kernel writes when it pleases, and half of that would be no state of the image.
		if imageSums(t, &c) == imageSums(t, img) {
			return &c
		}
	}
	t.Fatalf("%s does not come to rest", img.Path)
	return nil
}
