package mount

import (
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"ext4box/sandbox"
)

// FSType is the type of every mount this package makes, as /proc/self/mountinfo
// shows it.
const FSType = "fuse." + Subtype

// Subtype is the part of [FSType] that names the server.
const Subtype = "ext4box"

// Options is a mount(8) option list, understood. The zero value is a read-write
// mount that allows set-user-ID programs and devices; [ParseOptions] starts from
// the safer defaults.
type Options struct {
	// Flags are the generic flags of mount(2), MS_RDONLY and its like.
	Flags uintptr

	AllowOther bool   // others than the mounting user may use the mount
	AllowIdmap bool   // the kernel may map owners, where the mount is mounted again
	FSName     string // the source to show; the image's path when empty
	BlkDev     string // "auto", "on" or "off": whether the kernel is to hold a device; empty: auto
	Iomap      string // IomapAuto, IomapOn or IomapOff: whether the kernel is to move file data itself; empty: auto
	Transport  string // TransportAuto, TransportDev or TransportUring: how requests come; empty: auto
	IomapMinor uint32 // the version 7.N of FUSE that is to be taken for one with fuse-iomap as it is known; 0: none
	Opens      string // OpensKernel or OpensServer: who decides which files may be opened; empty: the kernel alone
	MaxRead    uint32 // upper limit of one READ in bytes; 0: the kernel's
	Debug      bool   // log more

	Sandbox  sandbox.Mode // how much of the box there must be; empty: all
	MemLimit uint64       // upper bound of the server's memory in bytes; 0: none
	OOMScore *int         // the server's oom_score_adj; nil: as inherited
	Service  string       // the socket of the service that is to mount; empty: none

	DataJournal bool // data=journal, which only a mount for reading can have

	Owners Owners
	Ext4   Ext4Options

	// Ignored are the options that were understood and that have no effect
	// here, in the order given.
	Ignored []string
}

// Ext4Options are the options that concern the image, in the words of ext4(5).
type Ext4Options struct {
	NoRecovery  bool   // do not replay the journal
	Superblock  int64  // superblock copy to use, in units of 1 KiB; 0: the primary
	MinixDF     bool   // statfs does not subtract the overhead
	NoACL       bool   // POSIX ACLs are not enforced
	JournalPath string // the external journal; empty: there is none
	Offset      int64  // where in the image the file system begins, in bytes
	SizeLimit   int64  // length of the file system in bytes; 0: to the end
	Commit      int    // seconds until a change is made durable; 0: the default
	Errors      string // what follows an error, in the words of errors=; empty: as the image says
	NoBarrier   bool   // no flushes: a loss of power may do anything
	Discard     bool   // tell the device of what is freed
	NoDiscard   bool   // do not, even if the superblock says so

	ParentGroup              *bool   // new files get the group of their directory; nil: as the image says
	ReservedUID, ReservedGID *uint32 // whose files may use the reserved blocks; nil: as the image says
	MaxDirSize               uint64  // in bytes; 0: no limit

	UserQuota, GroupQuota, ProjectQuota bool // limits are enforced
}

// The values of the option opens.
const (
	OpensKernel = "kernel" // it opens files by itself
	OpensServer = "server" // it asks the server each time
)

// Default are the options of a mount that was given none: nosuid and nodev, for
// an image is as trustworthy as whoever wrote it.
func Default() Options { return Options{Flags: unix.MS_NOSUID | unix.MS_NODEV} }

// ParseOptions understands the lists given by -o, in order; later options win.
//
// An option that ext4box does not know, a value that is not of the option's form,
// or an option that ext4box knows and cannot honour is an error with
// [StatusUsage]: a mount that silently lacks what was asked for is worse than
// none. sloppy, mount(8)'s -s, tolerates unknown options and nothing else.
func ParseOptions(lists []string, sloppy bool) (Options, error) {
	o := Default()
	for _, list := range lists {
		items, err := SplitOptions(list)
		if err != nil {
			return Options{}, usagef("%w", err)
		}
		for _, item := range items {
			if err := o.apply(item, sloppy); err != nil {
				return Options{}, usagef("%w", err)
			}
		}
	}
	if err := o.check(); err != nil {
		return Options{}, usagef("%w", err)
	}
	return o, nil
}

func (o *Options) apply(item string, sloppy bool) error {
	name, value, hasValue := strings.Cut(item, "=")
	opt, known := options[name]
	switch {
	case strings.HasPrefix(name, "x-") || strings.HasPrefix(name, "X-"):
		return nil // user space's own notes in fstab: x-systemd.automount, ...
	case !known && sloppy:
		return nil
	case !known:
		return fmt.Errorf("unknown mount option %q", name)
	case opt.refuse != "":
		return fmt.Errorf("mount option %q: %s", name, opt.refuse)
	case opt.arg == none && hasValue:
		return fmt.Errorf("mount option %q takes no value", name)
	case opt.arg == required && value == "":
		return fmt.Errorf("mount option %q needs a value", name)
	case opt.values != nil && hasValue && !slices.Contains(opt.values, value):
		return fmt.Errorf("mount option %q cannot be %q, only %s",
			name, value, strings.Join(opt.values, ", "))
	case opt.number && hasValue:
		if _, err := parseNumber(value); err != nil {
			return fmt.Errorf("mount option %q: %w", name, err)
		}
	}
	o.Flags = o.Flags&^opt.clear | opt.set
	if opt.apply != nil {
		if err := opt.apply(o, value); err != nil {
			return fmt.Errorf("mount option %q: %w", name, err)
		}
	}
	if opt.ignored {
		o.Ignored = append(o.Ignored, item)
	}
	return nil
}

// ReadOnly tells whether the mount is read-only.
func (o *Options) ReadOnly() bool { return o.Flags&unix.MS_RDONLY != 0 }
