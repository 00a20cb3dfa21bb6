// Package fuseservice is the protocol between a mount helper and a FUSE server that
// systemd starts for each mount, as libfuse has it (fuservicemount3, from API 3.19).
//
// # What it knows
//
// The messages, and both ends of the conversation: [Server] in a process that can open
// and mount nothing, [Helper] in one that does both for it. What is received is checked
// in full, at either end, and no end waits for ever for the other.
//
// # What it must not know
//
// How files are opened and mounts are made (an [Executor] does it), what is mounted, and
// who may.
//
// # Who calls it
//
// Package mount for the helper, cmd/ext4box for the server.
//
// # The sequence
//
// The socket is AF_UNIX, SOCK_SEQPACKET: a message is a packet, numbers are big-endian,
// and a descriptor travels with the message that speaks of it.
//
//	helper                                     server
//	  connect                          ---->     started, the connection is descriptor 3
//	  HELLO_CMD {versions, flags}      ---->
//	                                  <----  HELLO_REPLY {version}
//	  OPEN_REPLY "argv" + memfd        ---->
//	  OPEN_REPLY "fusedev" + /dev/fuse ---->
//	                                  <----  OPEN_BDEV_CMD or OPEN_CMD, for each file
//	  OPEN_REPLY {path} + file         ---->
//	                                             take no more descriptors (SO_PASSRIGHTS)
//	                                             read the file system
//	                                  <----  FSOPEN_CMD, SOURCE_CMD, MNTPT_CMD,
//	                                         MNTOPTS_CMD, MTABOPTS_CMD
//	  SIMPLE_REPLY to each             ---->
//	                                  <----  MOUNT_CMD
//	  mount
//	  SIMPLE_REPLY                     ---->
//	                                  <----  BYE_CMD {0}
//	  exit                                       serve /dev/fuse
//
// One request is under way at a time. BYE may come at any time, and has no answer; an end
// of file without it means that the server has died. After an error in a reply the server
// may try something else.
//
// # Trust
//
// The server does not trust the helper: who may connect is not for it to know. The helper
// does not trust the server, which may have read a hostile image: it takes no descriptors
// from it, and bounds what it says in length and in number. An [Executor] has to see to
// the rest.
package fuseservice
