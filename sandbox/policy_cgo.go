//go:build cgo

package sandbox

import "golang.org/x/sys/unix"

// futexAny are the flags of an operation on a futex: private, and by which clock.
const futexAny = 128 | 256

// cgoRules are what the C library and the race detector need besides.
var cgoRules = []rule{
	{call: "futex", nr: unix.SYS_FUTEX, why: "every lock", when: either(
		condition{1, word &^ futexAny, 0}, condition{1, word &^ futexAny, 1}, // waiting, waking
		condition{1, word &^ futexAny, 9}, condition{1, word &^ futexAny, 10})}, // by bits
	{call: "clone", nr: unix.SYS_CLONE, why: "pthread_create",
		when: either(is(0, threadFlags|unix.CLONE_SETTLS|unix.CLONE_PARENT_SETTID|unix.CLONE_CHILD_CLEARTID))},
	{call: "mprotect", nr: unix.SYS_MPROTECT, when: either(none(2, unix.PROT_EXEC)), why: "guard pages of stacks; malloc"},
	{call: "set_robust_list", nr: unix.SYS_SET_ROBUST_LIST, why: "a new thread"},
	{call: "rseq", nr: unix.SYS_RSEQ, why: "a new thread"},
	{call: "mremap", nr: unix.SYS_MREMAP, why: "malloc"},
	{call: "brk", nr: unix.SYS_BRK, why: "malloc"},
	{call: "clock_nanosleep", nr: unix.SYS_CLOCK_NANOSLEEP, why: "the race detector's own thread"},
}
