package probe

import (
	"os/exec"
	"strings"

	"ext4box/sandbox"
)

// box tries the whole of what a server is shut up in.
func box(child []string) Check {
	const name = "sandbox"
	if child == nil {
		return Check{Name: name, Answer: Unknown, Detail: "not tried"}
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = child
	missing, err := sandbox.Probe(cmd)
	if err != nil {
		c := no(name, err.Error(), "")
		c.Needed = true
		return c
	}
	if len(missing) == 0 {
		return yes(name, "the server can be shut up: namespaces, empty root, no capabilities, limits, Landlock, seccomp")
	}
	var lacks []string
	for _, m := range missing {
		lacks = append(lacks, m.Layer+": "+m.Err.Error())
	}
	c := no(name, "the box lacks "+strings.Join(lacks, "; "),
		"mount with --sandbox=best-effort, if you trust the image or what is left of the box")
	c.Needed = true
	return c
}
