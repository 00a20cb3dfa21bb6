package mount

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ext4box/sandbox"
)

// The test binary plays three parts: the tests, the command a user types
// ("mount" and "umount"), and the server that the command starts.
func TestMain(m *testing.M) {
	switch part := os.Getenv("MOUNT_TEST_PART"); part {
	case "":
		os.Exit(m.Run())
	case "mount":
		report(launchTest(os.Args[1], os.Args[2], os.Args[3]))
	case "umount":
		report(Unmount(os.Args[1], UnmountOptions{Lazy: os.Args[2] == "lazy", Timeout: 5 * time.Second}))
	case "loop":
		f, err := os.OpenFile(os.Args[1], os.O_RDWR, 0)
		var loop *os.File
		if err == nil {
			loop, err = AttachLoop(f, LoopOptions{})
		}
		if err != nil {
			report(err)
		}
		time.Sleep(time.Hour) // until it is killed
		loop.Close()
	case "serve":
		if Serve(os.Stdin, openTest) != nil {
			os.Exit(1)
		}
		os.Exit(0)
	}
}

func report(err error) {
	if err != nil && err.Error() != "" {
		fmt.Fprintln(os.Stderr, "ext4box:", err)
	}
	os.Exit(ExitStatus(err))
}

func launchTest(image, dir, mode string) error {
	foreground := strings.Contains(mode, "foreground")
	var front *Front
	if !foreground {
		var err error
		if front, err = Background(); front == nil {
			return err
		}
	}
	target, err := OpenTarget(dir)
	if err != nil {
		return err
	}
	defer target.Close()
	if err := target.Check(image); err != nil {
		return err
	}
	f, err := os.Open(image)
	if err != nil {
		return err
	}
	o := Default()
	o.Flags |= unix.MS_RDONLY
	o.Sandbox = sandbox.Off // test/box_test.go is about the box
	mode, insist := strings.CutPrefix(mode, "on ")
	if insist {
		o.Iomap = IomapOn
	}
	mode, iomap := strings.CutPrefix(mode, "sync ")
	config, _ := json.Marshal(mode)
	return Launch(LaunchConfig{
		Command: []string{"serve"},
		Env:     []string{"MOUNT_TEST_PART=serve"},
		Front:   front,
		Target:  target,
		Request: Request{Source: image, Options: o, Config: config},
		Files:   []*os.File{f},
		Iomap:   iomap, // what it takes does not take a kernel that has it
		Warn: func(err error) {
			if !strings.Contains(err.Error(), "sandbox=off") {
				fmt.Fprintln(os.Stderr, "warning:", err)
			}
		},
		Ready: func(r Ready) { fmt.Fprintln(os.Stderr, "data:", r.Data.Text) },
	})
}

// responder is the least FUSE server: an empty root directory.
type responder struct {
	image *os.File
	mode  string
}

func openTest(r *Request, files []*os.File) (Service, error) {
	var mode string
	json.Unmarshal(r.Config, &mode)
	if inner, ok := strings.CutPrefix(mode, "foreground "); ok {
		mode = inner
	}
	switch mode {
	case "refuse":
		return nil, &Error{StatusFailed, errors.New("not an ext4 image\x1b[31m")}
	case "die":
		os.Exit(3)
	case "hang":
		time.Sleep(time.Hour)
	default:
		babble(mode, "early")
	}
	if err := unix.Flock(int(files[0].Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, &Error{StatusFailed, errors.New("the image is in use")}
	}
	return &responder{files[0], mode}, nil
}

func (r *responder) ReadOnly() string { return "" }
func (r *responder) NoUring() string  { return "" }

func (r *responder) Attach(Connection) error { return nil }

func (r *responder) NoIomap() string {
	if r.mode == "no iomap" {
		return "it cannot"
	}
	return ""
}

func (r *responder) Close() error {
	if strings.HasSuffix(r.mode, "slow") {
		time.Sleep(300 * time.Millisecond)
	}
	return r.image.Close()
}

func (r *responder) Serve(ctx context.Context, c Connection, ready func(DataPath)) error {
	ended := make(chan error, 1)
	go func() { ended <- r.loop(c.Fuse, ready) }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (r *responder) loop(dev *os.File, ready func(DataPath)) error {
	const (
		lookup, forget, getattr, statfs, initOp, interrupt = 1, 2, 3, 17, 26, 36
	)
	le := binary.LittleEndian
	buf := make([]byte, 1<<20)
	for {
		n, err := unix.Read(int(dev.Fd()), buf)
		if errors.Is(err, unix.ENODEV) {
			return nil
		}
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return err
		}
		op, unique := le.Uint32(buf[4:]), le.Uint64(buf[8:])
		var errno int32
		var body []byte
		switch op {
		case initOp:
			switch r.mode {
			case "fail init":
				return errors.New("cannot answer INIT")
			case "refuse init":
				errno = -int32(unix.EPROTO)
			case "die in init":
				os.Exit(3)
			case "hang in init":
				if image, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", r.image.Fd())); err == nil {
					os.WriteFile(image+".init", nil, 0o600)
				}
				time.Sleep(time.Hour)
			}
			if errno == 0 {
				body = make([]byte, 64)
				le.PutUint32(body[0:], 7)
				le.PutUint32(body[4:], 31)
				le.PutUint32(body[20:], 131072)
			}
		case getattr:
			body = make([]byte, 104)
			le.PutUint64(body[16:], 1)
			le.PutUint32(body[76:], unix.S_IFDIR|0o755)
			le.PutUint32(body[80:], 2)
			if r.mode == "bad root" {
				body, errno = nil, -int32(unix.EIO)
			}
		case statfs:
			body = make([]byte, 80)
		case forget, interrupt:
			continue
		case lookup:
			errno = -int32(unix.ENOENT)
		default:
			errno = -int32(unix.ENOSYS)
		}
		_ = n
		out := make([]byte, 16, 16+len(body))
		le.PutUint32(out[0:], uint32(16+len(body)))
		le.PutUint32(out[4:], uint32(errno))
		le.PutUint64(out[8:], unique)
		if _, err := unix.Write(int(dev.Fd()), append(out, body...)); err != nil && !errors.Is(err, unix.ENOENT) {
			return err
		}
		if op == initOp && errno == 0 {
			path := DataPath{Text: "through the server: \x1b[31mit is a test"}
			if strings.HasPrefix(r.mode, "flood") {
				r.flood()
			}
			if r.mode == "iomap" {
				path = DataPath{Iomap: true, Text: "fuse-iomap, device x"}
			}
			ready(path)
			babble(r.mode, "late")
		}
	}
}

