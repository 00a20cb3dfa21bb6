package vfs

import "syscall"

// atomicChecks refuses an untorn write that is not exactly one block, aligned, direct, to a file that
// allows for it.
func (f *File) atomicChecks(p []byte, pos uint64) syscall.Errno {
	block := f.fs.blocksize
	switch {
	case !f.in.flags.atomic:
		return syscall.EOPNOTSUPP
	case !f.direct() && f.fs.cfg.Generation == Later:
		return syscall.EOPNOTSUPP
	case !f.direct(), uint64(len(p)) != block, pos%block != 0:
		return syscall.EINVAL
	}
	return 0
}
