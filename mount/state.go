package mount

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// State is the open state file of a mount: see the package comment. Whoever
// created it, or was handed the descriptor, holds its lock.
type State struct {
	file *os.File // open for reading: the server has it, too, and whoever unmounts believes what is in it
	path string   // empty: it has no name yet that anybody would look for

	record StateRecord // what was published
}

// StateRecord is what a state file says.
type StateRecord struct {
	PID    int    `json:"pid"`    // of the server
	Keeper int    `json:"keeper"` // the process that unmounts it when it is told to
	Image  string `json:"image"`  // the source
	Dir    string `json:"dir"`    // the mount point
	Device string `json:"device"` // the mount's device number, major:minor
	// Failed is why the server could not end in order, which the keeper adds when it has ended.
	Failed string `json:"failed,omitempty"`
}

const maxStateSize = 64 << 10

// newState makes and locks the state file of a mount that is to be made.
func newState() (*State, error) {
	dir, err := makeRuntimeDir()
	if err != nil {
		return nil, err
	}
	lock, err := lockDir(dir)
	if err != nil {
		return nil, err
	}
	defer lock.Close()
	sweep(dir)
	f, err := os.CreateTemp(dir, "new-")
	if err != nil {
		return nil, err
	}
	name := f.Name()
	f.Close()
	if f, err = os.Open(name); err != nil {
		os.Remove(name)
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		os.Remove(name)
		f.Close()
		return nil, err
	}
	return &State{file: f}, nil
}

// publish writes the file and gives it the name that belongs to the mount.
func (s *State) publish(dev Dev, r StateRecord) error {
	r.Device = dev.String()
	text, err := json.Marshal(r)
	if err != nil {
		return err
	}
	if err := os.WriteFile(s.file.Name(), append(text, '\n'), 0o600); err != nil {
		return err
	}
	dir := filepath.Dir(s.file.Name())
	lock, err := lockDir(dir)
	if err != nil {
		return err
	}
	defer lock.Close()
	path := filepath.Join(dir, dev.String())
	// The number may have belonged to a mount whose server is still closing its image.
	// Whoever waits for that has the old file open.
	if err := os.Rename(s.file.Name(), path); err != nil {
		return err
	}
	s.path, s.record = path, r
	return nil
}

// fail adds to the file, for whoever waits for its lock, that the server has failed.
func (s *State) fail(err error) {
	if s == nil || s.path == "" {
		return
	}
	r := s.record
	r.Failed = err.Error()
	text, err := json.Marshal(r)
	if err != nil {
		return
	}
	s.named(func(path string) { _ = os.WriteFile(path, append(text, '\n'), 0o600) })
}

// Close gives up the lock, if no other process has it, and leaves the file.
func (s *State) Close() {
	if s != nil {
		s.file.Close()
	}
}

// remove takes the file's name away, unless a later mount has it by now.
func (s *State) remove() {
	if s == nil {
		return
	}
	s.named(func(path string) { os.Remove(path) })
}

// named calls do with the file's name, unless a later mount has that by now.
func (s *State) named(do func(path string)) {
	path := s.path
	if path == "" {
		path = s.file.Name()
	}
	lock, err := lockDir(filepath.Dir(path))
	if err != nil {
		return
	}
	defer lock.Close()
	ours, err1 := s.file.Stat()
	named, err2 := os.Lstat(path)
	if err1 == nil && err2 == nil && os.SameFile(ours, named) {
		do(path)
	}
}

// sweep removes the state files of servers that ended without doing so. The
// caller holds the directory's lock.
func sweep(dir string) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return
	}
	for _, e := range entries {
		if e.Name() == uringRecord || e.Name() == uringLock {
			continue // they are the switch's
		}
		f, err := openState(filepath.Join(dir, e.Name()), os.Geteuid())
		if err != nil {
			continue
		}
		if unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB) == nil {
			os.Remove(f.Name())
		}
		f.Close()
	}
}

// findState opens the state file of the mount i, or returns nil when there is
// none that can be trusted.
func findState(i *Info) *State {
	uids := []int{os.Geteuid()}
	if uid, ok := i.UserID(); ok && uid != uids[0] {
		uids = append(uids, uid)
	}
	for _, uid := range uids {
		for _, dir := range runtimeDirs(uid) {
			path := filepath.Join(dir, i.Dev.String())
			if f, err := openState(path, uid); err == nil {
				return &State{file: f, path: path}
			}
		}
	}
	return nil
}

