package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// system is a file system under measurement: a driver, and images of its own.
type system struct {
	name   string
	driver driver
	dir    string // where it is mounted

	image   string // the one in use
	source  string // what stands for it in a mount; "": it is not attached
	mounted bool
	peak    uint64 // most memory that its servers ever had, in bytes; 0: there are none
}

// driver is a way to mount an image.
type driver interface {
	// attach makes an image ready to be mounted, and says as what.
	attach(image string) (source string, err error)
	detach(source string) error
	mount(source, dir string) error
	unmount(dir string) error
	// servers are the processes that serve the mount, if there are any.
	servers(dir string) []int
}

// attach takes an image into use, without mounting it.
func (s *system) attach(image string) error {
	if s.image == image && s.source != "" {
		return nil
	}
	if err := s.detach(); err != nil {
		return err
	}
	source, err := s.driver.attach(image)
	if err != nil {
		return fmt.Errorf("%s: %w", s.name, err)
	}
	s.image, s.source = image, source
	return nil
}

// detach unmounts the image as well.
func (s *system) detach() error {
	if err := s.unmount(); err != nil {
		return err
	}
	if s.source == "" {
		return nil
	}
	source := s.source
	s.image, s.source = "", ""
	return s.driver.detach(source)
}

func (s *system) mount() error {
	if s.mounted {
		return nil
	}
	if err := s.driver.mount(s.source, s.dir); err != nil {
		return fmt.Errorf("%s: mount: %w", s.name, err)
	}
	s.mounted = true
	return nil
}

func (s *system) unmount() error {
	if !s.mounted {
		return nil
	}
	s.look()
	if err := s.driver.unmount(s.dir); err != nil {
		return fmt.Errorf("%s: unmount: %w", s.name, err)
	}
	s.mounted = false
	return nil
}

// remount leaves nothing of the image in any cache.
func (s *system) remount() error {
	if err := s.unmount(); err != nil {
		return err
	}
	if err := dropCaches(); err != nil {
		return err
	}
	return s.mount()
}

// rescue has the image mounted after something failed, or nothing mounted at all.
func (s *system) rescue() error {
	if s.mounted {
		if _, err := os.ReadDir(s.dir); err == nil {
			return nil
		}
	}
	s.release()
	return s.mount()
}

// release unmounts whatever is mounted, even if it is in use or dead.
func (s *system) release() {
	if err := s.unmount(); err != nil {
		_ = unix.Unmount(s.dir, unix.MNT_DETACH)
		s.mounted = false
	}
}

// close leaves nothing behind.
func (s *system) close() {
	s.release()
	if err := s.detach(); err != nil {
		warn("%v", err)
	}
}

// check has e2fsck look at the image in use, which is detached for that.
func (s *system) check() imageState {
	image := s.image
	state := imageState{System: s.name, Image: strings.TrimSuffix(filepath.Base(image), ".img")}
	if err := s.detach(); err != nil {
		state.Findings = err.Error()
		return state
	}
	if out, err := command("e2fsck", "-fn", image); err != nil {
		state.Findings = strings.TrimSpace(out + "\n" + err.Error())
		return state
	}
	state.Clean = true
	return state
}

// look notes the memory of the servers, and returns the most since forget.
func (s *system) look() uint64 {
	var sum uint64
	for _, pid := range s.driver.servers(s.dir) {
		sum += peakMemory(pid)
	}
	s.peak = max(s.peak, sum)
	return sum
}

// forget begins a new account of the most memory.
func (s *system) forget() {
	for _, pid := range s.driver.servers(s.dir) {
		// Where it cannot be done, what was before counts as well.
		_ = os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", pid), []byte("5"), 0)
	}
}

// cpu is the processor time that the servers have used, in seconds.
func (s *system) cpu() float64 {
	var sum float64
	for _, pid := range s.driver.servers(s.dir) {
		sum += processorTime(pid)
	}
	return sum
}

func dropCaches() error {
	unix.Sync()
	return os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0)
}

// kernelDriver is the kernel's ext4 on a loop device that bypasses the cache of the image.
type kernelDriver struct{}

func (kernelDriver) attach(image string) (string, error) {
	out, err := command("losetup", "--find", "--show", "--direct-io=on", image)
	return strings.TrimSpace(out), err
}

func (kernelDriver) detach(dev string) error {
	_, err := command("losetup", "--detach", dev)
	return err
}

func (kernelDriver) mount(dev, dir string) error {
	_, err := command("mount", "-t", "ext4", dev, dir)
	return err
}

func (kernelDriver) unmount(dir string) error { return umount(dir) }

func (kernelDriver) servers(string) []int { return nil }

// direct is a driver that mounts image files as they are.
type direct struct{}

func (direct) attach(image string) (string, error) { return image, nil }
func (direct) detach(string) error                 { return nil }
func (direct) servers(dir string) []int            { return processesOf(dir) }

// boxDriver is ext4box as it is shipped.
type boxDriver struct {
	direct
	binary  string
	options []string
}

func (d *boxDriver) mount(image, dir string) error {
	_, err := command(d.binary, append(append([]string{"mount"}, d.options...), image, dir)...)
	return err
}

func (d *boxDriver) unmount(dir string) error {
	_, err := command(d.binary, "umount", dir)
	return err
}

// fuse2fsDriver is the prototype of e2fsprogs.
type fuse2fsDriver struct{ direct }

func (fuse2fsDriver) mount(image, dir string) error {
	_, err := command("fuse2fs", image, dir)
	return err
}

func (d fuse2fsDriver) unmount(dir string) error {
	if err := umount(dir); err != nil {
		return err
	}
	for range 10_000 { // it closes the image afterwards
		if len(d.servers(dir)) == 0 {
			return nil
		}
		time.Sleep(time.Millisecond)
	}
	return errors.New("fuse2fs does not end")
}

func umount(dir string) error {
	var err error
	for range 50 { // something may look at a new mount for a moment
		if _, err = command("umount", dir); err == nil {
			return nil
		}
		time.Sleep(100 * time.Millisecond)
	}
	return err
}

// processesOf lists the processes that have the directory as an argument: of ext4box,
// the server and its keeper.
func processesOf(dir string) []int {
	lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return nil
	}
	var pids []int
	for _, path := range lines {
		text, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended
		}
		if slices.Contains(strings.Split(string(text), "\x00"), dir) {
			if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path))); err == nil {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}

// peakMemory is the most that a process has had in memory, in bytes.
func peakMemory(pid int) uint64 {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	return kilobytes(string(text), "VmHWM:") << 10
}

// kilobytes finds a line of such a size in a file of /proc.
func kilobytes(text, label string) uint64 {
	for line := range strings.Lines(text) {
		if v, ok := strings.CutPrefix(line, label); ok {
			n, _ := strconv.ParseUint(strings.TrimSuffix(strings.TrimSpace(v), " kB"), 10, 64)
			return n
		}
	}
	return 0
}

// processorTime is what a process has used of the processors, in seconds.
func processorTime(pid int) float64 {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	// The name, in parentheses, may hold anything; user and system time are the 12th and
	// 13th field behind it, in hundredths of a second.
	_, rest, _ := strings.Cut(string(text[max(0, bytes.LastIndexByte(text, ')')):]), ") ")
	fields := strings.Fields(rest)
	if len(fields) < 13 {
		return 0
	}
	user, _ := strconv.ParseUint(fields[11], 10, 64)
	sys, _ := strconv.ParseUint(fields[12], 10, 64)
	return float64(user+sys) / 100
}
