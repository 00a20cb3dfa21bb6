package fuseservice

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// peer is the other end of a conversation, which speaks bytes.
type peer struct {
	t  *testing.T
	fd int
}

// pair makes a peer and the socket to it.
func pair(t *testing.T) (*peer, *os.File) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	tv := unix.NsecToTimeval(int64(time.Minute))
	if err := unix.SetsockoptTimeval(fds[0], unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv); err != nil {
		t.Fatal(err)
	}
	p := &peer{t, fds[0]}
	t.Cleanup(p.hangUp)
	f := os.NewFile(uintptr(fds[1]), "socket")
	t.Cleanup(func() { f.Close() })
	return p, f
}

func (p *peer) hangUp() {
	if p.fd >= 0 {
		unix.Close(p.fd)
	}
	p.fd = -1
}

func (p *peer) say(message string, fds ...int) {
	var oob []byte
	if len(fds) > 0 {
		oob = unix.UnixRights(fds...)
	}
	if err := unix.Sendmsg(p.fd, []byte(message), oob, nil, unix.MSG_NOSIGNAL); err != nil {
		p.t.Errorf("send %q: %v", message, err)
	}
}

// hear expects a message, and returns the descriptors that came with it.
func (p *peer) hear(want string) []int {
	b, oob := make([]byte, 1<<17), make([]byte, 1024)
	n, oobn, _, _, err := unix.Recvmsg(p.fd, b, oob, unix.MSG_CMSG_CLOEXEC)
	for err == unix.EINTR {
		n, oobn, _, _, err = unix.Recvmsg(p.fd, b, oob, unix.MSG_CMSG_CLOEXEC)
	}
	if err != nil || string(b[:n]) != want {
		p.t.Errorf("heard %q, %v, want %q", b[:max(n, 0)], err, want)
		return nil
	}
	messages, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil {
		p.t.Error(err)
	}
	var fds []int
	for i := range messages {
		got, err := unix.ParseUnixRights(&messages[i])
		if err != nil {
			p.t.Error(err)
		}
		fds = append(fds, got...)
	}
	p.t.Cleanup(func() {
		for _, fd := range fds {
			unix.Close(fd)
		}
	})
	return fds
}

// ends expects the end of the conversation.
func (p *peer) ends() {
	b := make([]byte, 1<<17)
	n, _, _, _, err := unix.Recvmsg(p.fd, b, nil, 0)
	for err == unix.EINTR {
		n, _, _, _, err = unix.Recvmsg(p.fd, b, nil, 0)
	}
	if n > 0 || err != nil && !errors.Is(err, unix.ECONNRESET) {
		p.t.Errorf("heard %q, %v instead of nothing", b[:max(n, 0)], err)
	}
}

