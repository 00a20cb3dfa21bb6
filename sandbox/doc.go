// Package sandbox is the box: what a process that reads hostile images can do, and how
// everything else is taken away from it.
//
// # What it knows
//
// The layers of the box and in which order they go on: namespaces, an empty root,
// capabilities, no_new_privs, resource limits, Landlock, seccomp. The policy, what is left
// to the server and why, is data, in one file, policy.go, apart from the mechanism.
//
// # What it must not know
//
// Images, the FUSE protocol, mounting. It is told which descriptors there are, not what
// they are for.
//
// # Who calls it
//
// cmd/ext4box and mount: [Start] in the half of a mount that has privileges and reads nothing
// of the image, [Enter] and [Box.Seal] in the half that has none and reads it. The verb doctor
// calls [Probe].
//
// # The layers
//
//   - Start: user, mount, PID, network, IPC, UTS and cgroup namespaces. An ordinary user is root in
//     there and nobody else anywhere. Root is given a second user, which is nobody's, and with
//     Enter becomes that one.
//   - Enter: the empty root, by pivot_root; resource limits; the bounding set and securebits;
//     the other user; capabilities; no_new_privs; not dumpable; Landlock; and last the seccomp filter,
//     under which none of the above could be done.
//   - Seal: a second filter, and no more descriptors.
//
// Any one of them fails alone in some way: a file cannot be opened because there is none, because
// Landlock forbids it, because the call is not in the list, because no descriptor is left.
//
// # Threads
//
// Go has several threads before main. What counts by thread is done on all of them by
// syscall.AllThreadsSyscall, which a program with cgo does not have: such a one is refused.
// Tests are not, as the race detector needs cgo; there it is the calling thread, and seccomp
// for all.
//
// # Why not a library
//
// Landlock without exceptions is three system calls. The libraries that write seccomp filters
// do not say ENOSYS to one call and EPERM to others, and elastic/go-seccomp-bpf (v1.6.0) compares, after a condition
// did not hold, the argument with the numbers of the calls that follow. x/net/bpf assembles, and runs filters in tests.
package sandbox
