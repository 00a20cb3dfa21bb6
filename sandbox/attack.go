//go:build exploit

package sandbox

import (
	"os"

	"ext4box/sandbox/exploit"
)

// A process built with the tag exploit tries to break out as soon as it is sealed, and reports
// to standard error.
func init() { attack = func() { exploit.Run(os.Stderr) } }
