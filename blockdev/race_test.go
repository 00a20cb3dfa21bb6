//go:build race

package blockdev

func init() { raceEnabled = true }
