package fuseservice

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"syscall"

	"golang.org/x/sys/unix"
)

// Version is the only version of the protocol that there is.
const Version = 1

// magic begins each message: four letters.
type magic uint32

const (
	helloCmd    magic = 0x53414654 // SAFT
	helloReply  magic = 0x4C415354 // LAST
	openReply   magic = 0x46494C45 // FILE
	simpleReply magic = 0x5245504C // REPL
	openCmd     magic = 0x4F50454E // OPEN
	openBdevCmd magic = 0x42444556 // BDEV
	fsopenCmd   magic = 0x54595045 // TYPE
	sourceCmd   magic = 0x4E414D45 // NAME
	mntptCmd    magic = 0x4D4E5450 // MNTP
	mntoptsCmd  magic = 0x4F505453 // OPTS
	mtaboptsCmd magic = 0x4D544142 // MTAB
	mountCmd    magic = 0x444F4954 // DOIT
	byeCmd      magic = 0x42594545 // BYEE
	argsFile    magic = 0x41524753 // ARGS, in a file
)

// Sizes of messages in bytes: all of it, or of what stands before a string.
const (
	helloSize       = 12
	helloReplySize  = 8
	openReplyHead   = 8
	simpleReplySize = 8
	openHead        = 20
	fsopenSize      = 8
	stringHead      = 4
	mntptHead       = 8
	mountSize       = 8
	byeSize         = 8

	minMessage = 4
	maxMessage = 65536
	maxErrno   = 4095
)

// HelloFlags say what the helper would do for the server.
type HelloFlags uint32

const (
	HelloAllowOther HelloFlags = 1 << 0 // accept allow_other
	HelloBlock      HelloFlags = 1 << 1 // mount with the type fuseblk

	helloFlags = HelloAllowOther | HelloBlock
)

// hello is HELLO_CMD.
type hello struct {
	min, max uint16 // 0x04, 0x06: versions
	flags    HelloFlags
}

func (h hello) encode() []byte {
	b := start(helloCmd, helloSize)
	b = binary.BigEndian.AppendUint16(b, h.min)
	b = binary.BigEndian.AppendUint16(b, h.max)
	return binary.BigEndian.AppendUint32(b, uint32(h.flags))
}

func decodeHello(b []byte) (hello, error) {
	if err := check(b, helloCmd, helloSize); err != nil {
		return hello{}, err
	}
	h := hello{binary.BigEndian.Uint16(b[4:]), binary.BigEndian.Uint16(b[6:]), HelloFlags(binary.BigEndian.Uint32(b[8:]))}
	switch {
	case h.min > h.max:
		return h, malformedf("versions from %d to %d", h.min, h.max)
	case h.min > Version || h.max < Version:
		return h, &Error{fmt.Sprintf("it speaks the versions %d to %d of the protocol, and this program only %d", h.min, h.max, Version), unix.EOPNOTSUPP}
	case h.flags&^helloFlags != 0:
		return h, malformedf("unknown flags %#x", uint32(h.flags&^helloFlags))
	}
	return h, nil
}

func encodeHelloReply(version uint16) []byte {
	b := start(helloReply, helloReplySize)
	b = binary.BigEndian.AppendUint16(b, version)
	return binary.BigEndian.AppendUint16(b, 0)
}

func decodeHelloReply(b []byte) error {
	if err := check(b, helloReply, helloReplySize); err != nil {
		return err
	}
	if v := binary.BigEndian.Uint16(b[4:]); v != Version {
		return &Error{fmt.Sprintf("it chose version %d of the protocol, and this program speaks only %d", v, Version), unix.EOPNOTSUPP}
	}
	if pad := binary.BigEndian.Uint16(b[6:]); pad != 0 {
		return malformedf("%#x where there should be nothing", pad)
	}
	return nil
}

