package main

import (
	"errors"
	"fmt"
	"time"

	"github.com/spf13/pflag"

	"ext4box/blockdev"
	"ext4box/ext4"
	"ext4box/mount"
)

// imageOptions say which part of an image to open, and how. Every verb that takes
// an IMAGE has them.
type imageOptions struct {
	Offset     byteCount `json:"offset"`
	SizeLimit  byteCount `json:"sizeLimit"`
	Journal    string    `json:"journal"`
	NoRecovery bool      `json:"noRecovery"`
	Superblock int64     `json:"superblock"`

	Partition int  `json:"partition"` // of the image's spec
	Writable  bool `json:"writable"`  // open for writing
	Behind    bool `json:"behind"`    // the last descriptor is the image once more, for writing behind

	AnySector bool `json:"anySector"` // it is a loop device, whose sectors say nothing about the image

	MountPoint string `json:"mountPoint"` // without symbolic links; empty if there is none

	Iomap iomapOptions `json:"iomap"`

	Memory int64 `json:"memory"` // what the file system may keep in memory, in bytes; 0: the default

	// Mount are those that only a mount can ask for.
	Mount mount.Ext4Options `json:"mount"`

	// buffered is I/O through the host's page cache: one process that does one
	// thing after the other need not wait for the device each time.
	buffered bool
}

func (o *imageOptions) addFlags(f *pflag.FlagSet) {
	f.Var(&o.Offset, "offset", "where in IMAGE the file system begins, in `BYTES` (1M, 0x100000)")
	f.Var(&o.SizeLimit, "sizelimit", "length of the file system in `BYTES`; 0 is all there is")
	f.StringVar(&o.Journal, "journal", "", "the external journal, if there is one, is in this `IMAGE`")
	f.BoolVar(&o.NoRecovery, "norecovery", false, "do not replay the journal")
	f.Int64Var(&o.Superblock, "sb", 0, "use the copy of the superblock at this `BLOCK` of 1 KiB")
}

// byteCount is a flag that takes 1048576, 0x100000 or 1M.
type byteCount int64

func (b *byteCount) String() string { return fmt.Sprint(int64(*b)) }
func (b *byteCount) Type() string   { return "bytes" }
func (b *byteCount) Set(s string) error {
	n, err := mount.ParseSize(s)
	*b = byteCount(n)
	return err
}

// device says how to open the image's device.
func (o *imageOptions) device(lock blockdev.Lock) blockdev.Options {
	return blockdev.Options{
		ReadOnly: !o.Writable, Lock: lock, Partition: o.Partition, Buffered: o.buffered,
		Offset: int64(o.Offset), SizeLimit: int64(o.SizeLimit), AnySector: o.AnySector,
	}
}

// lock says who else may have the image open meanwhile.
func (o *imageOptions) lock() blockdev.Lock {
	if o.Writable {
		return blockdev.LockExclusive
	}
	return blockdev.LockShared
}

// engine says how to open the file system on the device.
func (o *imageOptions) engine(journal blockdev.Device) ext4.Options {
	return ext4.Options{
		ReadOnly: !o.Writable, NoRecovery: o.NoRecovery, Superblock: o.Superblock,
		JournalDevice: journal, MountPoint: o.MountPoint,
		Memory: o.Memory, MinixDF: o.Mount.MinixDF, CommitInterval: time.Duration(o.Mount.Commit) * time.Second,
		NoBarrier: o.Mount.NoBarrier, Errors: onErrors[o.Mount.Errors], ParentGroup: o.Mount.ParentGroup,
		ReservedUID: o.Mount.ReservedUID, ReservedGID: o.Mount.ReservedGID, MaxDirSize: o.Mount.MaxDirSize,
		Discard: o.Mount.Discard, NoDiscard: o.Mount.NoDiscard,
		UserQuota: o.Mount.UserQuota, GroupQuota: o.Mount.GroupQuota, ProjectQuota: o.Mount.ProjectQuota,
	}
}

// onErrors are the values of the mount option errors=.
var onErrors = map[string]ext4.OnError{
	"continue": ext4.OnErrorContinue, "remount-ro": ext4.OnErrorReadOnly, "panic": ext4.OnErrorPanic,
}

// openImage opens an image for reading without a mount. lock says who else may
// have it open.
func openImage(spec string, o imageOptions, lock blockdev.Lock) (*ext4.FS, error) {
	var path string
	path, o.Partition = blockdev.ParseSpec(spec)
	return openFile(path, spec, o, lock)
}

// openFile is openImage of a file by its path; messages call it spec.
func openFile(path, spec string, o imageOptions, lock blockdev.Lock) (*ext4.FS, error) {
	dev, err := blockdev.Open(path, o.device(lock))
	if err != nil {
		return nil, err
	}
	journal, err := openJournal(&o, lock)
	if err != nil {
		dev.Close()
		return nil, err
	}
	fs, err := ext4.Open(dev, o.engine(journal))
	if err != nil {
		dev.Close()
		if journal != nil {
			journal.Close()
		}
		return nil, fmt.Errorf("%s: %w", spec, err)
	}
	return fs, nil
}

// openJournal opens an external journal; none where none is named.
func openJournal(o *imageOptions, lock blockdev.Lock) (blockdev.Device, error) {
	if o.Journal == "" {
		return nil, nil
	}
	path, partition := blockdev.ParseSpec(o.Journal)
	dev, err := blockdev.Open(path, blockdev.Options{ReadOnly: !o.Writable, Lock: lock, Partition: partition})
	if err != nil {
		return nil, fmt.Errorf("external journal: %w", err)
	}
	return dev, nil
}

// withImage opens an image, calls fn and closes it.
func withImage(spec string, o imageOptions, fn func(fs *ext4.FS) error) (err error) {
	fs, err := openImage(spec, o, blockdev.LockShared)
	if err != nil {
		return err
	}
	defer func() {
		if cerr := fs.Close(); cerr != nil {
			err = errors.Join(err, cerr)
		}
	}()
	return fn(fs)
}

// pathError is err, said of a path in the image.
func pathError(path string, err error) error { return fmt.Errorf("%q: %w", path, err) }
