// Package mount puts a FUSE server on a directory and takes it off again.
//
// # What it knows
//
// How a file system of type fuse.ext4box is attached to the tree: with
// fsopen/fsmount or mount(2) by who may, with fusermount3 by who may not, and
// through a /dev/fuse descriptor that somebody else has opened. How mount(8)
// option lists are written and what each option means ([ParseOptions]). How a
// server is started in the background so that the command returns when the
// mount answers and not before ([Launch], [Serve]). How to learn that the image
// is closed after an unmount ([State], [Unmount], [WaitClosed]).
//
// # What it must not know
//
// The disk format and the FUSE protocol. It never reads a byte of an image, and
// it never reads or writes a message on /dev/fuse, although it knows some ioctls: this package is the
// privileged side of the design, the side that opens things, mounts and hands
// descriptors over. Whoever serves is given descriptors and nothing else.
//
// # Who calls it
//
// cmd/ext4box, for the verbs mount and umount and for the hidden verb serve,
// which is the other end of [Launch].
//
// # The handshake
//
// Two processes take part. The launcher is the command the user typed; the
// server is the same binary started again. They talk over a SOCK_SEQPACKET pair,
// one JSON message per packet, descriptors as ancillary data:
//
//	launcher                              server
//	  open the image, lock it
//	  start {request} + image fds  ---->
//	                                        read the image
//	                               <----  opened, or failed {sentence, status}
//	  mount; write and lock the state file
//	  mounted {dir, device}
//	     + fuse fd, state fd       ---->
//	                                        answer INIT
//	                               <----  serving, or failed
//	  stat the root of the mount
//	  confirmed                    ---->
//	                                        leave the terminal
//	                               <----  end of file
//	  exit 0
//
// Where the kernel can move file data itself (fuse-iomap) and the launcher mounts, the
// kernel asks the server for the terms while it mounts, so that a refusal fails the mount. The
// server then has the connection before there is a mount, and knows of the mount afterwards:
//
//	launcher                              server
//	  prepare the mount
//	  connected {root nodeid}
//	     + fuse fd            ---->
//	  mount                               answer INIT and IOMAP_CONFIG
//	                               <----  serving, or failed
//	  mounted {dir, device}
//	     + state fd           ---->
//
// While it waits in the kernel the launcher listens to the server and to signals. To get
// out of there it has the kernel abort the connection.
//
// Nothing is mounted before the image was found good. When a step fails the
// launcher unmounts, ends the server, waits for it, and reports the server's
// sentence as its own. When the launcher dies in between, the server reads end
// of file, unmounts and ends.
//
// # Block devices
//
// Root can mount a device with the type fuseblk ([BlockDevice]). The kernel then
// holds the device, as a file system of its own would, sends DESTROY before
// umount(2) returns, and SYNCFS. It claims the device exclusively, so the server
// has it open without a claim, and the launcher, who kept others off until then,
// lets go just before the kernel takes over. If somebody is faster the mount fails;
// if the kernel refuses for another reason the launcher claims the device again,
// mounts with the usual type, and hands its claim to the server.
//
// # fuse-iomap
//
// The launcher finds out whether the kernel has it and allows it ([AskIomap]) before anything
// else, and makes the connection one that may have it. It takes a block device, so an image
// file gets a loop device then ([AttachLoop]), through which the server reads as well: two
// ways to the same bytes would be two caches. Such a mount has the usual type: it gets SYNCFS
// and DESTROY anyway, and the claim on the device is given up when the image is closed, before
// DESTROY is answered.
//
// # The state file
//
// A mount is described by a small file, named after its device number, in
// /run/ext4box for root, else in $XDG_RUNTIME_DIR/ext4box or /tmp/ext4box-UID.
// The launcher creates it under a private name, locks it (flock), and only then
// gives it its name, so a name always belongs to a locked file or to a dead
// server. The server inherits the descriptor and with it the lock; it needs no
// path and no file system access to keep it, and the kernel drops the lock when
// the server has closed the image and ended, however it ends. Unmount opens the
// file first, unmounts, and waits for the lock.
//
// # Trust
//
// The option list, the image path and the mount point come from the caller and
// are used with the caller's rights; [Options.Permit] takes back what is not the caller's
// to ask for. Messages from the server are bounded and
// hold nothing but text to print, for the server has read a hostile image.
// State files of other users are read only as regular files that belong to the
// owner of the mount, and only to be waited for.
package mount
