package vfs

import (
	"slices"
	"strings"
	"syscall"
	"testing"

	"ext4box/fuse"
)

// TestTamper changes one message of each kind.
func TestTamper(t *testing.T) {
	both(t, func(t *testing.T, gen Generation) {
		var lost []string
		s := newServer()
		s.block = 1024 // which the device is not told
		fs, _ := mountOn(t, s, Config{
			Generation: gen,
			Expect:     []string{"nothing was ever pushed", "its page cache would mix"},
			Tamper: func(m *Message) bool {
				switch {
				case m.Ioctl == fuse.DevIocIomapSetBlocksize:
					lost = append(lost, "ioctl")
					return false
				case m.Code == fuse.NotifyIomapUpsertMappings:
					lost = append(lost, "notification")
					return false
				case m.Op == fuse.OpFsync:
					m.Errno = syscall.EDQUOT
				}
				return true
			},
		})
		f := mustCreate(t, fs, "f")
		defer f.Close()
		_, err := f.WriteAt(pattern(1, 100), 0)
		wantErrno(t, "a write whose mapping is lost", err, syscall.EUCLEAN)
		wantErrno(t, "fsync", f.Fsync(), syscall.EDQUOT)
		if !slices.Equal(lost, []string{"ioctl", "notification"}) {
			t.Errorf("lost: %q", lost)
		}
		if trace := strings.Join(fs.Trace(), "\n"); !strings.Contains(trace, "FSYNC") {
			t.Errorf("trace: %s", trace)
		}
	})
}
