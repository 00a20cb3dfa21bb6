package sandbox

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func init() {
	// ns of each call, in the order of measured
	victims["measure"] = func(b *Box) error {
		if err := b.Seal(); err != nil {
			return err
		}
		for _, m := range measured {
			best := time.Hour
			for range 5 {
				const n = 100000
				start := time.Now()
				for range n {
					m.call()
				}
				best = min(best, time.Since(start)/n)
			}
			fmt.Printf("ns %d\n", best.Nanoseconds())
		}
		return nil
	}
}

var measured = []struct {
	name string
	call func()
}{
	{"getpid", func() { os.Getpid() }},
	{"pread", func() { _, _ = unix.Pread(1, buffer[:], 0) }}, // of a pipe: an error
	{"futex", func() { _, _, _ = unix.RawSyscall(unix.SYS_FUTEX, 0, 1<<20, 0) }},
	{"fcntl", func() { _, _ = unix.FcntlInt(1, unix.F_GETFL, 0) }},
	{"ioctl", func() { _, _, _ = unix.Syscall(unix.SYS_IOCTL, 1<<20, unix.BLKDISCARD, 0) }},
}

var buffer [1]byte

// BenchmarkCalls measures system calls with the box and without. The first three are always
// allowed, and the others looked at by the filters.
func BenchmarkCalls(b *testing.B) {
	for _, mode := range []Mode{Off, Enforce} {
		b.Run(string(mode), func(b *testing.B) {
			for range b.N {
				p := startVictim(b, victim{Name: "measure", Options: Options{Mode: mode}}, nil)
				for _, m := range measured {
					ns, err := strconv.Atoi(strings.TrimPrefix(p.expect(b, "ns "), "ns "))
					if err != nil {
						b.Fatal(err)
					}
					b.ReportMetric(float64(ns), "ns/"+m.name)
				}
			}
			b.ReportMetric(0, "ns/op")
		})
	}
}