// memory is a file in memory.
func memory(t *testing.T, content string) int {
	t.Helper()
	fd, err := unix.MemfdCreate("test", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if _, err := unix.Write(fd, []byte(content)); err != nil {
		t.Fatal(err)
	}
	return fd
}

func device(t *testing.T, path string) int {
	t.Helper()
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Skipf("needs %s: %v", path, err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}

// openFiles counts the descriptors of this process.
func openFiles(t *testing.T) int {
	t.Helper()
	d, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(d)
}

const helloLiteral = "SAFT\x00\x01\x00\x01\x00\x00\x00\x01"

// greet is what a helper says first.
func (p *peer) greet(dev int) {
	p.say(helloLiteral)
	p.hear("LAST\x00\x01\x00\x00")
	p.say("FILE\x00\x00\x00\x00argv\x00", memory(p.t, argsLiteral))
	p.say("FILE\x00\x00\x00\x00fusedev\x00", dev)
}

// TestServer is a whole conversation, of a server with bytes.
func TestServer(t *testing.T) {
	p, f := pair(t)
	s, err := NewServer(f)
	if err != nil {
		t.Fatal(err)
	}
	dev, file := device(t, "/dev/fuse"), memory(t, "image")
	done := make(chan struct{})
	go func() {
		defer close(done)
		p.greet(dev)
		p.hear("BDEV\x00\x00\x00\x82\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00/img\x00")
		p.say("FILE\x00\x00\x00\x0f/img\x00")
		p.hear("OPEN\x00\x00\x00\x02\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00/img\x00")
		p.say("FILE\x00\x00\x00\x00/img\x00", file)
		for _, cmd := range []string{"TYPE\x00\x00\x00\x00", "NAME/img\x00", "MNTP\x40\x00\x00\x00/mnt\x00",
			"OPTSdefault_permissions\x00", "MTABuser=x\x00"} {
			p.hear(cmd)
			p.say("REPL\x00\x00\x00\x00")
		}
		p.hear("DOIT\x00\x00\x00\x06")
		p.say("REPL\x00\x00\x00\x10")
		p.hear("DOIT\x00\x00\x00\x07")
		p.say("REPL\x00\x00\x00\x00")
		p.hear("BYEE\x00\x00\x00\x00")
		p.ends()
	}()
	check := func(err, want error) {
		t.Helper()
		if !errors.Is(err, want) {
			t.Errorf("%v, want %v", err, want)
		}
	}
	check(s.Greet(), nil)
	if s.Flags != HelloAllowOther || !slices.Equal(s.Args, []string{"ext4box", "/img", ""}) || s.Fuse == nil {
		t.Fatalf("%+v", s)
	}
	defer s.Fuse.Close()
	_, err = s.Open(OpenRequest{Path: "/img", Block: true, Flags: unix.O_RDWR | unix.O_EXCL, Request: OpenQuiet})
	check(err, unix.ENOTBLK)
	got, err := s.Open(OpenRequest{Path: "/img", Flags: unix.O_RDWR})
	check(err, nil)
	b := make([]byte, 10)
	if n, _ := got.ReadAt(b, 0); string(b[:n]) != "image" {
		t.Errorf("the file has %q", b[:n])
	}
	if flags, _ := unix.FcntlInt(got.Fd(), unix.F_GETFD, 0); flags&unix.FD_CLOEXEC == 0 {
		t.Error("a received file is inherited")
	}
	got.Close()
	check(s.RefuseFiles(), nil)
	if err := unix.Sendmsg(p.fd, []byte("x"), unix.UnixRights(file), nil, 0); err != nil {
		t.Logf("a descriptor sent then: %v", err) // Linux 6.16
	} else {
		t.Log("this kernel cannot refuse descriptors")
		s.conn.receive()
	}
	check(s.FSOpen(false), nil)
	check(s.Source("/img"), nil)
	check(s.MountPoint("/mnt", unix.S_IFDIR), nil)
	check(s.Options("default_permissions"), nil)
	check(s.TableOptions("user=x"), nil)
	var refusal *Refusal
	if err := s.Mount(unix.MS_NOSUID | unix.MS_NODEV); !errors.As(err, &refusal) || refusal.Errno != unix.EBUSY {
		t.Errorf("a refused mount: %v", err)
	}
	check(s.Mount(unix.MS_NOSUID|unix.MS_NODEV|unix.MS_RDONLY), nil)
	check(s.Bye(0), nil)
	<-done
}

// TestServerErrors has helpers that do it wrong. The server ends, and leaves nothing open.
func TestServerErrors(t *testing.T) {
	dev := device(t, "/dev/fuse")
	open := func(s *Server) error {
		f, err := s.Open(OpenRequest{Path: "/img", Block: true})
		if f != nil {
			f.Close()
		}
		return err
	}
	source := func(s *Server) error { return s.Source("/img") }
	mount := func(s *Server) error { return s.Mount(0) }
	reply := func(message string, fds ...int) func(*peer) {
		return func(p *peer) {
			p.greet(dev)
			p.say(message, fds...)
		}
	}
	for _, c := range []struct {
		name   string
		helper func(*peer)
		server func(*Server) error // after the greeting; nil: it fails there
		want   error
	}{
		{"no helper", func(p *peer) { p.hangUp() }, nil, io.EOF},
		{"another version", func(p *peer) { p.say("SAFT\x00\x02\x00\x02\x00\x00\x00\x00"); p.ends() }, nil, unix.EOPNOTSUPP},
		{"an unknown flag", func(p *peer) { p.say("SAFT\x00\x01\x00\x01\x80\x00\x00\x00"); p.ends() }, nil, unix.EBADMSG},
		{"a draft's greeting", func(p *peer) { p.say("SAFT\x00\x01\x00\x01"); p.ends() }, nil, unix.EBADMSG},
		{"a greeting with a descriptor", func(p *peer) { p.say(helloLiteral, dev); p.ends() }, nil, unix.EBADMSG},
		{"a silent helper", func(p *peer) {}, nil, unix.ETIMEDOUT},
		{"nothing after the greeting", func(p *peer) { p.say(helloLiteral) }, nil, unix.ETIMEDOUT},
		{"no arguments", func(p *peer) { p.say(helloLiteral); p.say("FILE\x00\x00\x00\x00argv\x00") }, nil, unix.EBADMSG},
		{"an error instead of arguments", func(p *peer) { p.say(helloLiteral); p.say("FILE\x00\x00\x00\x17argv\x00") }, nil, unix.ENFILE},
		{"files the other way round", func(p *peer) { p.say(helloLiteral); p.say("FILE\x00\x00\x00\x00fusedev\x00", dev) }, nil, unix.EBADMSG},
		{"arguments that are none", func(p *peer) { p.say(helloLiteral); p.say("FILE\x00\x00\x00\x00argv\x00", memory(p.t, "ARGS")) }, nil, unix.EBADMSG},
		{"arguments in a pipe", func(p *peer) {
			var fds [2]int
			if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
				p.t.Fatal(err)
			}
			p.say(helloLiteral)
			p.say("FILE\x00\x00\x00\x00argv\x00", fds[0])
			unix.Close(fds[0])
			unix.Close(fds[1])
		}, nil, unix.EBADMSG},
		{"arguments in a file on a disk", func(p *peer) {
			self, err := os.Open("/proc/self/status")
			if err != nil {
				p.t.Fatal(err)
			}
			defer self.Close()
			p.say(helloLiteral)
			p.say("FILE\x00\x00\x00\x00argv\x00", int(self.Fd()))
		}, nil, unix.EBADMSG},
		{"another device", func(p *peer) {
			p.say(helloLiteral)
			p.say("FILE\x00\x00\x00\x00argv\x00", memory(p.t, argsLiteral))
			p.say("FILE\x00\x00\x00\x00fusedev\x00", device(p.t, "/dev/null"))
		}, nil, unix.EBADMSG},
		{"another path", reply("FILE\x00\x00\x00\x00/other\x00", dev), open, unix.EBADMSG},
		{"a question mark", reply("FILE\x00\x00\x00\x16?\x00"), open, unix.EBADMSG},
		{"no such file", reply("FILE\x00\x00\x00\x02/img\x00"), open, unix.ENOENT},
		{"an error with a descriptor", reply("FILE\x00\x00\x00\x02/img\x00", dev), open, unix.EBADMSG},
		{"no descriptor", reply("FILE\x00\x00\x00\x00/img\x00"), open, unix.EBADMSG},
		{"two descriptors", reply("FILE\x00\x00\x00\x00/img\x00", dev, dev), open, unix.EBADMSG},
		{"very many descriptors", reply("FILE\x00\x00\x00\x00/img\x00", slices.Repeat([]int{dev}, 200)...), open, unix.EBADMSG},
		{"a character device", reply("FILE\x00\x00\x00\x00/img\x00", dev), open, unix.EBADMSG},
		{"a long message", reply("FILE\x00\x00\x00\x00" + strings.Repeat("x", 65536) + "\x00"), open, unix.EBADMSG},
		{"an answer to something else", reply("FILE\x00\x00\x00\x00/img\x00"), source, unix.EBADMSG},
		{"an answer with a descriptor", reply("REPL\x00\x00\x00\x00", dev), source, unix.EBADMSG},
		{"a long answer", reply("REPL\x00\x00\x00\x00\x00"), source, unix.EBADMSG},
		{"a refusal", reply("REPL\x00\x00\x00\x01"), source, unix.EPERM},
		{"no answer", func(p *peer) { p.greet(dev) }, source, unix.ETIMEDOUT},
		{"a helper that is gone", func(p *peer) { p.greet(dev); p.hangUp() }, source, io.EOF},
		{"a helper that dies while mounting", func(p *peer) {
			p.greet(dev)
			p.hear("DOIT\x00\x00\x00\x00")
			p.hangUp()
		}, mount, ErrLost},
		{"a helper that dies before it has read that it is to mount", func(p *peer) { p.greet(dev); p.hangUp() }, mount, ErrLost},
		{"a mount that fails", reply("REPL\x00\x00\x00\x01"), mount, unix.EPERM},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := 0
			p, f := pair(t)
			s, err := NewServer(f)
			if err != nil {
				t.Fatal(err)
			}
			silent := c.want == unix.ETIMEDOUT
			if silent {
				s.conn.patience(20 * time.Millisecond)
			}
			done := make(chan struct{})
			go func() {
				defer close(done)
				p.t = t
				c.helper(p)
			}()
			err = s.Greet()
			if c.server != nil {
				if err != nil {
					t.Fatal(err)
				}
				before = openFiles(t)
				if !silent && c.want != ErrLost {
					<-done
					before = openFiles(t)
				}
				err = c.server(s)
				if n := openFiles(t); n > before {
					t.Errorf("%d descriptors, and %d before", n, before)
				}
			}
			if !errors.Is(err, c.want) {
				t.Errorf("%v, want %v", err, c.want)
			}
			if c.name == "very many descriptors" && !strings.Contains(err.Error(), "taken away") {
				t.Errorf("%v", err)
			}
			if err != nil && !strings.HasPrefix(err.Error(), "the mount helper") {
				t.Errorf("%q does not say who", err)
			}
			s.Close()
			<-done
			if s.Fuse != nil {
				s.Fuse.Close()
			}
		})
	}
}

