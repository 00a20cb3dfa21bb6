package sandbox

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// victims are what a process in the box is made to do, by name. They say what they have found
// out in the lines that they write.
var victims = map[string]func(b *Box) error{
	"wait": func(b *Box) error {
		if err := b.Seal(); err != nil {
			return err
		}
		fmt.Println("ready")
		_, err := os.Stdin.Read(make([]byte, 1))
		return err
	},
}

const (
	victimEnv = "EXT4BOX_TEST_VICTIM"
	probeEnv  = "EXT4BOX_TEST_PROBE"
)

// victim is what a process in the box is told.
type victim struct {
	Name    string
	Options Options
	Without []string // layers that are left out
}

func TestMain(m *testing.M) {
	if os.Getenv(probeEnv) != "" {
		if err := Probed(os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	text := os.Getenv(victimEnv)
	if text == "" {
		os.Exit(m.Run())
	}
	var v victim
	err := json.Unmarshal([]byte(text), &v)
	var death int32 // the signal at the death of the parent
	if err == nil {
		err = unix.Prctl(unix.PR_GET_PDEATHSIG, uintptr(unsafe.Pointer(&death)), 0, 0, 0)
	}
	if death != 0 {
		fmt.Println("dies with", unix.Signal(death))
	}
	if err == nil {
		layers = slices.DeleteFunc(layers, func(l layer) bool { return slices.Contains(v.Without, l.name) })
		var b *Box
		var missing []*Missing
		if b, missing, err = Enter(v.Options); err == nil {
			for _, m := range missing {
				fmt.Println("missing", m)
			}
			err = victims[v.Name](b)
		}
	}
	if err != nil {
		fmt.Println("failed:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

func (v victim) text(t testing.TB) string {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// process is a victim at work.
type process struct {
	*exec.Cmd
	missing []*Missing
	out     *bufio.Scanner
}

// startVictim starts a victim; prepare may change how.
func startVictim(t testing.TB, v victim, prepare func(*exec.Cmd)) *process {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = []string{victimEnv + "=" + v.text(t), "GORACE=atexit_sleep_ms=0"}
	cmd.Stderr = struct{ io.Writer }{os.Stderr} // through a pipe: it may be a file, which attacks would write to
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if prepare != nil {
		prepare(cmd)
	}
	p := &process{Cmd: cmd, out: bufio.NewScanner(out)}
	if p.missing, err = Start(cmd, v.Options); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = in.Close()
		for p.out.Scan() {
		}
		_ = cmd.Wait()
	})
	return p
}

// line is the next one.
func (p *process) line(t testing.TB) string {
	t.Helper()
	if !p.out.Scan() {
		t.Fatal("it says nothing")
	}
	return p.out.Text()
}

// expect reads lines until one that has the prefix.
func (p *process) expect(t testing.TB, prefix string) string {
	t.Helper()
	for p.out.Scan() {
		if strings.HasPrefix(p.out.Text(), prefix) {
			return p.out.Text()
		}
		t.Log(p.out.Text())
	}
	t.Fatalf("no line %q", prefix)
	return ""
}
