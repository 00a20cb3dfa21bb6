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
// is closed after an unmount ([State], [Unmount], [State.WaitClosed]).
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
// In the background the command re-executes itself ([Background]); what follows is between that
// process, or the command itself in the foreground, which is the keeper, and the server,
// the same binary started again in its box. They talk over a SOCK_SEQPACKET pair,
// one JSON message per packet, descriptors as ancillary data:
//
//	keeper                                server
//	  open the image, lock it
//	  start {request} + image, spare
//	     /dev/fuse, state file     ---->
//	                                        enter the box; read the image
//	                               <----  opened, or failed {sentence, status}
//	  mount; name the state file
//	  connected {root nodeid}
//	     + fuse, claim             ---->
//	                                        seal the box; answer INIT
//	                               <----  serving, or failed
//	  stat the root of the mount
//	  confirmed                    ---->
//	  let the front return
//
// What the server writes to standard error goes through a pipe to the keeper, which writes the log.
//
// From connected on the server has neither recvmsg(2) nor sendmsg(2): what follows has no
// descriptors. Later there is
//
//	                             <----  group {process, group}
//	member {yes or no}           ---->
//	                             <----  unmount: a signal came
//	unmount, or
//	end                          ---->
//
// and the end of file. Where the kernel can move file data itself (fuse-iomap) and the keeper
// mounts, the kernel asks the server for the terms while it mounts, so that a refusal fails the
// mount: then connected comes before the mount, and serving in the middle of it. While it waits
// in the kernel the keeper listens to the server and to signals. To get
// out of there it has the kernel abort the connection.
//
// Nothing is mounted before the image was found good. When a step fails the
// keeper unmounts, ends the server, waits for it, and reports the server's
// sentence as its own. When the keeper dies in between, the server reads end
// of file and ends, and so it does in the foreground at any time; in the background it goes on
// once it is confirmed.
//
// # Block devices
//
// Root can mount a device with the type fuseblk ([BlockDevice]). The kernel then
// holds the device, as a file system of its own would, sends DESTROY before
// umount(2) returns, and SYNCFS. It claims the device exclusively, so the server
// has it open without a claim, and the keeper, who kept others off until then,
// lets go just before the kernel takes over. If somebody is faster the mount fails;
// if the kernel refuses for another reason the keeper claims the device again,
// mounts with the usual type, and hands its claim to the server.
//
// # fuse-iomap
//
// The keeper finds out whether the kernel has it and allows it ([AskIomap]) before anything
// else, and makes the connection one that may have it. It takes a block device, so an image
// file gets a loop device then ([AttachLoop]), through which the server reads as well: two
// ways to the same bytes would be two caches. Such a mount has the usual type: it gets SYNCFS
// and DESTROY anyway, and the claim on the device is given up when the image is closed, before
// DESTROY is answered.
//
// # The state file
//
// A mount is described by a small file, named after its device number, in
// /run/ext4box for root, else in $XDG_RUNTIME_DIR/ext4box, /run/user/UID/ext4box or
// /tmp/ext4box-UID. Root of a user namespace, to whom root's directories do not belong, has
// those of the user that he is outside.
// The keeper creates it under a private name, locks it (flock), and only then
// gives it its name, so a name always belongs to a locked file or to a dead
// server. The server is handed the descriptor and with it the lock, and the kernel drops that
// when both have ended, the server with the image closed, however they end. Unmount opens the
// file first, unmounts, and waits for the lock. A server that could not end in order, as where
// there was no room to write, says so to the keeper, who adds it to the file, for Unmount to tell.
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