// openState opens a state file for waiting. The directory may be another
// user's: only a regular file of that user's is taken, and opening it must not
// block.
func openState(path string, uid int) (*os.File, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG || int(st.Uid) != uid {
		unix.Close(fd)
		return nil, fmt.Errorf("%s is not a state file", path)
	}
	return os.NewFile(uintptr(fd), path), nil
}

// Record reads the file.
func (s *State) Record() (StateRecord, error) {
	var r StateRecord
	text, err := io.ReadAll(io.NewSectionReader(s.file, 0, maxStateSize))
	if err != nil {
		return r, err
	}
	return r, json.Unmarshal(text, &r)
}

// errTimeout is what WaitClosed returns when the time is over.
var errTimeout = errors.New("timeout")

// WaitClosed returns when the server has closed the image and ended, or with an
// error after timeout. Zero waits for ever.
func (s *State) WaitClosed(timeout time.Duration) error {
	done := make(chan error, 1)
	go func() { done <- flockRetry(s.file, unix.LOCK_SH) }()
	var expired <-chan time.Time
	if timeout > 0 {
		t := time.NewTimer(timeout)
		defer t.Stop()
		expired = t.C
	}
	select {
	case err := <-done:
		return err
	case <-expired:
		return errTimeout
	}
}

func flockRetry(f *os.File, how int) error {
	for {
		if err := unix.Flock(int(f.Fd()), how); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

func lockDir(dir string) (*os.File, error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	if err := flockRetry(d, unix.LOCK_EX); err != nil {
		d.Close()
		return nil, err
	}
	return d, nil
}

// systemRuntimeDir is where root keeps the state files.
const systemRuntimeDir = "/run/ext4box"

// runtimeDirs is where the state files of uid's mounts may be, best first.
func runtimeDirs(uid int) []string {
	var dirs []string
	if uid == 0 {
		dirs = append(dirs, systemRuntimeDir)
	}
	if d := os.Getenv("XDG_RUNTIME_DIR"); filepath.IsAbs(d) && uid == os.Geteuid() {
		dirs = append(dirs, filepath.Join(d, "ext4box"))
	}
	ids := []int{uid}
	// Root of a user namespace is somebody else outside, and what is root's there is not his.
	if outside, ok := outsideID(uid); ok && outside != uid {
		ids = append(ids, outside)
	}
	for _, id := range ids {
		id := strconv.Itoa(id)
		dirs = append(dirs, "/run/user/"+id+"/ext4box", "/tmp/ext4box-"+id)
	}
	return dirs
}

// outsideID is who uid is in the user namespace around this one.
func outsideID(uid int) (int, bool) {
	text, err := os.ReadFile("/proc/self/uid_map")
	if err != nil {
		return 0, false
	}
	for line := range strings.Lines(string(text)) {
		var inside, outside, n int
		if k, _ := fmt.Sscan(line, &inside, &outside, &n); k == 3 && inside <= uid && uid-inside < n {
			return outside + uid - inside, true
		}
	}
	return 0, false
}

// makeRuntimeDir finds or makes the directory for this user's state files. /tmp
// is anybody's, so a directory there counts only when it is ours and nobody else
// can write into it.
func makeRuntimeDir() (string, error) {
	var why []string
	for _, dir := range runtimeDirs(os.Geteuid()) {
		err := os.Mkdir(dir, 0o700)
		if err == nil || errors.Is(err, os.ErrExist) {
			if err = checkPrivate(dir); err == nil {
				return dir, nil
			}
		}
		why = append(why, err.Error())
	}
	return "", fmt.Errorf("no directory for the state file: %s", strings.Join(why, "; "))
}

func checkPrivate(dir string) error {
	var st unix.Stat_t
	if err := unix.Lstat(dir, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR || int(st.Uid) != os.Geteuid() || st.Mode&0o022 != 0 {
		return fmt.Errorf("%s does not belong to this user alone", dir)
	}
	return unix.Access(dir, unix.W_OK)
}
