package mount

import (
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// babbles are packets that a server sends which somebody else has taken over.
var babbles = map[string][]string{
	"no JSON":   {"\x00\xff"},
	"cut off":   {`{"step":"opened"`},
	"too long":  {`{"step":"opened","text":"` + strings.Repeat("x", maxMessage) + `"}`},
	"deep":      {strings.Repeat("[", maxMessage)},
	"ill typed": {`{"step":["opened"],"status":"x"}`},
	"huge":      {`{"step":"opened","status":1e999,"pid":99999999999999999999}`},
	"too early": {`{"step":"serving","path":{"iomap":true,"text":"\u001b[31m"}}`},
	"no step":   {`{"step":"\u001b]0;x\u0007"}`},
	"the keeper's own": {`{"step":"start","request":{"source":"/etc/passwd","options":{}}}`,
		`{"step":"connected","connection":{"claimed":true}}`, `{"step":"confirmed"}`},
	"descriptors": {"\x00descriptors"},
	"a sentence":  {`{"step":"failed","status":-1,"text":"\u001b[2J\nroot:` + strings.Repeat("x", maxMessage/2) + `"}`},
}

// babble sends what mode says if this is the time for it. It does not wait for anybody to listen.
func babble(mode, when string) {
	name, ok := strings.CutPrefix(mode, "babble "+when+" ")
	if !ok {
		return
	}
	times := 1
	if when == "late" {
		times = 100
	}
	for range times {
		for _, text := range babbles[name] {
			var oob []byte
			if name == "descriptors" {
				oob = unix.UnixRights(0, 1, 2)
			}
			_ = unix.Sendmsg(0, []byte(text), oob, nil, unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT)
			question := `{"step":"group","seq":4294967295,"pid":4294967295,"gid":0,"member":true}`
			_ = unix.Sendmsg(0, []byte(question), nil, nil, unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT)
		}
	}
}

// TestHostileServer: whatever a server sends its keeper, the command ends, with a sentence, and with
// nothing mounted; or, later, the mount stays as it is and can be taken off.
func TestHostileServer(t *testing.T) {
	needMount(t)
	for name := range babbles {
		t.Run(name, func(t *testing.T) {
			image, dir := scratch(t)
			early := part(t, nil, "mount", image, dir, "babble early "+name)
			_ = early.Run()
			out := early.out.String()
			if early.ProcessState.ExitCode() < 1 || strings.Count(out, "\n") != 1 || len(out) > maxText+100 || strings.ContainsAny(out, "\x1b\x07\x00") {
				t.Errorf("%v: %q", early.ProcessState, out)
			}
			if i, ok := mountAt(t, dir); ok {
				t.Errorf("mounted: %+v", i)
			}
			waitFor(t, "the end of the server", func() bool { return !isLocked(t, image) })

			late := part(t, nil, "mount", image, dir, "babble late "+name)
			late.Run()
			i, ok := mountAt(t, dir)
			if late.ProcessState.ExitCode() != 0 {
				// It was heard before the command was done.
				if ok || isLocked(t, image) {
					t.Errorf("%s leaves %+v", late.out.String(), i)
				}
				return
			}
			if !ok {
				t.Fatal("not mounted")
			}
			if _, err := os.Stat(dir); err != nil {
				t.Error(err)
			}
			part(t, nil, "umount", dir, "").run(t, 0, "")
			if isLocked(t, image) {
				t.Error("umount returned before the image was closed")
			}
		})
	}
}
