//go:build exploit

package sandbox

import (
	"os"

	"ext4box/sandbox/exploit"
)

// The environment of a process built with the tag exploit says whether it is to try to break
// out as soon as it is sealed. The report goes to standard error.
func init() {
	attack = func() {
		if os.Getenv("EXT4BOX_EXPLOIT") != "" {
			exploit.Run(os.Stderr)
		}
	}
}