// executor notes what it is asked for, and refuses what is in fails.
type executor struct {
	log   []string
	fails map[string]syscall.Errno
	file  string
}

func (e *executor) note(format string, a ...any) error {
	s := fmt.Sprintf(format, a...)
	e.log = append(e.log, s)
	if errno := e.fails[s]; errno != 0 {
		delete(e.fails, s) // once
		return errno
	}
	return nil
}

func (e *executor) Open(r OpenRequest) (*os.File, error) {
	if err := e.note("open %s %v %#x", r.Path, r.Block, r.Flags); err != nil {
		return nil, err
	}
	return os.Open(e.file)
}
func (e *executor) FSOpen(block bool) error { return e.note("fsopen %v", block) }
func (e *executor) Source(name string) error {
	return e.note("source %s", name)
}
func (e *executor) MountPoint(path string, format uint16) error {
	return e.note("on %s %#x", path, format)
}
func (e *executor) Options(list string) error      { return e.note("options %s", list) }
func (e *executor) TableOptions(list string) error { return e.note("table %s", list) }
func (e *executor) Mount(flags uint32) error       { return e.note("mount %#x", flags) }

// TestHelper is a whole conversation of a helper with bytes, with everything that a server
// may do wrong and go on.
func TestHelper(t *testing.T) {
	p, f := pair(t)
	h, err := NewHelper(f)
	if err != nil {
		t.Fatal(err)
	}
	dev := os.NewFile(uintptr(device(t, "/dev/null")), "null")
	done := make(chan struct{})
	ask := func(cmd, answer string) []int { p.say(cmd); return p.hear(answer) }
	const ok, invalid = "REPL\x00\x00\x00\x00", "REPL\x00\x00\x00\x16"
	go func() {
		defer close(done)
		p.hear("SAFT\x00\x01\x00\x01\x00\x00\x00\x02")
		p.say("LAST\x00\x01\x00\x00")
		if fds := p.hear("FILE\x00\x00\x00\x00argv\x00"); len(fds) == 1 {
			b := make([]byte, 4096)
			n, _ := unix.Pread(fds[0], b, 0)
			if want := "ARGS\x00\x00\x00\x02\x00\x00\x00\x18\x00\x00\x00\x08\x00\x00\x00\x20\x00\x00\x00\x02ext4box\x00a\x00"; string(b[:n]) != want {
				t.Errorf("the arguments are %q", b[:n])
			}
			if _, err := unix.Pwrite(fds[0], b[:1], 0); err == nil {
				t.Error("the arguments can be changed")
			}
		} else {
			t.Errorf("%d descriptors", len(fds))
		}
		if fds := p.hear("FILE\x00\x00\x00\x00fusedev\x00"); len(fds) != 1 {
			t.Errorf("%d descriptors", len(fds))
		}
		ask("BDEV\x00\x00\x00\x82\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00/img\x00", "FILE\x00\x00\x00\x0f/img\x00")
		if fds := ask("OPEN\x00\x00\x00\x02\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00/img\x00", "FILE\x00\x00\x00\x00/img\x00"); len(fds) != 1 {
			t.Errorf("%d descriptors", len(fds))
		}
		ask("OPEN\x00\x00\x00\x02\x00\x00\x00\x00\x00\x00\x00\x02\x00\x00\x00\x00/img\x00", "FILE\x00\x00\x00\x16?\x00")
		ask("OPEN", "FILE\x00\x00\x00\x16?\x00")
		ask("DOIT\x00\x00\x00\x06", invalid) // too early
		ask("TYPE\x00\x00\x00\x02", invalid)
		ask("TYPE\x00\x00\x00\x01", "REPL\x00\x00\x00\x01")
		ask("TYPE\x00\x00\x00\x00", ok)
		ask("TYPE\x00\x00\x00\x00", invalid) // again
		ask("NAME\x00", invalid)
		ask("NAME/img\x00", ok)
		ask("NAME/img\x00", invalid)
		ask("DOIT\x00\x00\x00\x06", invalid) // nowhere
		ask("MNTP\x40\x00\x00\x00/mnt\x00", ok)
		ask("MNTP\x40\x00\x00\x00/mnt\x00", invalid)
		ask("OPTSmax_read=4096\x00", ok)
		ask("OPTSallow_other\x00", invalid)
		ask("MTABuser=x\x00", ok)
		ask("MTABuser=x\x00", invalid)
		ask("DOIT\x00\x00\x00\x06", "REPL\x00\x00\x00\x10")
		ask("DOIT\x00\x00\x00\x06", ok)
		ask("DOIT\x00\x00\x00\x06", invalid)
		ask("OPEN\x00\x00\x00\x02\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00/img\x00", "FILE\x00\x00\x00\x16/img\x00")
		p.say("BYEE\x00\x00\x00\x00")
	}()
	if err := h.Greet(HelloBlock, []string{"ext4box", "a"}, dev); err != nil {
		t.Fatal(err)
	}
	e := &executor{file: os.DevNull, fails: map[string]syscall.Errno{
		"open /img true 0x82": unix.ENOTBLK, "fsopen true": unix.EPERM, "mount 0x6": unix.EBUSY,
	}}
	code, err := h.Run(e)
	if code != 0 || err != nil {
		t.Errorf("%d, %v", code, err)
	}
	<-done
	want := []string{"open /img true 0x82", "open /img false 0x2", "fsopen true", "fsopen false", "source /img",
		"on /mnt 0x4000", "options max_read=4096", "table user=x", "mount 0x6", "mount 0x6"}
	if !slices.Equal(e.log, want) {
		t.Errorf("executed\n%q\nwant\n%q", e.log, want)
	}
	h.Close()
}

