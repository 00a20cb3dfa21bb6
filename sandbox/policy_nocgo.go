//go:build !cgo

package sandbox

// cgoRules are empty: Go's runtime alone needs what rules has.
var cgoRules []rule
