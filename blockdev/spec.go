package blockdev

import (
	"os"
	"strconv"
	"strings"
)

// ParseSpec splits IMAGE@p2 or IMAGE@2 into the path of the image and the number
// of a partition. The partition is 0, and the path is all of spec, when spec
// does not end like that or when a file of that very name exists.
func ParseSpec(spec string) (path string, partition int) {
	at := strings.LastIndexByte(spec, '@')
	if at <= 0 {
		return spec, 0
	}
	digits := strings.TrimPrefix(spec[at+1:], "p")
	n, err := strconv.ParseUint(digits, 10, 16)
	if err != nil || n == 0 || digits[0] == '0' {
		return spec, 0
	}
	if _, err := os.Lstat(spec); err == nil {
		return spec, 0
	}
	return spec[:at], int(n)
}