// TestHelperErrors has servers that end the conversation.
func TestHelperErrors(t *testing.T) {
	for _, c := range []struct {
		name   string
		server func(*peer)
		code   uint32
		want   string // in the error
	}{
		{"a server that fails", func(p *peer) { p.say("BYEE\x00\x00\x00\x20") }, 32, ""},
		{"a server that goes on after the mount", func(p *peer) {
			for _, cmd := range []string{"NAME/img\x00", "MNTP\x00\x00\x00\x00/mnt\x00", "DOIT\x00\x00\x00\x00"} {
				p.say(cmd)
				p.hear("REPL\x00\x00\x00\x00")
			}
			p.say("OPTSallow_other\x00")
			p.hear("REPL\x00\x00\x00\x16")
			p.say("BYEE\x00\x00\x00\x00")
		}, 0, ""},
		{"a server that dies", func(p *peer) { p.hangUp() }, 0, "the server ended without saying goodbye"},
		{"a server that dies without having read", func(p *peer) {
			p.say("NAME/img\x00")
			time.Sleep(10 * time.Millisecond) // the answer may or may not be there
			p.hangUp()
		}, 0, "the server ended without saying goodbye"},
		{"an unknown command", func(p *peer) { p.say("IOMA\x50\x3f\x00\x00"); p.ends() }, 0, "an unknown message"},
		{"half a command", func(p *peer) { p.say("OP"); p.ends() }, 0, "2 bytes"},
		{"a goodbye that is none", func(p *peer) { p.say("BYEE\x00"); p.ends() }, 0, "5 bytes"},
		{"a long command", func(p *peer) { p.say("NAME" + strings.Repeat("x", 65536) + "\x00"); p.ends() }, 0, "more than 65536 bytes"},
		{"a silent server", func(p *peer) {}, 0, "it does not answer"},
		{"a server without an end", func(p *peer) {
			for range maxCommands {
				p.say("NAME\x00")
				p.hear("REPL\x00\x00\x00\x16")
			}
			p.ends()
		}, 0, "more than 1000 commands"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, f := pair(t)
			p.t = t
			h, err := NewHelper(f)
			if err != nil {
				t.Fatal(err)
			}
			silence = 10 * time.Minute
			if strings.Contains(c.name, "silent") {
				silence = 20 * time.Millisecond
			}
			defer func() { silence = 10 * time.Minute }()
			done := make(chan struct{})
			go func() {
				defer close(done)
				c.server(p)
			}()
			code, err := h.Run(new(executor))
			h.Close()
			<-done
			switch {
			case code != c.code:
				t.Errorf("code %d, want %d", code, c.code)
			case (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want):
				t.Errorf("%v, want %q", err, c.want)
			}
		})
	}
}

