package mount

import (
	"os"
	"os/exec"
	"syscall"
	"testing"
)

// TestInGroup: a keeper tells of the groups of a process, and to the server of a mount that is for one
// user only of no other's.
func TestInGroup(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root, to be others")
	}
	start := func(uid uint32, groups ...uint32) uint32 {
		t.Helper()
		cmd := exec.Command("sleep", "600")
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid, Groups: groups}}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
		return uint32(cmd.Process.Pid)
	}
	theirs, others := start(1000, 27, 100), start(1001, 27)
	owner := new(uint32(1000))
	for _, c := range []struct {
		pid, gid uint32
		owner    *uint32
		want     bool
	}{
		{theirs, 27, nil, true},
		{theirs, 100, owner, true},
		{theirs, 1, owner, false},
		{theirs, 1000, owner, false}, // which the request says
		{others, 27, nil, true},
		{others, 27, owner, false},
		{1 << 30, 27, nil, false},
		{1 << 30, 27, owner, false},
	} {
		if got := inGroup(c.pid, c.gid, c.owner); got != c.want {
			t.Errorf("%+v: %v", c, got)
		}
	}
	// Somebody who has become another keeps a trace of it.
	status := []byte("Name:\tsu\nUid:\t1000\t0\t0\t0\nGid:\t0\t0\t0\t0\nGroups:\t27 \nNStgid:\t1\n")
	if answer(status, 27, owner) || !answer(status, 27, nil) {
		t.Error("a program that is set-user-ID")
	}
}
