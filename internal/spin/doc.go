// Package spin has locks for what is held for some microseconds at a time. Who finds one taken lets other threads
// run, and tries again, some times before it goes to sleep.
//
// Requests are handled by goroutines that are bound to threads: see "Rings" in package fuse. When one of these sleeps, Go
// switches to another thread to look for work, and to a third to wake it. That costs many times what it waited for.
//
// An [Event] is for what takes longer.
package spin
