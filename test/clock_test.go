package test

import (
	"os"
	"path/filepath"
	"testing"

	"ext4box/internal/testimage"

	"golang.org/x/sys/unix"
)

// TestClock: no file is older than its first change. The kernel takes the time of a write from
// another clock than programs usually see.
func TestClock(t *testing.T) {
	img := testimage.Build(t, t.TempDir(), testimage.Config{Name: "clock", Size: 32 << 20})
	dir := mountRW(t, img.Path)
	for range 200 {
		name := filepath.Join(dir, "file")
		if err := os.WriteFile(name, []byte("data"), 0o644); err != nil {
			t.Fatal(err)
		}
		var st unix.Statx_t
		if err := unix.Statx(unix.AT_FDCWD, name, 0, unix.STATX_BASIC_STATS|unix.STATX_BTIME, &st); err != nil {
			t.Fatal(err)
		}
		for _, changed := range []unix.StatxTimestamp{st.Mtime, st.Ctime} {
			if changed.Sec < st.Btime.Sec || changed.Sec == st.Btime.Sec && changed.Nsec < st.Btime.Nsec {
				t.Fatalf("born at %+v, changed at %+v", st.Btime, changed)
			}
		}
		if err := os.Remove(name); err != nil {
			t.Fatal(err)
		}
	}
}
