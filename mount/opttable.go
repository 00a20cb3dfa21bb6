package mount

import (
	"fmt"
	"strconv"

	"golang.org/x/sys/unix"

	"ext4box/fuse"
	"ext4box/sandbox"
)

type argKind uint8

const (
	none     argKind = iota // name
	optional                // name or name=value
	required                // name=value
)

// option is what one name in an option list means.
type option struct {
	arg     argKind
	set     uintptr  // generic mount flags it sets
	clear   uintptr  // generic mount flags it clears
	values  []string // the only values it may have
	number  bool     // its value is an unsigned number
	ignored bool     // understood, and without effect here
	refuse  string   // understood, and why it cannot be done
	apply   func(o *Options, value string) error
}

func flag(set uintptr) option        { return option{set: set} }
func clear(bits uintptr) option      { return option{clear: bits} }
func refused(why string) option      { return option{arg: optional, refuse: why} }
func quiet() option                  { return option{ignored: true} }
func quietNumber(arg argKind) option { return option{arg: arg, number: true, ignored: true} }
func quietOneOf(values ...string) option {
	return option{arg: required, values: values, ignored: true}
}
func do(f func(o *Options)) option {
	return option{apply: func(o *Options, _ string) error { f(o); return nil }}
}

// id is an option whose value is the number of a user or group.
func id(f func(o *Options, id uint32)) option {
	return option{arg: required, apply: func(o *Options, v string) error {
		n, err := strconv.ParseUint(v, 10, 32)
		if err != nil {
			return fmt.Errorf("%q is not the number of a user or group", v)
		}
		f(o, uint32(n))
		return nil
	}}
}

// owner is an option whose value is a user or group, by name or number.
func owner(find func(string) (uint32, error), set func(o *Owners, id *uint32)) option {
	return option{arg: required, apply: func(o *Options, v string) error {
		id, err := find(v)
		if err == nil {
			set(&o.Owners, &id)
		}
		return err
	}}
}

const atimeFlags = unix.MS_NOATIME | unix.MS_RELATIME | unix.MS_STRICTATIME

