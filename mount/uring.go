package mount

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"ext4box/fuse"
)

// The values of the option transport=: how requests get from the kernel to the server and back.
const (
	TransportAuto  = "auto"  // by io_uring where that is to be had
	TransportDev   = "dev"   // by /dev/fuse
	TransportUring = "uring" // by io_uring, or the mount fails
)

// UringParameter is the switch of FUSE over io_uring. The kernel looks at it when a mount is made and when the
// server answers INIT; what happens to it later is nothing to that mount.
const UringParameter = "/sys/module/fuse/parameters/enable_uring"

// AskUring says why a mount made by this process could not have its requests by io_uring, as far as that
// shows without a mount: half a sentence, and what to do about it, if there is anything.
func AskUring() (why, advice string) { return askUring(UringParameter) }

func askUring(parameter string) (why, advice string) {
	text, err := os.ReadFile(parameter)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return "this kernel does not have FUSE over io_uring, which came with Linux 6.14", ""
	case err != nil:
		return fmt.Sprintf("whether FUSE over io_uring is switched on cannot be seen (%v)", err), ""
	case strings.TrimSpace(string(text)) == "Y":
		return "", ""
	}
	f, err := os.OpenFile(parameter, os.O_WRONLY, 0)
	if err != nil {
		return fmt.Sprintf("FUSE over io_uring is switched off, and cannot be switched on from here (%v)", err),
			"echo Y >" + parameter + " as root"
	}
	f.Close()
	return "", ""
}

const (
	// uringPatience is how long the switch is on for one mount at most. A server that takes longer to answer
	// INIT goes without.
	uringPatience = 10 * time.Second
	// uringWait is how long to wait for other mounts that have it on.
	uringWait = 3 * time.Second
	// uringRecord is the file, beside the state files, that says what the switch was while it is on. Who finds
	// it without anybody holding the lock puts the switch back.
	uringRecord = "enable_uring"
	// uringLock is the file beside it that is locked while the switch is on. The parameter itself will not do:
	// everybody can open that, and so lock it for as long as he likes.
	uringLock = uringRecord + ".lock"
)

// uringSwitch is the switch, on for one mount: the lock on it, and what it was before.
type uringSwitch struct {
	file    *os.File // of the parameter
	lock    *os.File
	dir     string // of the record
	restore func()
}

func (s *uringSwitch) close() {
	s.file.Close()
	s.lock.Close()
}

// switchUring sees to it that FUSE over io_uring is on until release is called, or for some time. It returns
// nil where nothing has to be undone.
func switchUring(parameter, dir string) (*uringSwitch, error) {
	s, err := lockUring(parameter, dir, uringWait)
	if err != nil {
		// Where it cannot be written it may be on all the same.
		if text, rerr := os.ReadFile(parameter); rerr == nil && strings.TrimSpace(string(text)) == "Y" {
			return nil, nil
		}
		return nil, err
	}
	before, err := s.recover()
	if err == nil && before != "Y" {
		if err = os.WriteFile(s.record(), []byte(before), 0o600); err == nil {
			_, err = s.file.WriteAt([]byte("Y"), 0)
		}
	}
	if err != nil || before == "Y" {
		s.close()
		return nil, err
	}
	s.restore = sync.OnceFunc(func() {
		_, _ = s.file.WriteAt([]byte(before), 0) // whatever has become of the record
		_, _ = s.recover()
		s.close()
	})
	time.AfterFunc(uringPatience, s.restore)
	return s, nil
}

// release puts the switch back.
func (s *uringSwitch) release() {
	if s != nil {
		s.restore()
	}
}

func (s *uringSwitch) record() string { return filepath.Join(s.dir, uringRecord) }

// recover puts the switch back if somebody has left a record, and returns what it is.
func (s *uringSwitch) recover() (now string, err error) {
	if before, err := os.ReadFile(s.record()); err == nil {
		if string(before) == "N" {
			if _, err := s.file.WriteAt(before, 0); err != nil {
				return "", err
			}
		}
		if err := os.Remove(s.record()); err != nil {
			return "", err
		}
	}
	text, err := io.ReadAll(io.NewSectionReader(s.file, 0, 16))
	return strings.TrimSpace(string(text)), err
}

