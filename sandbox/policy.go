package sandbox

import "golang.org/x/sys/unix"

// This file is the policy: what is left to a process in the box, and which of its parts asks
// for it. All else fails with EPERM. The mechanism is in the other files.

// A rule allows one system call.
type rule struct {
	call string
	nr   uintptr
	// when are the arguments with which it is allowed: all conditions of one of the lists.
	// None: always. The kernel remembers what is always allowed and does not run the filter
	// for it, which is why nothing on the way of a request has conditions but futex, which
	// waits anyway.
	when [][]condition
	// unsealed: only until [Box.Seal].
	unsealed bool
	why      string
}

// A condition holds for an argument if its bits under mask are value.
type condition struct {
	arg         int
	mask, value uint64
}

// word is the mask of an argument of which the kernel takes 32 bits.
const word = 1<<32 - 1

func is(arg int, value uint64) condition { return condition{arg, word, value} }
func none(arg int, bits uint64) condition {
	return condition{arg, bits, 0}
}
func either(c ...condition) [][]condition { // each on its own
	var l [][]condition
	for _, c := range c {
		l = append(l, []condition{c})
	}
	return l
}
func anyOf(arg int, values ...uint64) [][]condition {
	var l [][]condition
	for _, v := range values {
		l = append(l, []condition{is(arg, v)})
	}
	return l
}

// threadFlags are the flags with which the Go runtime starts a thread: no process, and no
// namespace, comes out of that.
const threadFlags = unix.CLONE_VM | unix.CLONE_FS | unix.CLONE_FILES | unix.CLONE_SIGHAND | unix.CLONE_SYSVSEM | unix.CLONE_THREAD

// What the Go runtime does with a futex: it waits and wakes, among its own threads.
const (
	futexPrivate = 128
	futexWait    = 0 | futexPrivate
	futexWake    = 1 | futexPrivate
)

// memoryFlags are the flags of mmap for memory of one's own, which is no file.
const memoryFlags = unix.MAP_PRIVATE | unix.MAP_FIXED | unix.MAP_ANONYMOUS | unix.MAP_NORESERVE | unix.MAP_STACK | unix.MAP_DROPPABLE

// What is done to rings that were made before the process was in the box, restricted to commands on registered
// files, and disabled.
const (
	registerFiles  = 2  // IORING_REGISTER_FILES
	registerEnable = 12 // IORING_REGISTER_ENABLE_RINGS
)

// The ioctls. Those of /dev/fuse are in package fuse, those of fuse-iomap in fuse/iomap_abi.go.
var ioctls = []struct {
	name string
	cmd  uint64
	why  string
}{
	{"FUSE_DEV_IOC_CLONE", 0x8004E500, "fuse: a reader's own queue, on a descriptor given before"},
	{"FUSE_DEV_IOC_BACKING_OPEN", 0x4010E501, "fuse: the device to which the kernel moves data itself"},
	{"FUSE_DEV_IOC_BACKING_CLOSE", 0x4004E502, "fuse: the end of that"},
	{"FUSE_DEV_IOC_IOMAP_SUPPORT", 0x8010E563, "fuse: whether the kernel moves data itself"},
	{"FUSE_DEV_IOC_SET_NOFS", 0x4004E564, "fuse: memory reclaim must not wait for the thread that serves it"},
	{"FUSE_DEV_IOC_IOMAP_SET_BLOCKSIZE", 0x4008E566, "fuse: the block size of that device"},
	{"BLKROGET", unix.BLKROGET, "blockdev: whether a device can be written"},
	{"BLKSSZGET", unix.BLKSSZGET, "blockdev: its sector size"},
	{"BLKDISCARD", unix.BLKDISCARD, "blockdev: FITRIM and -o discard"},
}

func ioctlConditions() [][]condition {
	var l [][]condition
	for _, i := range ioctls {
		l = append(l, []condition{is(1, i.cmd)})
	}
	return l
}

