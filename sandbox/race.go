//go:build race

package sandbox

// raceDetector is linked in. It comes with cgo and with many times the memory.
const raceDetector = true
