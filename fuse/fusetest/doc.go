// Package fusetest is a kernel to test FUSE servers against: it speaks the kernel's side of the
// protocol in the same process, without a mount and without privileges.
//
// A Kernel drives a fuse.Session over one of two links. The direct one calls the session on the
// goroutine of the caller, so that tests are deterministic and can count allocations. The socket link
// puts a socket pair in the place of /dev/fuse, so that the transport with its readers is tested as
// well.
//
// The package knows the wire format as package fuse declares it and nothing about any file server.
// Requests go out exactly as they are told to, also malformed ones: whether the server survives them
// is what is being tested. Replies are checked for their form.
//
// It can also be a kernel with fuse-iomap, of which it carries the messages and ioctls; what such a
// kernel does with mappings is for whoever answers OnNotify and OnIoctl.
//
// A Kernel may be used by several goroutines. Its locks guard the table of requests that wait for a
// reply, and that of notifications that wait for a verdict; neither is held while calling out.
package fusetest