// rules are the system calls, those first that come most often: the filter is read from the
// top by kernels before 5.11. self is the number of the process in its own namespace.
func rules(self int) []rule {
	l := []rule{
		{call: "futex", nr: unix.SYS_FUTEX, why: "Go: every lock that has to wait; not those with priorities, in which the kernel had many a hole",
			when: anyOf(1, futexWait, futexWake)},
		{call: "read", nr: unix.SYS_READ, why: "fuse: requests; mount: what the keeper says"},
		{call: "write", nr: unix.SYS_WRITE, why: "fuse: replies; the log; Go: tracebacks, waking its poller"},
		{call: "pread64", nr: unix.SYS_PREAD64, why: "blockdev"},
		{call: "pwrite64", nr: unix.SYS_PWRITE64, why: "blockdev"},
		{call: "pwritev", nr: unix.SYS_PWRITEV, why: "blockdev: neighbours"},
		{call: "writev", nr: unix.SYS_WRITEV, why: "fuse: notifications"},
		{call: "epoll_pwait", nr: unix.SYS_EPOLL_PWAIT, why: "Go: timers and waiting for descriptors"},
		{call: "nanosleep", nr: unix.SYS_NANOSLEEP, why: "Go: its monitor thread"},
		{call: "clock_gettime", nr: unix.SYS_CLOCK_GETTIME, why: "ext4: the coarse time, as the kernel's own"},
		{call: "sched_yield", nr: unix.SYS_SCHED_YIELD, why: "Go: spinning for a short lock"},
		{call: "rt_sigreturn", nr: unix.SYS_RT_SIGRETURN, why: "Go: the end of every signal handler, also of preemption"},
		{call: "getpid", nr: unix.SYS_GETPID, why: "Go: before tgkill"},
		{call: "gettid", nr: unix.SYS_GETTID, why: "Go: a new thread's number"},
		{call: "tgkill", nr: unix.SYS_TGKILL, when: either(is(0, uint64(self))), why: "Go: preemption of its own threads; aborting"},
		{call: "fdatasync", nr: unix.SYS_FDATASYNC, why: "blockdev: every commit"},
		{call: "madvise", nr: unix.SYS_MADVISE, why: "Go: giving memory back, huge pages",
			when: anyOf(2, unix.MADV_DONTNEED, unix.MADV_FREE, unix.MADV_HUGEPAGE, unix.MADV_NOHUGEPAGE, unix.MADV_COLLAPSE)},
		{call: "rt_sigprocmask", nr: unix.SYS_RT_SIGPROCMASK, why: "Go: around the start of a thread"},
		{call: "mmap", nr: unix.SYS_MMAP, why: "Go: its heap; fuse: buffers of requests",
			when: [][]condition{{none(2, unix.PROT_EXEC), {3, 1<<64 - 1 - memoryFlags, 0}, {3, unix.MAP_ANONYMOUS, unix.MAP_ANONYMOUS}}}},
		{call: "munmap", nr: unix.SYS_MUNMAP, why: "fuse: buffers of a reader that ends"},
		{call: "clone", nr: unix.SYS_CLONE, why: "Go: a new thread",
			when: either(is(0, threadFlags), is(0, threadFlags|unix.CLONE_SETTLS))},
		{call: "sigaltstack", nr: unix.SYS_SIGALTSTACK, why: "Go: each thread handles signals on a stack of its own"},
		{call: "fcntl", nr: unix.SYS_FCNTL, why: "os.NewFile; blockdev: direct I/O is switched on and off; fuse: blocking reads",
			when: append(anyOf(1, unix.F_GETFL, unix.F_GETFD), []condition{is(1, unix.F_SETFL), none(2, unix.O_ASYNC|unix.O_APPEND|unix.O_NONBLOCK)})},
		{call: "ioctl", nr: unix.SYS_IOCTL, when: ioctlConditions(), why: "see ioctls"},
		{call: "fallocate", nr: unix.SYS_FALLOCATE, why: "blockdev: discarding in an image file",
			when: either(is(1, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE))},
		{call: "lseek", nr: unix.SYS_LSEEK, why: "blockdev: the size of a device"},
		{call: "fstat", nr: unix.SYS_FSTAT, why: "blockdev: what a descriptor is"},
		{call: "close", nr: unix.SYS_CLOSE, why: "everybody"},
		{call: "epoll_ctl", nr: unix.SYS_EPOLL_CTL, why: "Go: os.NewFile of a descriptor that does not block"},
		{call: "getrandom", nr: unix.SYS_GETRANDOM, why: "Go: seeds of maps; ext4: generations, hash seeds"},
		{call: "sched_getaffinity", nr: unix.SYS_SCHED_GETAFFINITY, why: "Go: looks for more processors now and then"},
		{call: "mincore", nr: unix.SYS_MINCORE, why: "Go: whether memory is mapped"},
		{call: "prctl", nr: unix.SYS_PRCTL, why: "Go: names its memory",
			when: [][]condition{{is(0, unix.PR_SET_VMA), is(1, unix.PR_SET_VMA_ANON_NAME)}}},
		{call: "rt_sigaction", nr: unix.SYS_RT_SIGACTION, why: "os/signal; Go: before it aborts"},
		{call: "restart_syscall", nr: unix.SYS_RESTART_SYSCALL, why: "the kernel: a wait that SIGSTOP broke off"},
		{call: "io_uring_enter", nr: unix.SYS_IO_URING_ENTER, why: "fuse: requests, by rings that can do nothing but commands of the connection"},
		{call: "sched_setaffinity", nr: unix.SYS_SCHED_SETAFFINITY, when: either(is(0, 0)), why: "fuse: a thread goes where its requests come from"},
		{call: "exit", nr: unix.SYS_EXIT, why: "Go: the end of a thread"},
		{call: "exit_group", nr: unix.SYS_EXIT_GROUP, why: "the end"},

		{call: "recvmsg", nr: unix.SYS_RECVMSG, unsealed: true, why: "mount: descriptors from the keeper"},
		{call: "sendmsg", nr: unix.SYS_SENDMSG, unsealed: true, why: "mount/fuseservice: what the helper is told"},
		{call: "fstatfs", nr: unix.SYS_FSTATFS, unsealed: true, why: "blockdev: whether direct I/O is any good there"},
		{call: "statx", nr: unix.SYS_STATX, unsealed: true, why: "blockdev: the alignment of direct I/O, untorn writes",
			when: either(condition{2, unix.AT_EMPTY_PATH, unix.AT_EMPTY_PATH})},
		{call: "prlimit64", nr: unix.SYS_PRLIMIT64, unsealed: true, why: "Seal: no more descriptors",
			when: [][]condition{{is(0, 0), is(1, unix.RLIMIT_NOFILE)}}},
		{call: "io_uring_register", nr: unix.SYS_IO_URING_REGISTER, unsealed: true, why: "fuse: the connection that the rings are for, which take nothing else; a thread for each",
			when: anyOf(1, registerFiles, registerEnable)},
		{call: "seccomp", nr: unix.SYS_SECCOMP, unsealed: true, when: either(is(0, unix.SECCOMP_SET_MODE_FILTER)), why: "Seal"},
	}
	return append(l, cgoRules...)
}

