package fuse

import (
	"errors"
	"os"
	"runtime"
	"slices"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// TestRingRestricted: a ring takes nothing but commands on the registered file, whoever has it.
func TestRingRestricted(t *testing.T) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	r, err := newRing(1)
	if err != nil {
		t.Skip(err)
	}
	defer r.close()
	f, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := r.bind(int(f.Fd())); err != nil {
		t.Fatal(err)
	}
	if err := r.restrict(); !errors.Is(err, unix.EBUSY) {
		t.Errorf("other restrictions: %v", err)
	}
	if err := r.enable(); err != nil {
		t.Fatal(err)
	}
	submit := func(name string, change func(*ringSQE), want ...unix.Errno) {
		t.Helper()
		change(r.push(ringRegister, 7, 0))
		if errno := r.enter(1, nil); errno != 0 {
			t.Errorf("%s: %v", name, errno)
		}
		if _, res, ok := r.completed(); !ok || !slices.Contains(want, unix.Errno(-res)) {
			t.Errorf("%s: %d, %v, want %v", name, res, ok, want)
		}
	}
	path := append([]byte("/etc/passwd"), 0)
	submit("a command", func(*ringSQE) {}, 0) // the file takes any
	submit("another file", func(e *ringSQE) { e.Flags, e.FD = 0, int32(f.Fd()) }, unix.EACCES)
	submit("no such file", func(e *ringSQE) { e.FD = 1 }, unix.EBADF)
	submit("a chain", func(e *ringSQE) { e.Flags |= 1 << 2 }, unix.EACCES)
	submit("a worker", func(e *ringSQE) { e.Flags |= 1 << 4 }, unix.EACCES)
	submit("a file of the host", func(e *ringSQE) {
		*e = ringSQE{Opcode: 18, FD: unix.AT_FDCWD, Addr: uint64(uintptr(unsafe.Pointer(&path[0])))}
	}, unix.EACCES)
	for op := range uint8(80) {
		if op != opUringCmd {
			submit("another operation", func(e *ringSQE) { *e = ringSQE{Opcode: op, Flags: sqeFixedFile} }, unix.EACCES, unix.EINVAL) // the latter: there is none
		}
	}
	file := int32(f.Fd())
	for op := range uintptr(40) {
		if err := r.register(op, unsafe.Pointer(&file), 1); err == nil || op == registerFiles && !errors.Is(err, unix.EACCES) {
			t.Errorf("register %d: %v", op, err)
		}
	}
}
