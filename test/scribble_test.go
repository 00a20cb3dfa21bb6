package test

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ext4box/internal/testimage"
)

// TestScribbled has somebody else write into the image file, cut it off and make it longer,
// while it is mounted and used. The server is there until the end and says what is wrong,
// or ends and the log says why; no call hangs, and it can be unmounted.
func TestScribbled(t *testing.T) {
	requireMounting(t)
	if testing.Short() {
		t.Skip("other processes are not under the race detector")
	}
	c, ok := testimage.Find("1k")
	if !ok {
		t.Fatal("no configuration 1k")
	}
	c.Size, c.Level, c.BigDir, c.Args = 12<<20, testimage.Small, 0, append(slices.Clone(c.Args), "-N", "1024")
	whole, err := os.ReadFile(testimage.Build(t, t.TempDir(), c).Path)
	if err != nil {
		t.Fatal(err)
	}
	for what, scribble := range map[string]func(f *os.File, rng *rand.Rand) error{
		"bits": func(f *os.File, rng *rand.Rand) error {
			b, at := make([]byte, 1), rng.Int64N(int64(len(whole)))
			if rng.IntN(2) == 0 {
				at %= 1 << 20 // where most of the metadata is
			}
			if _, err := f.ReadAt(b, at); err != nil {
				return err
			}
			b[0] ^= 1 << rng.IntN(8)
			_, err := f.WriteAt(b, at)
			return err
		},
		"blocks": func(f *os.File, rng *rand.Rand) error {
			at := rng.IntN(len(whole)/1024) * 1024
			from := rng.IntN(len(whole)/1024) * 1024
			_, err := f.WriteAt(whole[from:from+1024], int64(at)) // from elsewhere, as it was
			return err
		},
		"size": func(f *os.File, rng *rand.Rand) error {
			sizes := []int64{0, 1024, 5000, 1 << 20, int64(len(whole)), 1 << 40}
			return f.Truncate(sizes[rng.IntN(len(sizes))])
		},
	} {
		t.Run(what, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "image")
			if err := os.WriteFile(path, whole, 0o600); err != nil {
				t.Fatal(err)
			}
			scribbled(t, path, scribble)
		})
	}
}

func scribbled(t *testing.T, path string, scribble func(f *os.File, rng *rand.Rand) error) {
	log, dir := filepath.Join(t.TempDir(), "log"), t.TempDir()
	if r := runMount(t, "--log", log, "-o", "rw,errors=continue", path, dir); r.status != 0 {
		t.Fatal(r.stderr)
	}
	defer func() {
		if mounted(dir) { // before what is in it would be removed with it
			_ = unix.Unmount(dir, unix.MNT_DETACH)
		}
	}()
	pids := servers(t, path)
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	rng := rand.New(rand.NewPCG(1, 81))
	for range 300 { // before it is in the server's cache
		_ = scribble(f, rng)
	}
	done, stop, stopped := make(chan struct{}), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			case <-time.After(time.Millisecond):
				_ = scribble(f, rng) // what is cut off cannot be read
			}
		}
	}()
	u := &systemCalls{dir: "/", end: time.Now().Add(mutantTime / 10), rng: rand.New(rand.NewPCG(1, 80))}
	go func() {
		defer close(done)
		if err := inside(dir, func() {
			for range 3 {
				u.use()
			}
		}); err != nil {
			t.Error(err)
		}
	}()
	select {
	case <-done:
	case <-time.After(mutantTime):
		t.Error("a system call does not end")
		for _, pid := range pids { // with which it does
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		<-done
	}
	close(stop)
	<-stopped
	for _, pid := range pids {
		if n := peakMemory(pid); n > mutantMemory {
			t.Errorf("the server takes %d KiB", n)
		}
	}
	// What is lost is said, but the mount goes in any case.
	if r := run(t, "umount", dir); mounted(dir) || r.status != 0 && !strings.Contains(r.stderr, "is unmounted") {
		t.Errorf("unmounting: status %d: %s", r.status, r.stderr)
	}
	eventually(t, "the end of server and keeper", func() bool { return len(servers(t, path)) == 0 })
	b, err := os.ReadFile(log)
	text := string(b)
	if err != nil || strings.Contains(text, "panic") || strings.Contains(text, "goroutine ") || strings.Contains(text, "SIG") {
		t.Errorf("the log: %v\n%s", err, text)
	}
	if u.gone != nil && !strings.Contains(text, "the server ended") {
		t.Errorf("the server is gone (%v), and the log does not say why:\n%s", u.gone, text)
	}
	if text == "" {
		t.Error("nobody has noticed anything")
	}
	t.Logf("%d calls done, %d refused; %d lines in the log", u.done, u.failed, strings.Count(text, "\n"))
	if u.done == 0 || u.failed == 0 {
		t.Error("this tests nothing")
	}
}
