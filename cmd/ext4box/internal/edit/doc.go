// Package edit has the commands that change files in an image, as the programs of
// the same names change files of the host: mkdir, rm, mv, chmod and so on.
//
// It knows their options and operands, how modes, owners, dates and values are
// written, and how a script of commands is read. It does not know cobra or where
// images come from. The command line makes a verb of each command, and runs
// scripts of them with the verb edit; [Commands] is the one table for both.
//
// Whoever edits an image is its root: permission is not checked, and what is made
// belongs to user and group 0. The umask is 022 whoever runs it, so that the same
// script makes the same image everywhere. Paths are those of the image, and
// symbolic links lead to places inside of it.
package edit