// lockUring opens the parameter and locks it against other mounts.
func lockUring(parameter, dir string, wait time.Duration) (*uringSwitch, error) {
	f, err := os.OpenFile(parameter, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	lock, err := os.OpenFile(filepath.Join(dir, uringLock), os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		f.Close()
		return nil, err
	}
	s := &uringSwitch{file: f, lock: lock, dir: dir}
	for deadline := time.Now().Add(wait); ; time.Sleep(5 * time.Millisecond) {
		err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return s, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) || time.Now().After(deadline) {
			s.close()
			return nil, fmt.Errorf("lock %s: %w", lock.Name(), err)
		}
	}
}

// recoverUring puts the switch back if a keeper has died while it was on.
func recoverUring() {
	dir, err := makeRuntimeDir()
	if err != nil {
		return
	}
	if _, err := os.Stat(filepath.Join(dir, uringRecord)); err != nil {
		return
	}
	if s, err := lockUring(UringParameter, dir, 0); err == nil {
		_, _ = s.recover()
		s.close()
	}
}

// MakeRings makes the rings that were asked for. It comes before the box.
func (r *Request) MakeRings() {
	if r.CPUs == nil {
		return
	}
	rings, err := fuse.NewRings(*r.CPUs)
	switch {
	case err == nil:
		r.Rings = rings
	case errors.Is(err, unix.EPERM):
		r.NoUring = "the sysctl kernel.io_uring_disabled, or a seccomp filter, keeps io_uring from this process"
	case errors.Is(err, unix.ENOSYS):
		r.NoUring = "this kernel has no io_uring"
	default:
		r.NoUring = "rings cannot be made: " + err.Error()
	}
}

// AttachRings binds the rings, if there are any, to the connection. It comes before the box is sealed.
func (r *Request) AttachRings(connection *os.File) {
	if r.Rings == nil {
		return
	}
	if err := r.Rings.Attach(connection); err != nil {
		r.Rings.Close()
		r.Rings, r.NoUring = nil, "rings cannot be used: "+err.Error()
	}
}

// offerUring has the server make rings, if requests are to come by io_uring and could.
func (l *launcher) offerUring() error {
	o := &l.Request.Options
	switch {
	case o.Transport == TransportDev:
		l.noUring = "transport=dev"
	case l.Iomap:
		l.noUring = "with fuse-iomap they do not come by io_uring"
	default:
		var advice string
		if l.noUring, advice = AskUring(); l.noUring != "" && advice != "" {
			l.noUring += ": " + advice
		}
	}
	if l.noUring == "" {
		cpus, err := fuse.FindCPUs()
		if err != nil {
			l.noUring = fmt.Sprintf("the number of processors cannot be seen (%v)", err)
		} else {
			l.Request.CPUs = &cpus
		}
	}
	return l.refuseUring()
}

// refuseUring is the error of a mount that must have its requests by io_uring and cannot.
func (l *launcher) refuseUring() error {
	if l.noUring == "" || l.Request.Options.Transport != TransportUring {
		return nil
	}
	return failedf("mount option \"transport=uring\": %s", l.noUring)
}

// allowUring switches FUSE over io_uring on for this mount. The caller releases it.
func (l *launcher) allowUring() (*uringSwitch, error) {
	if l.noUring != "" || l.Target.dir == nil { // whoever mounts the latter sees to it, or not
		return nil, l.refuseUring()
	}
	dir, err := makeRuntimeDir()
	var s *uringSwitch
	if err == nil {
		s, err = switchUring(UringParameter, dir)
	}
	if err != nil {
		l.noUring = fmt.Sprintf("FUSE over io_uring cannot be switched on (%v)", err)
	}
	return s, l.refuseUring()
}
