package main

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// machine is what the figures are true of.
type machine struct {
	Kernel     string  `json:"kernel"`
	Processors int     `json:"processors"`
	Model      string  `json:"model"`
	Memory     uint64  `json:"memoryBytes"`
	Host       string  `json:"host"` // the type of the file system that the images are on
	Go         string  `json:"go"`
	Ext4box    string  `json:"ext4box"`
	Options    string  `json:"options"`   // of the mount, other than the default
	Transport  string  `json:"transport"` // "dev" or "io_uring", as found in the server
	Fio        string  `json:"fio"`
	Fuse2fs    string  `json:"fuse2fs,omitempty"`
	Busy       float64 `json:"busy"`   // part of the processors that others used before the run
	Stolen     float64 `json:"stolen"` // part that other virtual machines took during the run
}

func describe(dir, binary, options string) machine {
	m := machine{Processors: runtime.NumCPU(), Go: runtime.Version(), Options: options, Host: fileSystem(dir)}
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		m.Kernel = unix.ByteSliceToString(u.Release[:])
	}
	if text, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(text)) {
			if k, v, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(k) == "model name" {
				m.Model = strings.TrimSpace(v)
				break
			}
		}
	}
	if text, err := os.ReadFile("/proc/meminfo"); err == nil {
		m.Memory = kilobytes(string(text), "MemTotal:") << 10
	}
	if out, err := command(binary, "version"); err == nil {
		m.Ext4box, _, _ = strings.Cut(strings.TrimSpace(out), "\n")
	}
	if out, err := command("fio", "--version"); err == nil {
		m.Fio = strings.TrimSpace(out)
	}
	return m
}

func fileSystem(dir string) string {
	out, err := command("findmnt", "-n", "-o", "FSTYPE", "-T", dir)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(out)
}

// fuse2fsVersion is the first line of what it says about itself, on stderr.
func fuse2fsVersion() string {
	out, err := command("sh", "-c", "fuse2fs -V 2>&1")
	if err != nil && out == "" {
		return "unknown"
	}
	line, _, _ := strings.Cut(out, "\n")
	return strings.TrimSpace(line)
}

// transportOf looks whether one of the processes has an io_uring.
func transportOf(pids []int) string {
	if len(pids) == 0 {
		return ""
	}
	for _, pid := range pids {
		links, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
		if err != nil {
			continue
		}
		for _, link := range links {
			if to, err := os.Readlink(link); err == nil && strings.Contains(to, "[io_uring]") {
				return "io_uring"
			}
		}
	}
	return "dev"
}

// processors is what all processors have done since the machine was started.
type processors struct{ busy, stolen, all float64 }

// readProcessors sums the first line of /proc/stat: user, nice, system, idle, iowait, irq,
// softirq, steal.
func readProcessors() (p processors) {
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return p
	}
	line, _, _ := strings.Cut(string(text), "\n")
	return parseProcessors(line)
}

func parseProcessors(line string) (p processors) {
	fields := strings.Fields(line)
	for i, f := range fields[min(1, len(fields)):] {
		v, _ := strconv.ParseFloat(f, 64)
		if i > 7 { // guests are counted already
			break
		}
		p.all += v
		switch i {
		case 3, 4:
		case 7:
			p.stolen += v
		default:
			p.busy += v
		}
	}
	return p
}

// since is what was done between two readings, as parts of what could be.
func (p processors) since(before processors) (busy, stolen float64) {
	all := p.all - before.all
	if all <= 0 {
		return 0, 0
	}
	return (p.busy - before.busy) / all, (p.stolen - before.stolen) / all
}

// busyNow is the part of the processors that others use.
func busyNow() float64 {
	before := readProcessors()
	time.Sleep(time.Second)
	busy, _ := readProcessors().since(before)
	return busy
}
