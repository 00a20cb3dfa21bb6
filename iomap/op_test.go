package iomap

import "testing"

// TestOp: what is not known counts for what costs least if it is wrong.
func TestOp(t *testing.T) {
	for _, c := range []struct {
		op                 Op
		stores, writesBack bool
	}{
		{Read, false, false},
		{Direct | NoWait, false, false},
		{Write, true, false},
		{Write | Fault, true, false},
		{Write | Unshare, true, false},
		{Zero, false, false},
		{Report | SwapFile, false, false},
		{Writeback, true, true},
		{Write | Writeback, true, true},
		{1 << 20, true, true}, // of a kernel that is not known yet
		{Report | 1<<20, true, true},
	} {
		if got := c.op.Stores(); got != c.stores {
			t.Errorf("%#x: stores: %v", uint32(c.op), got)
		}
		if got := c.op.WritesBack(); got != c.writesBack {
			t.Errorf("%#x: writes back: %v", uint32(c.op), got)
		}
	}
}
