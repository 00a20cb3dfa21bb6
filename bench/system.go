package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// system is a file system under measurement: a driver, and an image of its own.
type system struct {
	name   string
	driver driver
	image  string
	dir    string // where it is mounted

	mounted bool
	peak    uint64 // most memory that its server ever had, in bytes; 0: there is none
}

// driver is a way to mount an image.
type driver interface {
	mount(image, dir string) error
	unmount(dir string) error
	// servers are the processes that serve the mount, if there are any.
	servers(dir string) []int
}

func (s *system) mount() error {
	if err := s.driver.mount(s.image, s.dir); err != nil {
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

// look notes the memory of the servers.
func (s *system) look() {
	var sum uint64
	for _, pid := range s.driver.servers(s.dir) {
		sum += peakMemory(pid)
	}
	s.peak = max(s.peak, sum)
}

// cpu is the processor time that the servers have used.
func (s *system) cpu() time.Duration {
	var sum time.Duration
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

func (kernelDriver) mount(image, dir string) error {
	out, err := output("losetup", "--find", "--show", "--direct-io=on", image)
	if err != nil {
		return err
	}
	dev := strings.TrimSpace(out)
	if _, err := output("mount", "-t", "ext4", dev, dir); err != nil {
		_, derr := output("losetup", "--detach", dev)
		return errors.Join(err, derr)
	}
	// The kernel detaches the device when the mount is gone.
	_, err = output("losetup", "--detach", dev)
	return err
}

func (kernelDriver) unmount(dir string) error { return umount(dir) }

func (kernelDriver) servers(string) []int { return nil }

// boxDriver is ext4box as it is shipped.
type boxDriver struct {
	binary  string
	options []string
}

func (d *boxDriver) mount(image, dir string) error {
	_, err := output(d.binary, append(append([]string{"mount"}, d.options...), image, dir)...)
	return err
}

func (d *boxDriver) unmount(dir string) error {
	_, err := output(d.binary, "umount", dir)
	return err
}

func (d *boxDriver) servers(dir string) []int { return processesOf(dir) }

// fuse2fsDriver is the prototype of e2fsprogs.
type fuse2fsDriver struct{}

func (fuse2fsDriver) mount(image, dir string) error {
	_, err := output("fuse2fs", image, dir)
	return err
}

func (fuse2fsDriver) unmount(dir string) error {
	if err := umount(dir); err != nil {
		return err
	}
	for range 1000 { // it closes the image afterwards
		if len(processesOf(dir)) == 0 {
			return nil
		}
		time.Sleep(10 * time.Millisecond)
	}
	return errors.New("fuse2fs does not end")
}

func (fuse2fsDriver) servers(dir string) []int { return processesOf(dir) }

func umount(dir string) error {
	var err error
	for range 50 { // something may look at a new mount for a moment
		if _, err = output("umount", dir); err == nil {
			return nil
		}
		time.Sleep(100 * time.Millisecond)
	}
	return err
}

// output runs a program and returns what it prints; the error has what it complains of.
func output(name string, args ...string) (string, error) {
	cmd := exec.Command(name, args...)
	var out, complaint bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaint
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s: %w: %s", name, err, strings.TrimSpace(complaint.String()))
	}
	return out.String(), nil
}

// processesOf lists the processes that have the directory as an argument.
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
	for line := range strings.Lines(string(text)) {
		if v, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			n, _ := strconv.ParseUint(strings.TrimSuffix(strings.TrimSpace(v), " kB"), 10, 64)
			return n << 10
		}
	}
	return 0
}

// processorTime is what a process has used of the processors.
func processorTime(pid int) time.Duration {
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
	return time.Duration(user+sys) * 10 * time.Millisecond
}