func encodeOpenReply(errno syscall.Errno, path string) []byte {
	b := start(openReply, openReplyHead+len(path)+1)
	b = binary.BigEndian.AppendUint32(b, uint32(errno))
	return text(b, path)
}

func decodeOpenReply(b []byte) (syscall.Errno, string, error) {
	if err := checkHead(b, openReply, openReplyHead); err != nil {
		return 0, "", err
	}
	errno, err := decodeErrno(b)
	if err != nil {
		return 0, "", err
	}
	path, err := decodeText(b[openReplyHead:])
	return errno, path, err
}

func encodeSimpleReply(errno syscall.Errno) []byte {
	return binary.BigEndian.AppendUint32(start(simpleReply, simpleReplySize), uint32(errno))
}

func decodeSimpleReply(b []byte) (syscall.Errno, error) {
	if err := check(b, simpleReply, simpleReplySize); err != nil {
		return 0, err
	}
	return decodeErrno(b)
}

func decodeErrno(b []byte) (syscall.Errno, error) {
	n := binary.BigEndian.Uint32(b[4:])
	if n > maxErrno {
		return 0, malformedf("error number %d", n)
	}
	return syscall.Errno(n), nil
}

// OpenFlags are those of [OpenRequest].
type OpenFlags uint32

// OpenQuiet: the server can do without, and nobody need be told.
const OpenQuiet OpenFlags = 1 << 0

// OpenRequest asks the helper to open a file: OPEN_CMD and OPEN_BDEV_CMD.
type OpenRequest struct {
	Path      string
	Block     bool      // nothing but a block device will do
	Flags     uint32    // of open(2)
	Mode      uint32    // of a file that is made
	Request   OpenFlags //
	BlockSize uint32    // to be set on a block device; 0: leave it
}

func (r OpenRequest) encode() []byte {
	m := openCmd
	if r.Block {
		m = openBdevCmd
	}
	b := start(m, openHead+len(r.Path)+1)
	b = binary.BigEndian.AppendUint32(b, r.Flags)
	b = binary.BigEndian.AppendUint32(b, r.Mode)
	b = binary.BigEndian.AppendUint32(b, uint32(r.Request))
	b = binary.BigEndian.AppendUint32(b, r.BlockSize)
	return text(b, r.Path)
}

func (r *OpenRequest) decode(b []byte) (err error) {
	if len(b) < openHead {
		return malformedf("%d bytes", len(b))
	}
	r.Flags, r.Mode = binary.BigEndian.Uint32(b[4:]), binary.BigEndian.Uint32(b[8:])
	r.Request, r.BlockSize = OpenFlags(binary.BigEndian.Uint32(b[12:])), binary.BigEndian.Uint32(b[16:])
	if r.Path, err = decodeText(b[openHead:]); err != nil {
		return err
	}
	switch {
	case r.Path == "":
		return malformedf("no path")
	case len(r.Path) >= unix.PathMax:
		return malformedf("a path of %d bytes", len(r.Path))
	case r.Request&^OpenQuiet != 0:
		return malformedf("unknown flags %#x", uint32(r.Request))
	case !r.Block && r.BlockSize != 0:
		return malformedf("a block size, for what is no block device")
	}
	return nil
}

// fsopenBlock is the flag of FSOPEN_CMD for the type fuseblk.
const fsopenBlock = 1 << 0

func encodeNumber(m magic, n uint32) []byte {
	return binary.BigEndian.AppendUint32(start(m, 8), n)
}

func encodeString(m magic, s string) []byte { return text(start(m, stringHead+len(s)+1), s) }

func encodeMountPoint(path string, format uint16) []byte {
	b := start(mntptCmd, mntptHead+len(path)+1)
	b = binary.BigEndian.AppendUint16(b, format)
	b = binary.BigEndian.AppendUint16(b, 0)
	return text(b, path)
}

