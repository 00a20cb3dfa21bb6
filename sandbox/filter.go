package sandbox

import (
	"fmt"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// Places in struct seccomp_data, which a filter sees. The halves of arguments are as on the
// little-endian machines that this package is for.
const (
	dataNr   = 0
	dataArch = 4
	dataArgs = 16 // 8 bytes each
)

// deny and allow are what a filter answers.
const allow = unix.SECCOMP_RET_ALLOW

func deny(e unix.Errno) uint32 { return unix.SECCOMP_RET_ERRNO | uint32(e) }

// entryFilter allows what the rules say.
//
// A refused call fails; it does not end the process. A server that died of a harmless call
// which nobody foresaw would take the mount with it, and an attacker, who is in the process
// already, gains nothing from an error.
func entryFilter(rules []rule) ([]bpf.Instruction, error) {
	p := filterHead()
	done := map[uintptr]bool{}
	for _, r := range rules {
		if done[r.nr] {
			continue
		}
		done[r.nr] = true
		// All rules of a call make one block, at whose end it is refused: what was loaded of
		// an argument is never taken for a call's number.
		var block []bpf.Instruction
		always := false
		for _, same := range rules {
			if same.nr != r.nr {
				continue
			}
			always = always || len(same.when) == 0
			for _, all := range same.when {
				block = append(block, alternative(all)...)
			}
		}
		if always {
			block = []bpf.Instruction{bpf.RetConstant{Val: allow}}
		} else {
			block = append(block, bpf.RetConstant{Val: deny(unix.EPERM)})
		}
		if len(block) > 255 {
			return nil, fmt.Errorf("too many conditions for %s", r.call)
		}
		p = append(p, bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(r.nr), SkipFalse: uint8(len(block))})
		p = append(p, block...)
	}
	for nr, e := range errnos {
		p = append(p, bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(nr), SkipFalse: 1}, bpf.RetConstant{Val: deny(e)})
	}
	return append(p, bpf.RetConstant{Val: deny(unix.EPERM)}), nil
}

// sealFilter refuses what the rules allow until sealing. It works together with the other
// filter, the stricter answer of the two holds.
func sealFilter(rules []rule) []bpf.Instruction {
	p := filterHead()
	done := map[uintptr]bool{}
	for _, r := range rules {
		if !r.unsealed || done[r.nr] {
			continue
		}
		done[r.nr] = true
		var block []bpf.Instruction
		partly := false // some of its arguments stay
		for _, same := range rules {
			if same.nr == r.nr && !same.unsealed {
				partly = true
				for _, all := range same.when {
					block = append(block, alternative(all)...)
				}
			}
		}
		if !partly {
			block = nil
		}
		block = append(block, bpf.RetConstant{Val: deny(unix.EPERM)})
		p = append(p, bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(r.nr), SkipFalse: uint8(len(block))})
		p = append(p, block...)
	}
	return append(p, bpf.RetConstant{Val: allow})
}

// filterHead refuses the calls of other architectures, such as 32-bit ones, whose numbers
// mean other things, and loads the number. Those of x32 have a bit that no rule has.
func filterHead() []bpf.Instruction {
	return []bpf.Instruction{
		bpf.LoadAbsolute{Off: dataArch, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: auditArch, SkipTrue: 1},
		bpf.RetConstant{Val: deny(unix.EPERM)},
		bpf.LoadAbsolute{Off: dataNr, Size: 4},
	}
}

// alternative allows the call if all conditions hold, and else goes on behind it.
func alternative(all []condition) []bpf.Instruction {
	var p []bpf.Instruction
	half := func(off int, mask, value uint32) {
		if mask == 0 {
			return
		}
		p = append(p, bpf.LoadAbsolute{Off: uint32(off), Size: 4})
		if mask != 1<<32-1 {
			p = append(p, bpf.ALUOpConstant{Op: bpf.ALUOpAnd, Val: mask})
		}
		p = append(p, bpf.JumpIf{Cond: bpf.JumpEqual, Val: value})
	}
	for _, c := range all {
		half(dataArgs+8*c.arg, uint32(c.mask), uint32(c.value))
		half(dataArgs+8*c.arg+4, uint32(c.mask>>32), uint32(c.value>>32))
	}
	p = append(p, bpf.RetConstant{Val: allow})
	for i := range p {
		if j, ok := p[i].(bpf.JumpIf); ok {
			j.SkipFalse = uint8(len(p) - 1 - i)
			p[i] = j
		}
	}
	return p
}

// install puts a filter on all threads. They have no_new_privs afterwards.
func install(p []bpf.Instruction) error {
	raw, err := bpf.Assemble(p)
	if err != nil {
		return err
	}
	filter := make([]unix.SockFilter, len(raw))
	for i, r := range raw {
		filter[i] = unix.SockFilter{Code: r.Op, Jt: r.Jt, Jf: r.Jf, K: r.K}
	}
	prog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	// Without SPEC_ALLOW kernels before 5.16 slow the whole process down to keep code in it
	// from reading memory of the process, which here has no secrets from itself.
	const flags = unix.SECCOMP_FILTER_FLAG_TSYNC | unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW
	tid, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, flags, uintptr(unsafe.Pointer(&prog)))
	runtime.KeepAlive(filter)
	switch {
	case errno != 0:
		return os.NewSyscallError("seccomp", errno)
	case tid != 0:
		return fmt.Errorf("seccomp: thread %d has a filter of its own", tid)
	}
	return nil
}
