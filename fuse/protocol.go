package fuse

import "fmt"

// The versions of the protocol that this package speaks.
const (
	Major    = 7
	MinMinor = 31
	MaxMinor = 46
)

// Params are the terms of a connection beside its version: what a server wants (in Options) and what
// INIT settled (in Protocol). A zero asks for the default.
type Params struct {
	// Flags are the wanted features; the kernel's offer decides which of them are granted. The
	// session adds those that its transport needs (InitExt, InitMaxPages, InitBigWrites,
	// InitAbortError) and never answers those that nobody here speaks (InitOverIOUring, bit 31, and
	// all from bit 43 on).
	Flags InitFlags
	// MaxWrite is the largest WRITE in bytes. Default: MaxPages pages.
	MaxWrite uint32
	// MaxPages is the largest READ or WRITE in pages. Default: as many as MaxWrite needs, or else
	// what the kernel allows (sysctl fs.fuse.max_pages_limit, 1 MiB unless it was changed).
	MaxPages uint16
	// MaxReadahead in bytes. Default: what the kernel offers, which is also the upper limit.
	MaxReadahead uint32
	// MaxBackground is the number of readahead, writeback and asynchronous direct requests that may
	// be waiting at once. Default: the kernel's, which is 12.
	MaxBackground uint16
	// CongestionThreshold is the number of them from which on the kernel holds back. Default: three
	// quarters of MaxBackground.
	CongestionThreshold uint16
	// TimeGran is the resolution of timestamps in nanoseconds, 1 to 1e9. Default: 1.
	TimeGran uint32
	// MaxStackDepth, 1 or 2, goes with InitPassthrough.
	MaxStackDepth uint32
	// RequestTimeout in seconds, after which an unanswered request aborts the connection; the
	// kernel rounds it up to 15. It asks for InitRequestTimeout by itself. Default: none.
	RequestTimeout uint16
	// Iomap asks for fuse-iomap where the kernel has it: where it says that it speaks IomapMinor,
	// offers InitIomap, and answers DevIocIomapSupport. In Protocol: it is in force, and IomapConfig
	// is the next request. Protocol.NoIomap tells why it is not.
	Iomap bool
	// IomapMinor is a version behind the constant IomapMinor that is to be taken for it, on the word
	// of whoever runs that kernel. Default: none, for nobody knows what a later one means.
	IomapMinor uint32
	// MapAlignment is log2 of the alignment of DAX mappings; it goes with InitMapAlignment.
	MapAlignment uint16
}

// Protocol is what INIT settled. It does not change afterwards.
type Protocol struct {
	Minor           uint32    // spoken on this connection: MinMinor to MaxMinor, or IomapMinor
	KernelMinor     uint32    // the kernel's own
	Offered         InitFlags // by the kernel
	KernelReadahead uint32    // offered by the kernel, bytes
	IomapSupport    uint64    // what its fuse-iomap can do (IomapSupportFileIO, ...), where it was asked
	NoIomap         string    // why fuse-iomap is not in use, half a sentence; empty if it is
	Params                    // in force
}

// Has reports whether all features of f were granted.
func (p *Protocol) Has(f InitFlags) bool { return p.Flags&f == f }

// String describes the version, as in "7.45".
func (p *Protocol) String() string { return fmt.Sprintf("%d.%d", Major, p.Minor) }