// command is what the server asks for.
type command struct {
	magic magic
	open  OpenRequest // OPEN_CMD, OPEN_BDEV_CMD
	value uint32      // FSOPEN_CMD, MOUNT_CMD, BYE_CMD; MNTPT_CMD: the kind of file that is expected
	text  string      // SOURCE_CMD, MNTPT_CMD, MNTOPTS_CMD, MTABOPTS_CMD
}

// decodeCommand fails with an unknown magic in the command if there is no answer to it.
func decodeCommand(b []byte) (c command, err error) {
	if len(b) < minMessage {
		return c, malformedf("%d bytes", len(b))
	}
	c.magic = magic(binary.BigEndian.Uint32(b))
	switch c.magic {
	case openCmd, openBdevCmd:
		c.open.Block = c.magic == openBdevCmd
		return c, c.open.decode(b)
	case fsopenCmd:
		if c.value, err = decodeNumber(b, fsopenSize); err == nil && c.value&^fsopenBlock != 0 {
			err = malformedf("unknown flags %#x", c.value)
		}
		return c, err
	case mountCmd:
		c.value, err = decodeNumber(b, mountSize)
		return c, err
	case byeCmd:
		c.value, err = decodeNumber(b, byeSize)
		return c, err
	case sourceCmd, mntoptsCmd, mtaboptsCmd:
		c.text, err = decodeText(b[stringHead:])
	case mntptCmd:
		if len(b) < mntptHead {
			return c, malformedf("%d bytes", len(b))
		}
		c.value = uint32(binary.BigEndian.Uint16(b[4:]))
		if c.value != 0 && c.value != unix.S_IFDIR && c.value != unix.S_IFREG {
			return c, malformedf("a kind of file %#x", c.value)
		}
		if pad := binary.BigEndian.Uint16(b[6:]); pad != 0 {
			return c, malformedf("%#x where there should be nothing", pad)
		}
		c.text, err = decodeText(b[mntptHead:])
	default:
		err = malformedf("an unknown message %q", b[:4])
		c.magic = 0
	}
	if err == nil && c.text == "" {
		err = malformedf("an empty string")
	}
	return c, err
}

func decodeNumber(b []byte, size int) (uint32, error) {
	if len(b) != size {
		return 0, malformedf("%d bytes", len(b))
	}
	return binary.BigEndian.Uint32(b[4:]), nil
}

func start(m magic, size int) []byte {
	return binary.BigEndian.AppendUint32(make([]byte, 0, size), uint32(m))
}

func text(b []byte, s string) []byte { return append(append(b, s...), 0) }

// decodeText is a string that ends with the only zero byte.
func decodeText(b []byte) (string, error) {
	n := len(b) - 1
	if n < 0 || b[n] != 0 {
		return "", malformedf("a string without an end")
	}
	if bytes.IndexByte(b[:n], 0) >= 0 {
		return "", malformedf("a string with a zero byte in it")
	}
	return string(b[:n]), nil
}

// check wants a message of one kind and size.
func check(b []byte, want magic, size int) error {
	if err := checkHead(b, want, 4); err != nil {
		return err
	}
	if len(b) != size {
		return malformedf("%d bytes instead of %d", len(b), size)
	}
	return nil
}

// checkHead wants a message of one kind that has at least head bytes.
func checkHead(b []byte, want magic, head int) error {
	if len(b) < head {
		return malformedf("%d bytes", len(b))
	}
	if m := magic(binary.BigEndian.Uint32(b)); m != want {
		return malformedf("%q instead of %q", b[:4], start(want, 4))
	}
	return nil
}

// Error is what is wrong with what the other end has sent, with an errno.
type Error struct {
	Text  string
	Errno syscall.Errno
}

func (e *Error) Error() string { return e.Text }
func (e *Error) Unwrap() error { return e.Errno }

func malformedf(format string, a ...any) error {
	return &Error{"it sent a message that is none of the protocol: " + fmt.Sprintf(format, a...), unix.EBADMSG}
}
