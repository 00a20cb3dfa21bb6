package fuseservice

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// Limits of the file with the arguments.
const (
	maxArgs     = 4096
	maxArgsSize = 1 << 20 // bytes

	argsHead   = 8 // magic, number of records
	argsRecord = 8 // position and length of a string, which includes its zero byte
)

// encodeArgs is the content of the file with the arguments. The first is the subtype.
func encodeArgs(args []string) ([]byte, error) {
	if len(args) == 0 || len(args) > maxArgs {
		return nil, fmt.Errorf("%d arguments", len(args))
	}
	b := start(argsFile, 0)
	b = binary.BigEndian.AppendUint32(b, uint32(len(args)))
	pos := argsHead + argsRecord*len(args)
	for _, a := range args {
		if bytes.IndexByte([]byte(a), 0) >= 0 {
			return nil, errors.New("an argument has a zero byte in it")
		}
		b = binary.BigEndian.AppendUint32(b, uint32(pos))
		b = binary.BigEndian.AppendUint32(b, uint32(len(a)+1))
		pos += len(a) + 1
	}
	if pos > maxArgsSize {
		return nil, errors.New("the arguments are too long")
	}
	for _, a := range args {
		b = text(b, a)
	}
	return b, nil
}

// decodeArgs reads such a file. There may be gaps between the records and the strings.
func decodeArgs(b []byte) ([]string, error) {
	if len(b) < argsHead || magic(binary.BigEndian.Uint32(b)) != argsFile {
		return nil, malformedf("the file with the arguments is none")
	}
	n := uint64(binary.BigEndian.Uint32(b[4:]))
	if n == 0 || n > maxArgs || argsHead+argsRecord*n > uint64(len(b)) {
		return nil, malformedf("a file of %d bytes with %d arguments", len(b), n)
	}
	strings := argsHead + argsRecord*n // the first byte of them
	args, total := make([]string, n), uint64(0)
	for i := range args {
		record := b[argsHead+argsRecord*i:]
		pos, size := uint64(binary.BigEndian.Uint32(record)), uint64(binary.BigEndian.Uint32(record[4:]))
		// Strings that overlap could be more than the file.
		total += size
		if pos < strings || pos+size > uint64(len(b)) || total > uint64(len(b))-strings {
			return nil, malformedf("argument %d is not in the file", i)
		}
		s, err := decodeText(b[pos : pos+size])
		if err != nil {
			return nil, err
		}
		args[i] = s
	}
	return args, nil
}

// argsMemfd puts the arguments into a file that nobody can change any more.
func argsMemfd(args []string) (*os.File, error) {
	b, err := encodeArgs(args)
	if err != nil {
		return nil, err
	}
	fd, err := unix.MemfdCreate("fuse service argv", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, fmt.Errorf("memfd_create: %w", err)
	}
	f := os.NewFile(uintptr(fd), "argv")
	if _, err = f.Write(b); err == nil {
		_, err = unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, unix.F_SEAL_SEAL|unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_WRITE)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("write the arguments: %w", err)
	}
	return f, nil
}

// readArgs reads the file that the helper has sent. Only one that is in memory, for others
// may take for ever to be read.
func readArgs(f *os.File) ([]string, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return nil, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG || st.Size > maxArgsSize {
		return nil, malformedf("the file with the arguments is none, or has %d bytes", st.Size)
	}
	if _, err := unix.FcntlInt(f.Fd(), unix.F_GET_SEALS, 0); err != nil {
		return nil, malformedf("the file with the arguments is not in memory")
	}
	// Read once: it may change meanwhile.
	b, err := io.ReadAll(io.NewSectionReader(f, 0, maxArgsSize))
	if err != nil {
		return nil, fmt.Errorf("read the arguments: %w", err)
	}
	return decodeArgs(b)
}