// TestHelperGreeting has servers that do not get as far as commands.
func TestHelperGreeting(t *testing.T) {
	dev := os.NewFile(uintptr(device(t, "/dev/null")), "null")
	for reply, want := range map[string]string{
		"LAST\x00\x02\x00\x00": "version 2",
		"LAST\x00\x01\x00\x01": "none of the protocol",
		"LAST\x00\x01":         "none of the protocol",
		"":                     "without saying goodbye",
	} {
		p, f := pair(t)
		h, err := NewHelper(f)
		if err != nil {
			t.Fatal(err)
		}
		if reply != "" {
			p.say(reply)
		} else {
			p.hangUp()
		}
		if err := h.Greet(0, []string{"x"}, dev); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", reply, err, want)
		}
		h.Close()
	}
}

// TestHelperTakesNoFiles: a server has nothing to give.
func TestHelperTakesNoFiles(t *testing.T) {
	p, f := pair(t)
	h, err := NewHelper(f)
	if err != nil {
		t.Fatal(err)
	}
	err = unix.Sendmsg(p.fd, []byte("NAME/img\x00"), unix.UnixRights(memory(t, "")), nil, 0)
	if err != nil {
		t.Logf("it cannot send any: %v", err) // Linux 6.16
		// As it is before that.
		if err := unix.SetsockoptInt(int(f.Fd()), unix.SOL_SOCKET, unix.SO_PASSRIGHTS, 1); err != nil {
			t.Fatal(err)
		}
		p.say("NAME/img\x00", memory(t, ""))
	}
	before := openFiles(t)
	if _, err := h.Run(new(executor)); !errors.Is(err, unix.EBADMSG) {
		t.Errorf("%v", err)
	}
	if n := openFiles(t); n > before {
		t.Errorf("%d descriptors, and %d before", n, before)
	}
	h.Close()
}

func TestSockets(t *testing.T) {
	dir := t.TempDir()
	for path, want := range map[string]error{
		dir + "/none":                     ErrNoService,
		dir + strings.Repeat("/long", 30): nil,
		"/etc/passwd":                     ErrNoService, // ECONNREFUSED: it is no socket
	} {
		if _, err := Dial(path); err == nil || want != nil && !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", path, err, want)
		}
	}
	for name, typ := range map[string]int{"a stream": unix.SOCK_STREAM, "datagrams": unix.SOCK_DGRAM} {
		fds, err := unix.Socketpair(unix.AF_UNIX, typ|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := NewServer(os.NewFile(uintptr(fds[0]), "")); !errors.Is(err, unix.EPROTOTYPE) {
			t.Errorf("%s: %v", name, err)
		}
		unix.Close(fds[1])
	}
}
