package mount

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// SplitOptions splits a mount(8) option list at its commas.
//
// A comma belongs to a value when it follows a backslash, as libfuse writes it,
// or stands between double quotes, as mount(8) writes it. The escapes and the
// quotes are not part of what is returned; empty items are dropped.
func SplitOptions(list string) ([]string, error) {
	var out []string
	var item strings.Builder
	quoted := false
	flush := func() {
		if item.Len() > 0 {
			out = append(out, item.String())
			item.Reset()
		}
	}
	for i := 0; i < len(list); i++ {
		switch c := list[i]; {
		case c == '\\' && i+1 < len(list) && strings.IndexByte(`\,"`, list[i+1]) >= 0:
			i++
			item.WriteByte(list[i])
		case c == '"':
			quoted = !quoted
		case c == ',' && !quoted:
			flush()
		case c == 0:
			return nil, fmt.Errorf("the option list %q holds a zero byte", list)
		default:
			item.WriteByte(c)
		}
	}
	if quoted {
		return nil, fmt.Errorf("the option list %q ends inside double quotes", list)
	}
	flush()
	return out, nil
}

// EscapeOption is a value as it is written in an option list.
func EscapeOption(value string) string { return listEscaper.Replace(value) }

var listEscaper = strings.NewReplacer(`\`, `\\`, `,`, `\,`, `"`, `\"`)

// fusermountEscaper escapes what fusermount3 takes a backslash before: it
// removes every backslash and keeps the character that follows, and knows
// nothing of quotes.
var fusermountEscaper = strings.NewReplacer(`\`, `\\`, `,`, `\,`)

// ParseSize reads a byte count, decimal or hexadecimal with 0x, with an optional
// binary suffix (K, M, G, T or P, also written KiB and so on), as losetup(8)
// does. KB and its like, powers of ten there, are refused: they are nearly
// always meant to be the others.
func ParseSize(s string) (int64, error) {
	digits, shift := s, 0
	if unit := strings.TrimSuffix(s, "iB"); unit != "" {
		if i := strings.IndexByte("KMGTP", unit[len(unit)-1]&^0x20); i >= 0 {
			digits, shift = unit[:len(unit)-1], 10*(i+1)
		}
	}
	var n uint64
	var err error
	if hex, ok := strings.CutPrefix(digits, "0x"); ok {
		n, err = strconv.ParseUint(hex, 16, 63)
	} else {
		n, err = strconv.ParseUint(digits, 10, 63)
	}
	if err != nil || n > math.MaxInt64>>shift {
		return 0, fmt.Errorf("%q is not a number of bytes (like 1048576, 0x100000 or 1M)", s)
	}
	return int64(n) << shift, nil
}
