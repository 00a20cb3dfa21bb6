package sandbox

import (
	"encoding/binary"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"slices"
	"strings"
	"testing"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"ext4box/fuse"
)

// TestPolicy: every entry has a name, a number and a reason, and none is there twice.
func TestPolicy(t *testing.T) {
	seen := map[string]bool{}
	for _, r := range rules(1) {
		if r.call == "" || r.why == "" || r.nr == 0 && r.call != "read" && r.call != "io_setup" {
			t.Errorf("%+v", r)
		}
		if key := fmt.Sprint(r.call, r.when, r.unsealed); seen[key] {
			t.Error("twice:", r.call)
		} else {
			seen[key] = true
		}
		for _, all := range r.when {
			for _, c := range all {
				if c.arg < 0 || c.arg > 5 || c.mask == 0 || c.value&^c.mask != 0 {
					t.Errorf("%s: the condition %+v", r.call, c)
				}
			}
		}
	}
	for _, i := range ioctls {
		if i.name == "" || i.cmd == 0 || i.why == "" || seen[i.name] {
			t.Errorf("%+v", i)
		}
		seen[i.name] = true
	}
	for _, l := range limits {
		if l.name == "" || l.why == "" {
			t.Errorf("%+v", l)
		}
	}
	// Whatever is on the way of every request is found by the kernel without the filter. Who asks a
	// futex is about to wait, or wakes somebody, which costs many times more.
	for _, hot := range []uintptr{unix.SYS_READ, unix.SYS_WRITE, unix.SYS_WRITEV, unix.SYS_PREAD64, unix.SYS_PWRITE64, unix.SYS_PWRITEV, unix.SYS_FDATASYNC, unix.SYS_NANOSLEEP, unix.SYS_EPOLL_PWAIT, unix.SYS_CLOCK_GETTIME} {
		if !slices.ContainsFunc(rules(1), func(r rule) bool { return r.nr == hot && r.when == nil && !r.unsealed }) {
			t.Error("system call", hot, "has conditions")
		}
	}
}

// TestPolicyIoctls: those of package fuse are all there but one, which the keeper uses.
func TestPolicyIoctls(t *testing.T) {
	allowed := map[uint64]bool{}
	for _, i := range ioctls {
		allowed[i.cmd] = true
	}
	for _, cmd := range []uint64{fuse.DevIocBackingOpen, fuse.DevIocBackingClose, fuse.DevIocIomapSupport, fuse.DevIocSetNofs, fuse.DevIocIomapSetBlocksize} {
		if !allowed[cmd] {
			t.Errorf("%#x", cmd)
		}
	}
	if allowed[fuse.DevIocAddIomap] {
		t.Error("the server can let connections use fuse-iomap")
	}
}

// TestPolicyNames: the numbers are those that package unix has for the names, on each architecture.
func TestPolicyNames(t *testing.T) {
	for _, file := range []string{"policy.go", "policy_cgo.go"} {
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		ast.Inspect(f, func(node ast.Node) bool {
			lit, ok := node.(*ast.CompositeLit)
			if !ok {
				return true
			}
			var name, number string
			for _, e := range lit.Elts {
				kv, ok := e.(*ast.KeyValueExpr)
				if !ok {
					continue
				}
				switch fmt.Sprint(kv.Key) {
				case "call":
					name = strings.Trim(kv.Value.(*ast.BasicLit).Value, `"`)
				case "nr":
					number = kv.Value.(*ast.SelectorExpr).Sel.Name
				}
			}
			if name != "" {
				n++
				if number != "SYS_"+strings.ToUpper(name) {
					t.Errorf("%s: %s is %s", file, name, number)
				}
			}
			return true
		})
		if n < 5 {
			t.Error(file, "has", n, "rules")
		}
	}
}

// verdict runs the filters as the kernel would, for a process whose number is 1.
func verdict(t *testing.T, sealed bool, arch uint32, nr uintptr, args ...uint64) uint32 {
	t.Helper()
	p, err := entryFilter(rules(1))
	if err != nil {
		t.Fatal(err)
	}
	result := run(t, p, arch, nr, args)
	if sealed && result == allow {
		result = run(t, sealFilter(rules(1)), arch, nr, args)
	}
	return result
}

func run(t *testing.T, p []bpf.Instruction, arch uint32, nr uintptr, args []uint64) uint32 {
	t.Helper()
	// The machine of package bpf reads packets, which are big-endian: so each word is.
	data := make([]byte, 64)
	binary.BigEndian.PutUint32(data[dataNr:], uint32(nr))
	binary.BigEndian.PutUint32(data[dataArch:], arch)
	for i, a := range args {
		binary.BigEndian.PutUint32(data[dataArgs+8*i:], uint32(a))
		binary.BigEndian.PutUint32(data[dataArgs+8*i+4:], uint32(a>>32))
	}
	vm, err := bpf.NewVM(p)
	if err != nil {
		t.Fatal(err)
	}
	n, err := vm.Run(data)
	if err != nil {
		t.Fatal(err)
	}
	return uint32(n)
}