// options is every option ext4box knows. Its parts are those of the manual page.
var options = map[string]option{
	// Generic flags of mount(8).
	"ro":            flag(unix.MS_RDONLY),
	"rw":            clear(unix.MS_RDONLY),
	"suid":          clear(unix.MS_NOSUID),
	"nosuid":        flag(unix.MS_NOSUID),
	"dev":           clear(unix.MS_NODEV),
	"nodev":         flag(unix.MS_NODEV),
	"exec":          clear(unix.MS_NOEXEC),
	"noexec":        flag(unix.MS_NOEXEC),
	"sync":          flag(unix.MS_SYNCHRONOUS),
	"async":         clear(unix.MS_SYNCHRONOUS),
	"dirsync":       flag(unix.MS_DIRSYNC),
	"atime":         clear(unix.MS_NOATIME),
	"noatime":       {set: unix.MS_NOATIME, clear: atimeFlags},
	"relatime":      {set: unix.MS_RELATIME, clear: atimeFlags},
	"norelatime":    clear(unix.MS_RELATIME),
	"strictatime":   {set: unix.MS_STRICTATIME, clear: atimeFlags},
	"nostrictatime": clear(unix.MS_STRICTATIME),
	"diratime":      clear(unix.MS_NODIRATIME),
	"nodiratime":    flag(unix.MS_NODIRATIME),
	"lazytime":      flag(unix.MS_LAZYTIME),
	"nolazytime":    clear(unix.MS_LAZYTIME),
	"symfollow":     clear(unix.MS_NOSYMFOLLOW),
	"nosymfollow":   flag(unix.MS_NOSYMFOLLOW),
	"silent":        flag(unix.MS_SILENT),
	"loud":          clear(unix.MS_SILENT),
	"remount":       refused("a mount cannot be changed; unmount it and mount it again"),
	"bind":          refused("this is for mount(8) itself: mount --bind"),
	"rbind":         refused("this is for mount(8) itself: mount --rbind"),
	"move":          refused("this is for mount(8) itself: mount --move"),

	// For mount(8), fstab and systemd; no business of a file system.
	"auto": {}, "noauto": {}, "nofail": {}, "_netdev": {}, "defaults": {},
	"user": {arg: optional}, "nouser": {}, "users": {}, "nousers": {},
	"owner": {}, "noowner": {}, "group": {}, "nogroup": {},
	"comment": {arg: required},
	"loop":    {arg: optional, ignored: true}, // no loop device is needed
	"mand":    quiet(), "nomand": quiet(),

	// FUSE.
	"allow_other":         do(func(o *Options) { o.AllowOther = true }),
	"allow_idmap":         do(func(o *Options) { o.AllowIdmap = true }),
	"default_permissions": {}, // always, but with fakeroot: the kernel checks permissions
	"fsname": {arg: required, apply: func(o *Options, v string) error {
		o.FSName = v
		return nil
	}},
	"subtype": {arg: required, values: []string{Subtype}},
	"max_read": {arg: required, apply: func(o *Options, v string) error {
		n, err := strconv.ParseUint(v, 10, 32)
		if err != nil || n < 4096 {
			return fmt.Errorf("%q is not a number of bytes from 4096 up", v)
		}
		o.MaxRead = uint32(n)
		return nil
	}},
	"blkdev": {arg: required, values: []string{"auto", "on", "off"}, apply: func(o *Options, v string) error {
		o.BlkDev = v
		return nil
	}},
	"iomap": {arg: required, values: []string{IomapAuto, IomapOn, IomapOff}, apply: func(o *Options, v string) error {
		o.Iomap = v
		return nil
	}},
	"opens": {arg: required, values: []string{OpensKernel, OpensServer}, apply: func(o *Options, v string) error {
		o.Opens = v
		return nil
	}},
	"transport": {arg: required, values: []string{TransportAuto, TransportDev, TransportUring}, apply: func(o *Options, v string) error {
		o.Transport = v
		return nil
	}},
	"iomap_minor": {arg: required, apply: func(o *Options, v string) error {
		n, err := strconv.ParseUint(v, 10, 32)
		if err != nil || n <= fuse.IomapMinor {
			return fmt.Errorf("%q is not a number above %d", v, fuse.IomapMinor)
		}
		o.IomapMinor = uint32(n)
		return nil
	}},
	"service": {arg: optional, apply: func(o *Options, v string) error {
		if v == "" {
			v = ServiceSocket
		}
		o.Service = v
		return nil
	}},
	"sandbox": {arg: required, apply: func(o *Options, v string) (err error) {
		o.Sandbox, err = sandbox.ParseMode(v)
		return err
	}},
	"memlimit": {arg: required, apply: func(o *Options, v string) error {
		n, err := ParseSize(v)
		if err == nil && n < minMemLimit {
			err = fmt.Errorf("%q is less than the %d MiB that a server takes", v, minMemLimit>>20)
		}
		o.MemLimit = uint64(n)
		return err
	}},
	"oom_score_adj": {arg: required, apply: func(o *Options, v string) error {
		n, err := strconv.Atoi(v)
		if err != nil || n < -1000 || n > 1000 {
			return fmt.Errorf("%q is not a number from -1000 to 1000", v)
		}
		o.OOMScore = &n
		return nil
	}},
	"allow_root":   refused("the kernel has no such mode; use allow_other"),
	"auto_unmount": refused("ext4box unmounts by itself when it is told to end"),
	"nonempty":     {}, // always, as for any other mount

	// Whom files belong to.
	"uid": owner(userID, func(o *Owners, id *uint32) { o.UID = id }),
	"gid": owner(groupID, func(o *Owners, id *uint32) { o.GID = id }),
	"umask": {arg: required, apply: func(o *Options, v string) error {
		n, err := strconv.ParseUint(v, 8, 32)
		if err != nil || n > 0o777 {
			return fmt.Errorf("%q is not an octal number up to 777", v)
		}
		o.Owners.Umask = new(uint32(n))
		return nil
	}},
	"idmap":    {arg: required, apply: func(o *Options, v string) error { return o.Owners.addRanges(v) }},
	"fakeroot": do(func(o *Options) { o.Owners.Fakeroot = true }),

	// ext4's own, with a meaning here.
	"norecovery": do(func(o *Options) { o.Ext4.NoRecovery = true }),
	"noload":     do(func(o *Options) { o.Ext4.NoRecovery = true }),
	"minixdf":    do(func(o *Options) { o.Ext4.MinixDF = true }),
	"bsddf":      do(func(o *Options) { o.Ext4.MinixDF = false }),
	"acl":        do(func(o *Options) { o.Ext4.NoACL = false }),
	"noacl":      do(func(o *Options) { o.Ext4.NoACL = true }),
	"debug":      do(func(o *Options) { o.Debug = true }),
	"sb": {arg: required, apply: func(o *Options, v string) (err error) {
		o.Ext4.Superblock, err = parseNumber(v)
		return err
	}},
	"offset": {arg: required, apply: func(o *Options, v string) (err error) {
		o.Ext4.Offset, err = ParseSize(v)
		return err
	}},
	"sizelimit": {arg: required, apply: func(o *Options, v string) (err error) {
		o.Ext4.SizeLimit, err = ParseSize(v)
		return err
	}},
	"commit": {arg: required, apply: func(o *Options, v string) error {
		n, err := strconv.ParseUint(v, 10, 16)
		if err != nil {
			return fmt.Errorf("%q is not a number of seconds up to 65535", v)
		}
		o.Ext4.Commit = int(n)
		return nil
	}},
	"discard":   do(func(o *Options) { o.Ext4.Discard, o.Ext4.NoDiscard = true, false }),
	"nodiscard": do(func(o *Options) { o.Ext4.Discard, o.Ext4.NoDiscard = false, true }),
	"nobarrier": do(func(o *Options) { o.Ext4.NoBarrier = true }),
	"barrier": {arg: optional, apply: func(o *Options, v string) error {
		if v != "" && v != "0" && v != "1" {
			return fmt.Errorf("%q is neither 0 nor 1", v)
		}
		o.Ext4.NoBarrier = v == "0"
		return nil
	}},
	"quota":    do(func(o *Options) { o.Ext4.UserQuota = true }),
	"usrquota": do(func(o *Options) { o.Ext4.UserQuota = true }),
	"grpquota": do(func(o *Options) { o.Ext4.GroupQuota = true }),
	"prjquota": do(func(o *Options) { o.Ext4.ProjectQuota = true }),
	"noquota": do(func(o *Options) {
		o.Ext4.UserQuota, o.Ext4.GroupQuota, o.Ext4.ProjectQuota = false, false, false
	}),
	"journal_path": {arg: required, apply: func(o *Options, v string) error {
		o.Ext4.JournalPath = v
		return nil
	}},
	"journal_dev": {arg: required, apply: func(o *Options, v string) error {
		n, err := strconv.ParseUint(v, 0, 32)
		if err != nil {
			return fmt.Errorf("%q is not a device number", v)
		}
		// The number is the kernel's 12:20 form, minor split in two.
		major, minor := n>>8&0xfff, n&0xff|n>>12&0xfff00
		o.Ext4.JournalPath = fmt.Sprintf("/dev/block/%d:%d", major, minor)
		return nil
	}},

	// Data is always ordered, which is what writeback allows as well.
	"data": {arg: required, values: []string{"ordered", "writeback", "journal"}, apply: func(o *Options, v string) error {
		o.DataJournal = v == "journal"
		return nil
	}},
	"errors": {arg: required, values: []string{"continue", "remount-ro", "panic"}, apply: func(o *Options, v string) error {
		o.Ext4.Errors = v
		return nil
	}},

	"grpid":      do(func(o *Options) { o.Ext4.ParentGroup = new(true) }),
	"bsdgroups":  do(func(o *Options) { o.Ext4.ParentGroup = new(true) }),
	"nogrpid":    do(func(o *Options) { o.Ext4.ParentGroup = new(false) }),
	"sysvgroups": do(func(o *Options) { o.Ext4.ParentGroup = new(false) }),
	"resuid":     id(func(o *Options, id uint32) { o.Ext4.ReservedUID = &id }),
	"resgid":     id(func(o *Options, id uint32) { o.Ext4.ReservedGID = &id }),
	"max_dir_size_kb": {arg: required, apply: func(o *Options, v string) error {
		n, err := strconv.ParseUint(v, 10, 32)
		if err != nil {
			return fmt.Errorf("%q is not a number of KiB", v)
		}
		o.Ext4.MaxDirSize = n << 10
		return nil
	}},

	// ext4's own that steer how the kernel writes. Here they change nothing: data
	// is always ordered.
	"data_err": quietOneOf("ignore", "abort"),
	"delalloc": quiet(), "nodelalloc": quiet(),
	"journal_checksum": quiet(), "nojournal_checksum": quiet(),
	"journal_async_commit": quiet(), "journal_ioprio": quietNumber(required),
	"auto_da_alloc": quietNumber(optional), "noauto_da_alloc": quiet(),
	"dioread_lock": quiet(), "dioread_nolock": quiet(), "nodioread_nolock": quiet(),
	"init_itable": quietNumber(optional), "noinit_itable": quiet(),
	"stripe": quietNumber(required), "mb_optimize_scan": quietNumber(required),
	"prefetch_block_bitmaps": quiet(), "no_prefetch_block_bitmaps": quiet(),
	"inode_readahead_blks": quietNumber(required),
	"block_validity":       quiet(), "noblock_validity": quiet(),
	"nombcache": quiet(), "no_mbcache": quiet(),
	"nouid32": quiet(), "i_version": quiet(), "noi_version": quiet(),
	"usrjquota":     {arg: optional, ignored: true},
	"grpjquota":     {arg: optional, ignored: true},
	"jqfmt":         quietOneOf("vfsold", "vfsv0", "vfsv1"),
	"warn_on_error": quiet(), "nowarn_on_error": quiet(),
	"inlinecrypt": quiet(), "user_xattr": quiet(),

	// ext2's and ext3's, which the kernel's ext4 accepts and ignores as well.
	"check": quietOneOf("none"), "nocheck": quiet(),
	"reservation": quiet(), "noreservation": quiet(),
	"orlov": quiet(), "oldalloc": quiet(),
	"bh": quiet(), "nobh": quiet(),
	"mblk_io_submit": quiet(), "nomblk_io_submit": quiet(),

	// ext4's own that would have an effect, which is not to be had here.
	"dax":                   refused("files cannot be mapped directly through FUSE"),
	"nouser_xattr":          refused("user attributes cannot be hidden"),
	"abort":                 refused("this is for testing the kernel's ext4"),
	"test_dummy_encryption": refused("this is for testing the kernel's ext4"),
}

// minMemLimit is the least memory limit in bytes that can be asked for.
const minMemLimit = 64 << 20

func parseNumber(s string) (int64, error) {
	n, err := strconv.ParseUint(s, 10, 63)
	if err != nil {
		return 0, fmt.Errorf("%q is not a number", s)
	}
	return int64(n), nil
}
