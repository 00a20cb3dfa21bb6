// Package sandbox is the box: what a process that reads hostile images can do, and how
// everything else is taken away from it.
//
// # What it knows
//
// The layers of the box and in which order they go on: namespaces, an empty root,
// capabilities, no_new_privs, resource limits, Landlock, seccomp. The policy, what is left
// to the server and why, is data, in one file, apart from the mechanism.
//
// # What it must not know
//
// Images, the FUSE protocol, mounting. It is told which descriptors there are, not what
// they are for.
//
// # Who calls it
//
// cmd/ext4box: [Start] in the half of a mount that has privileges and reads nothing of the
// image, [Enter] and [Box.Seal] in the half that has none and reads it.
package sandbox