// errnos are refusals that say something else than EPERM.
var errnos = map[uintptr]unix.Errno{
	unix.SYS_CLONE3: unix.ENOSYS, // its arguments cannot be looked at, and C falls back to clone
}

// limits are the resource limits. Soft and hard ones are the same.
var limits = []struct {
	name     string
	resource int
	max      uint64
	why      string
}{
	{"RLIMIT_CORE", unix.RLIMIT_CORE, 0, "memory holds what others have written to the image"},
	{"RLIMIT_NOFILE", unix.RLIMIT_NOFILE, 512, "image, journal, log, state, and one for each reader and each ring; 0 once sealed"},
	{"RLIMIT_MEMLOCK", unix.RLIMIT_MEMLOCK, 0, "nothing is locked; rings were made before"},
	{"RLIMIT_MSGQUEUE", unix.RLIMIT_MSGQUEUE, 0, "no message queues"},
	{"RLIMIT_SIGPENDING", unix.RLIMIT_SIGPENDING, 128, "Go sends a thread one signal at a time"},
	{"RLIMIT_NICE", unix.RLIMIT_NICE, 0, "no higher priority"},
	{"RLIMIT_RTPRIO", unix.RLIMIT_RTPRIO, 0, "no real-time priority"},
}

// maxThreads bounds RLIMIT_NPROC: two for each of at most 32 readers, at most 385 with rings, those
// that flush, and the runtime's own. Go ends the process when it gets no thread, so there is room.
const maxThreads = 1024

// dataSlack is what RLIMIT_DATA has above Options.Memory and a half of it: Go takes address space in arenas
// of 64 MiB, does not give it back, and has tables of its own.
const dataSlack = 256 << 20