func TestFilter(t *testing.T) {
	if raceDetector {
		t.Skip("the race detector needs more")
	}
	const (
		x32    = 0x40000000
		i386   = unix.AUDIT_ARCH_I386
		rw     = unix.PROT_READ | unix.PROT_WRITE
		anon   = unix.MAP_PRIVATE | unix.MAP_ANONYMOUS
		always = "always"
		until  = "until sealed"
		never  = "never"
	)
	type want struct {
		when string
		nr   uintptr
		args []uint64
	}
	for _, c := range []want{
		{always, unix.SYS_READ, nil},
		{always, unix.SYS_PWRITE64, []uint64{1 << 63, 1, 2, 3}},
		{always, unix.SYS_EXIT_GROUP, nil},
		{never, unix.SYS_OPENAT, nil},
		{never, unix.SYS_EXECVE, nil},
		{never, unix.SYS_SOCKET, nil},
		{never, unix.SYS_KILL, []uint64{1, 9}},
		{never, x32 | unix.SYS_READ, nil},
		{never, 1 << 31, nil},
		{always, unix.SYS_MMAP, []uint64{0, 4096, rw, anon}},
		{always, unix.SYS_MMAP, []uint64{0, 4096, 0, anon | unix.MAP_FIXED}},
		{never, unix.SYS_MMAP, []uint64{0, 4096, rw | unix.PROT_EXEC, anon}},
		{never, unix.SYS_MMAP, []uint64{0, 4096, unix.PROT_EXEC, anon}},
		{never, unix.SYS_MMAP, []uint64{0, 4096, rw, unix.MAP_PRIVATE, 3}},
		{never, unix.SYS_MMAP, []uint64{0, 4096, rw, unix.MAP_SHARED | unix.MAP_ANONYMOUS}},
		{never, unix.SYS_MMAP, []uint64{0, 4096, rw, anon | 1<<40}},
		{never, unix.SYS_MPROTECT, []uint64{0, 4096, unix.PROT_EXEC}},
		{always, unix.SYS_CLONE, []uint64{threadFlags}},
		{never, unix.SYS_CLONE, []uint64{uint64(unix.SIGCHLD)}},
		{never, unix.SYS_CLONE, []uint64{threadFlags | unix.CLONE_NEWUSER}},
		{never, unix.SYS_CLONE, []uint64{threadFlags &^ unix.CLONE_THREAD}},
		{always, unix.SYS_TGKILL, []uint64{1, 7, 23}},
		{never, unix.SYS_TGKILL, []uint64{2, 7, 23}},
		{always, unix.SYS_FCNTL, []uint64{3, unix.F_SETFL, unix.O_DIRECT}},
		{never, unix.SYS_FCNTL, []uint64{3, unix.F_DUPFD_CLOEXEC}},
		{never, unix.SYS_FCNTL, []uint64{3, unix.F_DUPFD}},
		{never, unix.SYS_FCNTL, []uint64{3, unix.F_SETOWN, 1}},
		// The argument is the number of an allowed call.
		{never, unix.SYS_FCNTL, []uint64{3, unix.SYS_EXIT_GROUP}},
		{never, unix.SYS_IOCTL, []uint64{3, unix.SYS_EXIT_GROUP}},
		{always, unix.SYS_IOCTL, []uint64{3, 0x8004E500}},
		{always, unix.SYS_IOCTL, []uint64{3, 0xffffffff_8004E500}}, // the kernel takes 32 bits
		{never, unix.SYS_IOCTL, []uint64{0x8004E500, unix.TIOCSTI}},
		{never, unix.SYS_IOCTL, []uint64{3, unix.TIOCSTI | 1<<32}},
		{until, unix.SYS_RECVMSG, nil},
		{until, unix.SYS_SENDMSG, nil},
		{never, unix.SYS_SENDTO, nil},
		{never, unix.SYS_DUP3, nil},
		{until, unix.SYS_STATX, []uint64{3, 0, unix.AT_EMPTY_PATH}},
		{never, unix.SYS_STATX, []uint64{3, 0, unix.AT_SYMLINK_NOFOLLOW}},
		{until, unix.SYS_SECCOMP, []uint64{unix.SECCOMP_SET_MODE_FILTER}},
		{never, unix.SYS_SECCOMP, []uint64{unix.SECCOMP_SET_MODE_STRICT}},
		{until, unix.SYS_PRLIMIT64, []uint64{0, unix.RLIMIT_NOFILE}},
		{never, unix.SYS_PRLIMIT64, []uint64{1, unix.RLIMIT_NOFILE}},
		{always, unix.SYS_PRCTL, []uint64{unix.PR_SET_VMA, unix.PR_SET_VMA_ANON_NAME}},
		{never, unix.SYS_PRCTL, []uint64{unix.PR_SET_DUMPABLE, 1}},
		{always, unix.SYS_MADVISE, []uint64{0, 0, unix.MADV_DONTNEED}},
		{never, unix.SYS_MADVISE, []uint64{0, 0, unix.MADV_HWPOISON}},
	} {
		got := never
		if verdict(t, true, auditArch, c.nr, c.args...) == allow {
			got = always
		} else if verdict(t, false, auditArch, c.nr, c.args...) == allow {
			got = until
		}
		if got != c.when {
			t.Errorf("system call %d%#x is allowed %s, not %s", c.nr, c.args, got, c.when)
		}
		if verdict(t, false, i386, c.nr, c.args...) == allow {
			t.Errorf("system call %d is allowed to 32-bit programs", c.nr)
		}
	}
	if got := verdict(t, false, auditArch, unix.SYS_CLONE3); got != deny(unix.ENOSYS) {
		t.Errorf("clone3: %#x", got)
	}
	// Nothing else than what the table says, whatever the number.
	listed := map[uintptr]bool{}
	for _, r := range rules(1) {
		listed[r.nr] = true
	}
	for nr := range uintptr(2048) {
		if !listed[nr] && verdict(t, false, auditArch, nr) == allow {
			t.Error("system call", nr, "is allowed")
		}
	}
}
