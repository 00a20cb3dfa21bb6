package fuseservice

import (
	"bytes"
	"errors"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// The messages as the protocol has them, byte by byte.
var literal = []struct {
	name  string
	bytes string
	made  []byte
}{
	{"HELLO_CMD", "SAFT\x00\x01\x00\x01\x00\x00\x00\x03", hello{1, 1, HelloAllowOther | HelloBlock}.encode()},
	{"HELLO_REPLY", "LAST\x00\x01\x00\x00", encodeHelloReply(1)},
	{"OPEN_REPLY", "FILE\x00\x00\x00\x0dfusedev\x00", encodeOpenReply(unix.EACCES, "fusedev")},
	{"SIMPLE_REPLY", "REPL\x00\x00\x00\x16", encodeSimpleReply(unix.EINVAL)},
	{"OPEN_CMD", "OPEN\x00\x00\x00\x02\x00\x00\x01\xa4\x00\x00\x00\x01\x00\x00\x00\x00/a\x00",
		OpenRequest{Path: "/a", Flags: unix.O_RDWR, Mode: 0o644, Request: OpenQuiet}.encode()},
	{"OPEN_BDEV_CMD", "BDEV\x00\x00\x00\x82\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x10\x00/dev/sda\x00",
		OpenRequest{Path: "/dev/sda", Block: true, Flags: unix.O_RDWR | unix.O_EXCL, BlockSize: 4096}.encode()},
	{"FSOPEN_CMD", "TYPE\x00\x00\x00\x01", encodeNumber(fsopenCmd, fsopenBlock)},
	{"SOURCE_CMD", "NAMEdisk\x00", encodeString(sourceCmd, "disk")},
	{"MNTPT_CMD", "MNTP\x40\x00\x00\x00/mnt\x00", encodeMountPoint("/mnt", unix.S_IFDIR)},
	{"MNTOPTS_CMD", "OPTSallow_other\x00", encodeString(mntoptsCmd, "allow_other")},
	{"MTABOPTS_CMD", "MTABuser=x\x00", encodeString(mtaboptsCmd, "user=x")},
	{"MOUNT_CMD", "DOIT\x00\x00\x00\x06", encodeNumber(mountCmd, unix.MS_NOSUID|unix.MS_NODEV)},
	{"BYE_CMD", "BYEE\x00\x00\x00\x20", encodeNumber(byeCmd, 32)},
}

func TestLiteral(t *testing.T) {
	for _, m := range literal {
		if string(m.made) != m.bytes {
			t.Errorf("%s: %q, want %q", m.name, m.made, m.bytes)
		}
	}
}

func TestSizes(t *testing.T) {
	for name, size := range map[string][2]int{
		"HELLO_CMD":            {helloSize, 12},
		"HELLO_REPLY":          {helloReplySize, 8},
		"head of OPEN_REPLY":   {openReplyHead, 8},
		"SIMPLE_REPLY":         {simpleReplySize, 8},
		"head of OPEN_CMD":     {openHead, 20},
		"FSOPEN_CMD":           {fsopenSize, 8},
		"head of a string":     {stringHead, 4},
		"head of MNTPT_CMD":    {mntptHead, 8},
		"MOUNT_CMD":            {mountSize, 8},
		"BYE_CMD":              {byeSize, 8},
		"head of arguments":    {argsHead, 8},
		"record of arguments":  {argsRecord, 8},
		"buffer of the socket": {minBuffer, 4117},
		"largest command":      {maxMessage, 65536},
	} {
		if size[0] != size[1] {
			t.Errorf("%s: %d bytes, want %d", name, size[0], size[1])
		}
	}
}

func TestDecode(t *testing.T) {
	if h, err := decodeHello([]byte(literal[0].bytes)); err != nil || h != (hello{1, 1, 3}) {
		t.Errorf("HELLO_CMD: %+v, %v", h, err)
	}
	if h, err := decodeHello([]byte("SAFT\x00\x00\xff\xff\x00\x00\x00\x00")); err != nil || h.max != 65535 {
		t.Errorf("versions 0 to 65535: %+v, %v", h, err)
	}
	if err := decodeHelloReply([]byte(literal[1].bytes)); err != nil {
		t.Error(err)
	}
	if errno, path, err := decodeOpenReply([]byte(literal[2].bytes)); errno != unix.EACCES || path != "fusedev" || err != nil {
		t.Errorf("OPEN_REPLY: %v %q %v", errno, path, err)
	}
	if errno, err := decodeSimpleReply([]byte(literal[3].bytes)); errno != unix.EINVAL || err != nil {
		t.Errorf("SIMPLE_REPLY: %v %v", errno, err)
	}
	for i, want := range []command{
		{magic: openCmd, open: OpenRequest{Path: "/a", Flags: 2, Mode: 0o644, Request: OpenQuiet}},
		{magic: openBdevCmd, open: OpenRequest{Path: "/dev/sda", Block: true, Flags: 0x82, BlockSize: 4096}},
		{magic: fsopenCmd, value: 1},
		{magic: sourceCmd, text: "disk"},
		{magic: mntptCmd, value: 0x4000, text: "/mnt"},
		{magic: mntoptsCmd, text: "allow_other"},
		{magic: mtaboptsCmd, text: "user=x"},
		{magic: mountCmd, value: 6},
		{magic: byeCmd, value: 32},
	} {
		m := literal[4+i]
		if got, err := decodeCommand([]byte(m.bytes)); err != nil || got != want {
			t.Errorf("%s: %+v, %v", m.name, got, err)
		}
	}
}

// TestMalformed has what must not be taken for a message, and the errno it is refused with.
func TestMalformed(t *testing.T) {
	long := strings.Repeat("x", 4096)
	hello := func(b []byte) error { _, err := decodeHello(b); return err }
	reply := func(b []byte) error { _, _, err := decodeOpenReply(b); return err }
	simple := func(b []byte) error { _, err := decodeSimpleReply(b); return err }
	cmd := func(b []byte) error { _, err := decodeCommand(b); return err }
	for _, c := range []struct {
		name   string
		decode func([]byte) error
		bytes  string
		errno  syscall.Errno
	}{
		{"a greeting of 8 bytes, as drafts have it", hello, "SAFT\x00\x01\x00\x01", unix.EBADMSG},
		{"a long greeting", hello, literal[0].bytes + "\x00", unix.EBADMSG},
		{"another greeting", hello, "TFAS\x00\x01\x00\x01\x00\x00\x00\x00", unix.EBADMSG},
		{"versions the wrong way round", hello, "SAFT\x00\x02\x00\x01\x00\x00\x00\x00", unix.EBADMSG},
		{"later versions", hello, "SAFT\x00\x02\x00\x03\x00\x00\x00\x00", unix.EOPNOTSUPP},
		{"version 0", hello, "SAFT\x00\x00\x00\x00\x00\x00\x00\x00", unix.EOPNOTSUPP},
		{"an unknown flag", hello, "SAFT\x00\x01\x00\x01\x00\x00\x00\x04", unix.EBADMSG},
		{"another version chosen", decodeHelloReply, "LAST\x00\x02\x00\x00", unix.EOPNOTSUPP},
		{"padding", decodeHelloReply, "LAST\x00\x01\x00\x01", unix.EBADMSG},
		{"a short choice", decodeHelloReply, "LAST\x00\x01", unix.EBADMSG},
		{"an answer without a path", reply, "FILE\x00\x00\x00\x00", unix.EBADMSG},
		{"a path without an end", reply, "FILE\x00\x00\x00\x00argv", unix.EBADMSG},
		{"a path with a zero byte", reply, "FILE\x00\x00\x00\x00ar\x00gv\x00", unix.EBADMSG},
		{"a large errno", reply, "FILE\x00\x00\x10\x00argv\x00", unix.EBADMSG},
		{"a negative errno", simple, "REPL\xff\xff\xff\xff", unix.EBADMSG},
		{"a short answer", simple, "REPL\x00\x00\x00", unix.EBADMSG},
		{"a long answer", simple, "REPL\x00\x00\x00\x00\x00", unix.EBADMSG},
		{"three bytes", cmd, "BYE", unix.EBADMSG},
		{"an unknown command", cmd, "IOMA\x50\x3f\x00\x00", unix.EBADMSG},
		{"a short OPEN", cmd, literal[4].bytes[:19], unix.EBADMSG},
		{"an OPEN without a path", cmd, literal[4].bytes[:20], unix.EBADMSG},
		{"an OPEN with an empty path", cmd, literal[4].bytes[:20] + "\x00", unix.EBADMSG},
		{"an OPEN with half a path", cmd, literal[4].bytes[:20] + "/a", unix.EBADMSG},
		{"an OPEN with two paths", cmd, literal[4].bytes + "/b\x00", unix.EBADMSG},
		{"an OPEN with a long path", cmd, literal[4].bytes[:20] + long + "\x00", unix.EBADMSG},
		{"an OPEN with an unknown flag", cmd, "OPEN\x00\x00\x00\x02\x00\x00\x00\x00\x00\x00\x00\x02\x00\x00\x00\x00/a\x00", unix.EBADMSG},
		{"a block size for a file", cmd, "OPEN\x00\x00\x00\x02\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x10\x00/a\x00", unix.EBADMSG},
		{"an FSOPEN with an unknown flag", cmd, "TYPE\x00\x00\x00\x02", unix.EBADMSG},
		{"a long FSOPEN", cmd, "TYPE\x00\x00\x00\x00\x00", unix.EBADMSG},
		{"no source", cmd, "NAME", unix.EBADMSG},
		{"an empty source", cmd, "NAME\x00", unix.EBADMSG},
		{"a source without an end", cmd, "NAMEdisk", unix.EBADMSG},
		{"options with a zero byte", cmd, "OPTSro\x00,dev\x00", unix.EBADMSG},
		{"a mount point without padding", cmd, "MNTP\x40\x00\x00", unix.EBADMSG},
		{"a mount point with padding", cmd, "MNTP\x40\x00\x00\x01/mnt\x00", unix.EBADMSG},
		{"a device as mount point", cmd, "MNTP\x60\x00\x00\x00/mnt\x00", unix.EBADMSG},
		{"a short MOUNT", cmd, "DOIT\x00\x00\x06", unix.EBADMSG},
		{"a BYE without a code", cmd, "BYEE", unix.EBADMSG},
	} {
		if err := c.decode([]byte(c.bytes)); !errors.Is(err, c.errno) {
			t.Errorf("%s: %v, want %v", c.name, err, c.errno)
		}
	}
}

// The file of a helper that leaves room for as many records as it has arguments of its own.
const argsLiteral = "ARGS\x00\x00\x00\x03" +
	"\x00\x00\x00\x28\x00\x00\x00\x08" + "\x00\x00\x00\x30\x00\x00\x00\x05" + "\x00\x00\x00\x35\x00\x00\x00\x01" +
	"\x00\x00\x00\x00\x00\x00\x00\x00" +
	"ext4box\x00" + "/img\x00" + "\x00"

func TestArgs(t *testing.T) {
	args, err := decodeArgs([]byte(argsLiteral))
	if err != nil || len(args) != 3 || args[0] != "ext4box" || args[1] != "/img" || args[2] != "" {
		t.Errorf("%q, %v", args, err)
	}
	made, err := encodeArgs([]string{"ext4box", "a"})
	want := "ARGS\x00\x00\x00\x02\x00\x00\x00\x18\x00\x00\x00\x08\x00\x00\x00\x20\x00\x00\x00\x02ext4box\x00a\x00"
	if err != nil || string(made) != want {
		t.Errorf("%q, %v", made, err)
	}
	change := func(pos int, s string) string { return argsLiteral[:pos] + s + argsLiteral[pos+len(s):] }
	for name, b := range map[string]string{
		"nothing":                 "",
		"a head":                  "ARGS\x00\x00",
		"another file":            change(0, "\x7fELF"),
		"no arguments":            change(4, "\x00\x00\x00\x00"),
		"more than records":       change(4, "\x00\x00\x00\x09"),
		"very many arguments":     change(4, "\xff\xff\xff\xff"),
		"a string behind the end": change(8, "\x00\x00\x00\x30"),
		"a string far away":       change(8, "\xff\xff\xff\xf8"),
		"a string in the records": change(8, "\x00\x00\x00\x08"),
		"a string without length": change(12, "\x00\x00\x00\x00"),
		"a string without an end": change(12, "\x00\x00\x00\x04"),
		"two strings in one":      change(12, "\x00\x00\x00\x0d"),
		"one string for all":      "ARGS\x00\x00\x00\x02\x00\x00\x00\x18\x00\x00\x00\x18\x00\x00\x00\x18\x00\x00\x00\x18" + strings.Repeat("x", 23) + "\x00",
	} {
		if args, err := decodeArgs([]byte(b)); err == nil {
			t.Errorf("%s: %q", name, args)
		}
	}
	if _, err := encodeArgs([]string{"a\x00b"}); err == nil {
		t.Error("an argument with a zero byte was taken")
	}
	if _, err := encodeArgs([]string{strings.Repeat("x", maxArgsSize)}); err == nil {
		t.Error("a very long argument was taken")
	}
}

// FuzzMessages: what is taken is what would be sent.
func FuzzMessages(f *testing.F) {
	for _, m := range literal {
		f.Add([]byte(m.bytes))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if h, err := decodeHello(b); err == nil && !bytes.Equal(h.encode(), b) {
			t.Errorf("HELLO_CMD %q", b)
		}
		if err := decodeHelloReply(b); err == nil && !bytes.Equal(encodeHelloReply(1), b) {
			t.Errorf("HELLO_REPLY %q", b)
		}
		if errno, path, err := decodeOpenReply(b); err == nil && !bytes.Equal(encodeOpenReply(errno, path), b) {
			t.Errorf("OPEN_REPLY %q", b)
		}
		if errno, err := decodeSimpleReply(b); err == nil && !bytes.Equal(encodeSimpleReply(errno), b) {
			t.Errorf("SIMPLE_REPLY %q", b)
		}
		c, err := decodeCommand(b)
		if err != nil {
			return
		}
		var again []byte
		switch c.magic {
		case openCmd, openBdevCmd:
			again = c.open.encode()
		case fsopenCmd, mountCmd, byeCmd:
			again = encodeNumber(c.magic, c.value)
		case mntptCmd:
			again = encodeMountPoint(c.text, uint16(c.value))
		default:
			again = encodeString(c.magic, c.text)
		}
		if !bytes.Equal(again, b) {
			t.Errorf("%q was taken for %q", b, again)
		}
	})
}

// FuzzArgs: what is taken is not larger than the file it was in.
func FuzzArgs(f *testing.F) {
	f.Add([]byte(argsLiteral))
	f.Fuzz(func(t *testing.T, b []byte) {
		args, err := decodeArgs(b)
		if err != nil {
			return
		}
		n := 0
		for _, a := range args {
			n += len(a) + 1
		}
		if n > len(b) {
			t.Errorf("%d bytes of arguments in %d", n, len(b))
		}
		made, err := encodeArgs(args)
		if err != nil {
			return // too long
		}
		if again, err := decodeArgs(made); err != nil || len(again) != len(args) {
			t.Errorf("%q became %q, %v", args, again, err)
		}
	})
}
