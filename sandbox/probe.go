package sandbox

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
)

// Probe finds out which layers this user lacks on this machine, by putting a process into a
// box: cmd, of which nothing but the program and its arguments is set, and which is to call Probed.
func Probe(cmd *exec.Cmd) ([]*Missing, error) {
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	missing, err := Start(cmd, Options{Mode: BestEffort})
	if err != nil {
		return nil, err
	}
	var found []probed
	err = json.NewDecoder(io.LimitReader(out, 1<<20)).Decode(&found)
	if werr := cmd.Wait(); werr != nil {
		return missing, fmt.Errorf("try a box: %w", werr)
	}
	for _, f := range found {
		missing = append(missing, &Missing{f.Layer, errors.New(f.Err)})
	}
	return missing, err
}

type probed struct{ Layer, Err string }

// Probed is what the process does that [Probe] starts. It writes what is missing for Probe.
func Probed(w io.Writer) error {
	b, missing, err := Enter(Options{Mode: BestEffort})
	if err != nil {
		return err
	}
	if err := b.Seal(); err != nil {
		missing = append(missing, &Missing{"a seal", err})
	}
	found := []probed{}
	for _, m := range missing {
		found = append(found, probed{m.Layer, m.Err.Error()})
	}
	return json.NewEncoder(w).Encode(found)
}
