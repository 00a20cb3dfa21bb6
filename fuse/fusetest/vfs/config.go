package vfs

import (
	"time"

	"ext4box/blockdev"
	"ext4box/fuse"
)

// Generation is the state of the experimental kernel code that is modelled.
type Generation int

const (
	V7    Generation = iota // the seventh posting
	Later                   // the code after it
)

// String names the generation, for subtests.
func (g Generation) String() string {
	if g == Later {
		return "later"
	}
	return "v7"
}

// Config says what kernel to be, and on which devices.
type Config struct {
	Generation Generation
	// Devices are the block devices of the machine, by the number of the descriptor with which the
	// server registers them. One that is not writable is one that was opened for reading only.
	Devices map[int]blockdev.Device

	Flags       fuse.InitFlags // offered; default: all, with fuse-iomap
	NoIomap     bool           // a kernel that does not offer fuse-iomap
	NoPrune     bool           // a kernel that does not know NOTIFY_PRUNE
	Classic     bool           // a released kernel, 7.46, which does not know it at all
	Options     fuse.Options   // of the session
	Socket      bool           // use a socket pair and a fuse.Device instead of calling the session
	RootNodeID  uint64         // default 1
	Fuseblk     bool           // mounted on a block device: BMAP works
	PageSize    int            // default 4096
	Maxbytes    int64          // largest file that the kernel supports; default the largest there is
	CacheLimit  uint32         // bytes of mappings per fork; default 256 KiB
	NoDeviceFUA bool           // devices cannot write through their cache
	Retries     int            // RETRY_CACHE in a row before it counts as a loop; default 16

	// UID and GID are whose system calls these are, unless another caller is chosen.
	UID, GID uint32
	// Now is the coarse clock of the kernel. Default: the machine's.
	Now func() time.Time
	// Tamper, if not nil, sees what the server says before the kernel does, and may change it: so a test can build
	// mistakes in, and look who finds them. A notification or an ioctl for which it returns false succeeds
	// without any effect.
	Tamper func(m *Message) bool
	// Expect lists parts of messages about violations that do not fail the test; see FS.Expect.
	Expect []string
}

func (c Config) withDefaults() Config {
	if c.Flags == 0 {
		c.Flags = allFlags
	}
	if c.NoIomap { // a classic kernel has something else in that bit
		c.Flags &^= fuse.InitIomap
	}
	if c.RootNodeID == 0 {
		c.RootNodeID = 1
	}
	if c.PageSize == 0 {
		c.PageSize = 4096
	}
	if c.Maxbytes == 0 {
		c.Maxbytes = 1<<63 - 1
	}
	if c.CacheLimit == 0 {
		c.CacheLimit = 256 << 10
	}
	if c.Retries == 0 {
		c.Retries = 16
	}
	if c.Now == nil {
		c.Now = coarseNow
	}
	return c
}

// coarseNow is the time in steps of a tick of the kernel, 4 ms.
func coarseNow() time.Time { return time.Now().Truncate(4 * time.Millisecond) }