// flood tells the keeper, once the mount is confirmed, all that a server can think of that was taken over.
func (r *responder) flood() {
	go func() {
		time.Sleep(200 * time.Millisecond)
		say := func(text string) { _, _ = unix.Write(0, []byte(text)) }
		long := strings.Repeat("\u009b", maxMessage/3)
		for i := range 20_000 {
			say(fmt.Sprintf(`{"step":"group","seq":%d,"pid":%d,"gid":0}`, i, i%5000))
			say(`{"step":"unmounted"}`)
			say(`{"step":"opened","missing":["` + long[:1000] + `"]}`)
			if i%100 == 0 {
				say(`{"step":"ended","text":"` + long + `"}`)
				say(`{"step":"start","request":{"source":"/etc/shadow"}}`)
				say(strings.Repeat(`{"path":`, 1000) + "1" + strings.Repeat("}", 1000))
				fmt.Fprintf(os.Stderr, "%s\n", long)
			}
			if r.mode == "flood junk" {
				say("\x00")
			}
		}
		if image, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", r.image.Fd())); err == nil {
			os.WriteFile(image+".flooded", nil, 0o600)
		}
	}()
}

// command runs a part of the test binary as a user does.
type command struct {
	*exec.Cmd
	out bytes.Buffer
}

func part(t *testing.T, wrap []string, name string, args ...string) *command {
	t.Helper()
	args = append([]string{testBinary(t)}, args...)
	args = append(wrap, args...)
	c := &command{Cmd: exec.Command(args[0], args[1:]...)}
	c.Env = append(os.Environ(), "MOUNT_TEST_PART="+name)
	c.Stdout, c.Stderr = &c.out, &c.out
	return c
}

// run expects the exit status and a text in the output.
func (c *command) run(t *testing.T, status int, text string) {
	t.Helper()
	c.Run()
	if got := c.ProcessState.ExitCode(); got != status {
		t.Fatalf("%q: status %d, want %d\n%s", c.Args, got, status, c.out.String())
	}
	if !strings.Contains(c.out.String(), text) {
		t.Fatalf("%q: got %q, want %q in it", c.Args, c.out.String(), text)
	}
}

var binaryPath string

// testBinary is a copy of this binary that every user can run.
func testBinary(t *testing.T) string {
	if binaryPath != "" {
		return binaryPath
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return self
}

// TestLastWord: what the other side said before it ended is heard, though it did not listen
// any more.
func TestLastWord(t *testing.T) {
	ours, theirs, err := newControl()
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(ours.fd)
	if err := ours.send(message{Step: stepConfirmed}); err != nil {
		t.Fatal(err)
	}
	if err := (&control{int(theirs.Fd())}).tell(message{Step: stepEnded}); err != nil {
		t.Fatal(err)
	}
	theirs.Close()
	buf := make([]byte, maxMessage)
	if m, err := ours.hear(buf); err != nil || m.Step != stepEnded {
		t.Errorf("received %+v, %v", m, err)
	}
	if _, err := ours.hear(buf); err != io.EOF {
		t.Errorf("then %v", err)
	}
}

func TestFusermountError(t *testing.T) {
	const program = "/usr/bin/fusermount3"
	for text, want := range map[string]string{
		program + ": user has no write access to mountpoint /x\n": program + ": user has no write access to mountpoint /x; take a directory of your own",
		program + ": could not determine username\n": program + " mounts only for users who have a name, and user " +
			strconv.Itoa(os.Getuid()) + " has none in /etc/passwd; add one, or mount in 'unshare --user --map-root-user --mount'",
		"fusermount3: bad\nfusermount3: worse\n": program + ": bad; worse",
	} {
		if got := fusermountError(program, text, errors.New("exit status 1")).Error(); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestFusermountOptions(t *testing.T) {
	o := Options{Flags: unix.MS_RDONLY | unix.MS_NOSYMFOLLOW, AllowOther: true}
	const want = "fsname=a,subtype=ext4box,default_permissions,ro,nosymfollow,allow_other"
	if got := fusermountOptions("a", &o); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
