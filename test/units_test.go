package test

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// unit is a file of systemd: the values of each directive, in order.
type unit map[string][]string

func readUnit(t *testing.T, name string) unit {
	t.Helper()
	text, err := os.ReadFile("../systemd/" + name)
	if err != nil {
		t.Fatal(err)
	}
	u, section := make(unit), ""
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		switch {
		case line == "" || strings.HasPrefix(line, "#"):
		case strings.HasPrefix(line, "["):
			section = strings.Trim(line, "[]")
		default:
			key, value, ok := strings.Cut(line, "=")
			if !ok || section == "" || strings.HasSuffix(value, `\`) {
				t.Errorf("%s: %q is no directive", name, line)
			}
			u[section+"."+key] = append(u[section+"."+key], value)
		}
	}
	return u
}

func (u unit) check(t *testing.T, want map[string]string) {
	t.Helper()
	for key, value := range want {
		if got := u[key]; len(got) != 1 || got[0] != value {
			t.Errorf("%s is %q, want %q", key, got, value)
		}
	}
}

// TestUnits has the directives without which the server could do more than it should.
func TestUnits(t *testing.T) {
	readUnit(t, "ext4box.socket").check(t, map[string]string{
		"Socket.ListenSequentialPacket": "/run/filesystems/ext4box", "Socket.Accept": "yes",
		"Socket.SocketMode": "0220", "Socket.RemoveOnStop": "yes", "Install.WantedBy": "sockets.target",
	})
	service := readUnit(t, "ext4box@.service")
	service.check(t, map[string]string{
		"Service.Type": "exec", "Service.ExecStart": "@BINDIR@/ext4box serve --service", "Unit.CollectMode": "inactive-or-failed",
		"Service.DynamicUser": "yes", "Service.PrivateUsers": "yes", "Service.NoNewPrivileges": "yes",
		"Service.CapabilityBoundingSet": "", "Service.AmbientCapabilities": "",
		"Service.ProtectSystem": "strict", "Service.ProtectHome": "yes", "Service.PrivateTmp": "yes", "Service.PrivateMounts": "yes",
		"Service.PrivateDevices": "yes", "Service.DevicePolicy": "closed", "Service.PrivateNetwork": "yes", "Service.PrivateIPC": "yes",
		"Service.RestrictAddressFamilies": "none", "Service.IPAddressDeny": "any",
		"Service.ProtectProc": "invisible", "Service.ProcSubset": "pid", "Service.ProtectKernelLogs": "yes",
		"Service.ProtectKernelModules": "yes", "Service.ProtectKernelTunables": "yes", "Service.ProtectControlGroups": "yes",
		"Service.ProtectClock": "yes", "Service.ProtectHostname": "yes", "Service.RestrictNamespaces": "yes",
		"Service.RestrictRealtime": "yes", "Service.RestrictSUIDSGID": "yes", "Service.LockPersonality": "yes",
		"Service.MemoryDenyWriteExecute": "yes", "Service.SystemCallArchitectures": "native",
		"Service.SystemCallErrorNumber": "EL3RST", "Service.UMask": "7777", "Service.LimitCORE": "0", "Service.OOMPolicy": "continue",
	})
	filters := service["Service.SystemCallFilter"]
	if len(filters) != 3 || filters[0] != "@system-service" || !strings.HasPrefix(filters[1], "~") {
		t.Fatalf("the filters are %q", filters)
	}
	for _, group := range []string{"@privileged", "@resources", "@mount", "@module", "@debug", "@reboot", "@swap", "@clock", "@raw-io"} {
		if !slices.Contains(strings.Fields(filters[1][1:]), group) {
			t.Errorf("the filter does not take away %s", group)
		}
	}
	for _, call := range []string{"seccomp", "landlock_restrict_self", "capset", "prlimit64", "sched_getaffinity"} {
		if !slices.Contains(strings.Fields(filters[2]), call) {
			t.Errorf("the filter keeps the server from %s, which its box takes", call)
		}
	}
}

// TestUnitsVerified has systemd read them, where it is.
func TestUnitsVerified(t *testing.T) {
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip("needs systemd-analyze (package systemd)")
	}
	dir := t.TempDir()
	for _, name := range []string{"ext4box.socket", "ext4box@.service"} {
		text, err := os.ReadFile("../systemd/" + name)
		if err != nil {
			t.Fatal(err)
		}
		// Any program will do.
		text = []byte(strings.ReplaceAll(string(text), "@BINDIR@/ext4box", "/bin/true"))
		text = []byte(strings.ReplaceAll(string(text), "man:", "https://man/")) // which need not be installed
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	out, err := exec.Command(analyze, "verify", "--man=no", filepath.Join(dir, "ext4box.socket"), filepath.Join(dir, "ext4box@.service")).CombinedOutput()
	if strings.Contains(string(out), "Failed to create") || strings.Contains(string(out), "Failed to initialize") {
		t.Skipf("systemd-analyze does not work here: %s", out)
	}
	for line := range strings.Lines(string(out)) {
		if strings.Contains(line, dir) { // and not about other units of this machine
			t.Error(line)
		}
	}
	if err != nil {
		t.Logf("%v\n%s", err, out)
	}
}
