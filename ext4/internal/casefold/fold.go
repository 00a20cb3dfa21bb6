package casefold

import (
	"errors"
	"slices"
	"unicode/utf8"
)

// Version is the version of Unicode whose rules the package follows, whatever
// version the tables were generated from.
const Version = "12.1.0"

// maxStackName is enough for the folded form of any name of 255 bytes, for no
// code point grows by more than a factor of three.
const maxStackName = 3 * 255

// ErrInvalid says that a name is not valid UTF-8. A directory on a strict
// filesystem cannot have such a name; elsewhere it is compared byte by byte and
// hashed as it is.
var ErrInvalid = errors.New("the name is not valid UTF-8")

// mapping is a code point and its folded form.
type mapping struct {
	from rune
	to   string
}

// span is a range of code points, both ends included, with one combining class.
type span struct {
	lo, hi rune
	class  uint8
}

// Fold appends the folded form of name to dst and returns the extended slice.
// It is meant for names, of up to 255 bytes; the time for longer input with
// nothing but combining marks grows with the square of their number. The only
// error is [ErrInvalid], and dst is returned as it was then. Fold allocates
// only where dst has to grow; three times the length of name is always enough.
func Fold(dst, name []byte) ([]byte, error) {
	start := len(dst)
	var room [maxStackName]uint8
	marks := room[:0] // of the combining marks at the end of dst
	for i := 0; i < len(name); {
		if c := name[i]; c < utf8.RuneSelf {
			dst = append(dst, lower(c))
			marks = marks[:0]
			i++
			continue
		}
		r, size := utf8.DecodeRune(name[i:])
		if r == utf8.RuneError && size <= 1 {
			return dst[:start], ErrInvalid
		}
		i += size
		if isHangul(r) {
			dst = appendHangul(dst, r)
			marks = marks[:0]
			continue
		}
		to, found := lookupMapping(r)
		if !found {
			dst, marks = appendOrdered(dst, marks, r)
			continue
		}
		for _, r := range to {
			dst, marks = appendOrdered(dst, marks, r)
		}
	}
	return dst, nil
}

func lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		c += 'a' - 'A'
	}
	return c
}

// lookupMapping finds what r folds to, unless that is r itself.
func lookupMapping(r rune) (to string, found bool) {
	i, found := slices.BinarySearchFunc(mappings[:], r, func(m mapping, r rune) int { return int(m.from - r) })
	if found {
		return mappings[i].to, true
	}
	_, found = lookupSpan(ignorable[:], r)
	return "", found
}

// lookupSpan finds the class of the range that holds r.
func lookupSpan(spans []span, r rune) (class uint8, found bool) {
	i, found := slices.BinarySearchFunc(spans, r, func(s span, r rune) int {
		switch {
		case s.hi < r:
			return -1
		case s.lo > r:
			return 1
		}
		return 0
	})
	if !found {
		return 0, false
	}
	return spans[i].class, true
}

// appendOrdered appends r, moving it in front of the combining marks at the
// end of dst that have a higher class. marks holds the class of these, for each
// of their bytes, so that it need not be looked up again: names of nothing but
// marks are a lot of work otherwise.
func appendOrdered(dst []byte, marks []uint8, r rune) (newDst []byte, newMarks []uint8) {
	class, _ := lookupSpan(classes[:], r)
	end := len(dst)
	dst = utf8.AppendRune(dst, r)
	if class == 0 {
		return dst, marks[:0]
	}
	size := len(dst) - end
	at := len(marks)
	for at > 0 && marks[at-1] > class {
		at--
	}
	if move := len(marks) - at; move > 0 {
		var enc [utf8.UTFMax]byte
		copy(enc[:], dst[end:])
		copy(dst[end-move+size:], dst[end-move:end])
		copy(dst[end-move:], enc[:size])
	}
	for range size {
		marks = append(marks, class)
	}
	copy(marks[at+size:], marks[at:])
	for i := range size {
		marks[at+i] = class
	}
	return dst, marks
}

// The Hangul syllables decompose by arithmetic (The Unicode Standard, 3.12).
const (
	hangulS, hangulSCount = 0xAC00, 11172
	hangulL               = 0x1100
	hangulV, hangulVCount = 0x1161, 21
	hangulT, hangulTCount = 0x11A7, 28
)

func isHangul(r rune) bool { return r >= hangulS && r < hangulS+hangulSCount }

func appendHangul(dst []byte, r rune) []byte {
	s := r - hangulS
	dst = utf8.AppendRune(dst, hangulL+s/(hangulVCount*hangulTCount))
	dst = utf8.AppendRune(dst, hangulV+s/hangulTCount%hangulVCount)
	if t := s % hangulTCount; t != 0 {
		dst = utf8.AppendRune(dst, hangulT+t)
	}
	return dst
}
