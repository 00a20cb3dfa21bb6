// Package disktest makes input for the tests of the format packages: single
// records and blocks put together by hand, well-formed or not.
//
// It knows the on-disk format from the writing side and nothing of the decoders
// under test, except for checksums, which have tests of their own against real
// images. Only tests import it. It has no state.
package disktest
