package mount

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// fusermountNames are the names of the set-user-ID helper, newest first.
// fusermount of libfuse 2 speaks the same protocol.
var fusermountNames = []string{"fusermount3", "fusermount"}

// Fusermount finds the set-user-ID program that mounts for ordinary users.
func Fusermount() (string, error) {
	_, known := os.LookupEnv("PATH")
	for _, name := range fusermountNames {
		if path, err := exec.LookPath(name); err == nil {
			return path, nil
		}
		if known {
			continue
		}
		// mount(8) takes PATH away when a user mounts what fstab lets him.
		for _, dir := range []string{"/usr/local/bin", "/usr/bin", "/bin"} {
			if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
				return path, nil
			}
		}
	}
	return "", &Error{StatusUsage, errors.New("mounting without root needs the program fusermount3: " +
		"install the package fuse3, or mount as root")}
}

// mountFusermount has fusermount3 mount on dir and takes the /dev/fuse
// descriptor that it opened.
func mountFusermount(dir, source string, o *Options) (*os.File, error) {
	program, err := Fusermount()
	if err != nil {
		return nil, err
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, systemf("talk to %s: %w", program, err)
	}
	ours, theirs := pair[0], os.NewFile(uintptr(pair[1]), "fusermount3")
	defer unix.Close(ours)
	defer theirs.Close()

	cmd := exec.Command(program, "-o", fusermountOptions(source, o), "--", dir)
	var text bytes.Buffer
	cmd.Stderr = &text
	cmd.ExtraFiles = []*os.File{theirs}
	cmd.Env = append(os.Environ(), "_FUSE_COMMFD=3")
	if err := cmd.Run(); err != nil {
		return nil, fusermountError(program, text.String(), err)
	}
	theirs.Close() // so that a helper that sent nothing reads as end of file
	dev, err := receiveFile(ours)
	if err != nil {
		return nil, systemf("take the descriptor from %s: %w", program, err)
	}
	return dev, nil
}

// fusermountOptions writes the options in the way of fusermount3, which knows
// fewer than mount(8) and always adds nosuid and nodev.
func fusermountOptions(source string, o *Options) string {
	opts := []string{
		"fsname=" + fusermountEscaper.Replace(source),
		"subtype=" + Subtype,
	}
	if !o.Owners.Fakeroot {
		opts = append(opts, "default_permissions")
	}
	for _, f := range []struct {
		bit  uintptr
		name string
	}{
		{unix.MS_RDONLY, "ro"},
		{unix.MS_NOEXEC, "noexec"},
		{unix.MS_SYNCHRONOUS, "sync"},
		{unix.MS_NOATIME, "noatime"},
		{unix.MS_NOSYMFOLLOW, "nosymfollow"}, // where it is unknown, better no mount than one without
	} {
		if o.Flags&f.bit != 0 {
			opts = append(opts, f.name)
		}
	}
	if o.AllowOther {
		opts = append(opts, "allow_other")
	}
	if o.MaxRead != 0 {
		opts = append(opts, fmt.Sprintf("max_read=%d", o.MaxRead))
	}
	return strings.Join(opts, ",")
}

// fusermountError turns what fusermount3 wrote into one sentence.
func fusermountError(program, text string, err error) error {
	lines := strings.FieldsFunc(text, func(r rune) bool { return r == '\n' })
	for i, l := range lines {
		l = strings.TrimPrefix(l, program+": ") // it says how it was called
		l = strings.TrimPrefix(l, "fusermount3: ")
		lines[i] = strings.TrimPrefix(l, "fusermount: ")
	}
	said := strings.Join(lines, "; ")
	switch {
	case said == "":
		return failedf("%s: %w", program, err)
	case strings.Contains(said, "user_allow_other"):
		return usagef("%s: %s (or leave out allow_other)", program, said)
	case strings.Contains(said, "mount failed: Operation not permitted") && mayMount():
		return usagef("this user namespace has no mount namespace of its own: " +
			"make it with 'unshare --user --map-root-user --mount'")
	case strings.Contains(said, "mount failed: Operation not permitted") && noNewPrivs():
		return usagef("%s gets no rights from a process that has no_new_privs, as some containers and services have; "+
			"mount outside of it, or in 'unshare --user --map-root-user --mount'", program)
	case strings.Contains(said, "mount failed: Operation not permitted"):
		return usagef("%s: %s: is it set-user-ID root? (reinstall the package fuse3)", program, said)
	case strings.Contains(said, "could not determine username"):
		return usagef("%s mounts only for users who have a name, and user %d has none in /etc/passwd; "+
			"add one, or mount in 'unshare --user --map-root-user --mount'", program, os.Getuid())
	case strings.Contains(said, "no write access to mountpoint"), strings.Contains(said, "not owned by user"):
		return failedf("%s: %s; take a directory of your own", program, said)
	case strings.Contains(said, "failed to access mountpoint"):
		return failedf("%s: %s; it has to reach it as root, which on another FUSE mount takes allow_other there", program, said)
	default:
		return failedf("%s: %s", program, said)
	}
}

// noNewPrivs tells whether set-user-ID programs have no effect for this process.
func noNewPrivs() bool {
	on, err := unix.PrctlRetInt(unix.PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0)
	return err == nil && on == 1
}

// receiveFile receives one descriptor from a socket.
func receiveFile(sock int) (*os.File, error) {
	data, oob := make([]byte, 8), make([]byte, unix.CmsgSpace(4*4))
	n, oobn, _, _, err := unix.Recvmsg(sock, data, oob, unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return nil, err
	}
	files, err := filesOf(oob[:oobn])
	if err != nil {
		return nil, err
	}
	if n == 0 || len(files) != 1 {
		closeAll(files)
		return nil, fmt.Errorf("expected one descriptor, got %d", len(files))
	}
	return files[0], nil
}

// filesOf takes the descriptors out of ancillary data. On error none is left
// open.
func filesOf(oob []byte) ([]*os.File, error) {
	if len(oob) == 0 {
		return nil, nil
	}
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, err
	}
	var files []*os.File
	for i := range msgs {
		fds, err := unix.ParseUnixRights(&msgs[i])
		if err != nil {
			continue // credentials or the like
		}
		for _, fd := range fds {
			files = append(files, os.NewFile(uintptr(fd), "passed"))
		}
	}
	return files, nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}
