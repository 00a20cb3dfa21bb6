package disktest

import (
	"fmt"
	"regexp"
	"testing"

	"ext4box/internal/e2test"
)

var mapped = regexp.MustCompile(`\((\d+)(?:-(\d+))?(\[u\])?\):(\d+)`)

// Extents returns where the blocks of a file are, as debugfs says, in the order
// of the file.
func Extents(tb testing.TB, image, path string) (list []Extent) {
	tb.Helper()
	for _, m := range mapped.FindAllStringSubmatch(e2test.Debugfs(tb, image, fmt.Sprintf("stat %q", path)), -1) {
		var e Extent
		last := m[2]
		if last == "" {
			last = m[1]
		}
		if _, err := fmt.Sscan(m[1], &e.Block); err != nil {
			tb.Fatal(err)
		}
		if _, err := fmt.Sscan(last, &e.Len); err != nil {
			tb.Fatal(err)
		}
		if _, err := fmt.Sscan(m[4], &e.Start); err != nil {
			tb.Fatal(err)
		}
		e.Len -= e.Block - 1
		e.Unwritten = m[3] != ""
		list = append(list, e)
	}
	return list
}

// Blocks returns the device blocks of a file in its order.
func Blocks(tb testing.TB, image, path string) (blocks []uint64) {
	tb.Helper()
	for _, e := range Extents(tb, image, path) {
		for i := range uint64(e.Len) {
			blocks = append(blocks, e.Start+i)
		}
	}
	return blocks
}
