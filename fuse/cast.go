package fuse

import (
	"os"
	"unsafe"
)

// This file and its users rely on two facts: all wire structures are plain integers without hidden
// padding (wire_test.go checks their sizes), and the protocol is in the byte order of the host.

const (
	entryOutSize   = int(unsafe.Sizeof(EntryOut{}))
	openOutSize    = int(unsafe.Sizeof(OpenOut{}))
	ioctlOutSize   = int(unsafe.Sizeof(IoctlOut{}))
	direntSize     = int(unsafe.Sizeof(direntHeader{}))
	direntPlusSize = int(unsafe.Sizeof(direntPlusHeader{}))
	forgetOneSize  = int(unsafe.Sizeof(ForgetOne{}))
	removeOneSize  = int(unsafe.Sizeof(RemovemappingOne{}))
	extHeaderSize  = int(unsafe.Sizeof(extHeader{}))
	secctxSize     = int(unsafe.Sizeof(secctx{}))
)

// raw views a wire structure as bytes.
func raw[T any](p *T) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(p)), unsafe.Sizeof(*p))
}

// load copies a wire structure from b, which may have any alignment. What b lacks is zero.
func load[T any](b []byte) (v T) {
	copy(raw(&v), b)
	return v
}

// store copies a wire structure to b, which may have any alignment.
func store[T any](b []byte, p *T) { copy(b, raw(p)) }

// alias views b as a string. It changes with b.
func alias(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

// overlaps reports whether a and b share memory.
func overlaps(a, b []byte) bool {
	if len(a) == 0 || len(b) == 0 {
		return false
	}
	pa, pb := uintptr(unsafe.Pointer(unsafe.SliceData(a))), uintptr(unsafe.Pointer(unsafe.SliceData(b)))
	return pa < pb+uintptr(len(b)) && pb < pa+uintptr(len(a))
}

// pageSize is the size of a page of memory, in which the kernel counts.
var pageSize = os.Getpagesize()
