// Package clone copies image files as cheaply as the host can: sharing their
// blocks if it knows how, and without their holes otherwise.
//
// It does not know what is in an image. The verbs that change images call it, for
// the option --output.
package clone
