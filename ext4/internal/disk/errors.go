package disk

import (
	"fmt"
	"strings"
	"syscall"
)

// CorruptError says that a structure of the image contradicts the format.
//
// It unwraps to EUCLEAN ("structure needs cleaning"), which is what the kernel's
// driver returns for the same finding.
type CorruptError struct {
	What   string // the structure, with its number: "inode 12", "group 3 descriptor"
	Detail string // what is wrong with it
}

func (e *CorruptError) Error() string { return e.What + ": " + e.Detail }

// Unwrap makes errors.Is(err, syscall.EUCLEAN) true.
func (e *CorruptError) Unwrap() error { return syscall.EUCLEAN }

// Corruptf builds a CorruptError about the structure what.
func Corruptf(what, format string, args ...any) error {
	return &CorruptError{What: what, Detail: fmt.Sprintf(format, args...)}
}

// FeatureError says that an image uses features this driver cannot handle. It
// unwraps to EOPNOTSUPP.
type FeatureError struct {
	Names []string // feature names as mke2fs spells them, or FEATURE_I31 style for unknown bits
}

func (e *FeatureError) Error() string {
	return fmt.Sprintf("the filesystem uses features that are not supported: %s", strings.Join(e.Names, ", "))
}

// Unwrap makes errors.Is(err, syscall.EOPNOTSUPP) true.
func (e *FeatureError) Unwrap() error { return syscall.EOPNOTSUPP }
