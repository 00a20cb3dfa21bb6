package edit

import (
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	setID   = unix.S_ISUID | unix.S_ISGID
	allBits = setID | unix.S_ISVTX | 0o777
)

// Mode is a change of permission bits as chmod(1) writes it, such as 0755 or
// u=rw,go-w.
type Mode []modeClause

type modeClause struct {
	op       byte   // +, - or =
	affected uint32 // bits of the classes named; 0: all, as far as the umask allows
	bits     uint32
	copyOf   byte   // u, g or o: take the bits of that class
	ifExec   bool   // X: execute, for directories and what can be executed already
	named    uint32 // of the set-ID bits: those that change in a directory, too
}

var modeClasses = map[byte]uint32{
	'u': unix.S_ISUID | 0o700, 'g': unix.S_ISGID | 0o070, 'o': unix.S_ISVTX | 0o007, 'a': allBits,
}

var modeBits = map[byte]uint32{'r': 0o444, 'w': 0o222, 'x': 0o111, 's': setID, 't': unix.S_ISVTX}

// ParseMode reads a change of permission bits.
func ParseMode(s string) (Mode, error) {
	bad := fmt.Errorf("%q is not a mode (like 0755 or u=rw,go-w)", s)
	if s != "" && s[0] >= '0' && s[0] <= '7' {
		c, ok := octalClause('=', s)
		if !ok {
			return nil, bad
		}
		return Mode{c}, nil
	}
	var m Mode
	for clause := range strings.SplitSeq(s, ",") {
		var affected uint32
		i := 0
		for ; i < len(clause) && modeClasses[clause[i]] != 0; i++ {
			affected |= modeClasses[clause[i]]
		}
		if i == len(clause) {
			return nil, bad
		}
		for i < len(clause) {
			c := modeClause{op: clause[i], affected: affected}
			if strings.IndexByte("+-=", c.op) < 0 {
				return nil, bad
			}
			i++
			end := i
			for end < len(clause) && strings.IndexByte("+-=", clause[end]) < 0 {
				end++
			}
			perms := clause[i:end]
			i = end
			switch {
			case perms != "" && perms[0] >= '0' && perms[0] <= '7':
				var ok bool
				if c, ok = octalClause(c.op, perms); !ok || affected != 0 {
					return nil, bad
				}
				c.affected, c.named = allBits, setID
			case len(perms) == 1 && strings.Contains("ugo", perms):
				c.copyOf = perms[0]
			default:
				for _, p := range []byte(perms) {
					if p == 'X' {
						c.ifExec = true
						continue
					}
					bits, ok := modeBits[p]
					if !ok {
						return nil, bad
					}
					c.bits |= bits
				}
				c.named = c.bits & setID
			}
			m = append(m, c)
		}
	}
	return m, nil
}

// octalClause is a mode in octal. In directories it clears set-ID bits only when
// it has five digits or more.
func octalClause(op byte, s string) (modeClause, bool) {
	n, err := strconv.ParseUint(s, 8, 32)
	if err != nil || n > allBits {
		return modeClause{}, false
	}
	c := modeClause{op: op, affected: allBits, bits: uint32(n), named: uint32(n) & setID}
	if len(s) > 4 {
		c.named = setID
	}
	return c, true
}

// Apply returns the permission bits that the change makes of those of mode, which
// has the file type as well.
func (m Mode) Apply(mode uint32) uint32 {
	dir := mode&unix.S_IFMT == unix.S_IFDIR
	mode &= allBits
	for _, c := range m {
		bits := c.bits
		if c.ifExec && (dir || mode&0o111 != 0) {
			bits |= 0o111
		}
		switch c.copyOf {
		case 'u':
			bits = mode >> 6 & 7 * 0o111
		case 'g':
			bits = mode >> 3 & 7 * 0o111
		case 'o':
			bits = mode & 7 * 0o111
		}
		affected := c.affected
		if affected == 0 {
			affected = allBits
			bits &^= umask
		}
		var keep uint32 // set-ID bits of directories mean something else
		if dir {
			keep = setID &^ (c.named & affected)
		}
		bits &= affected &^ keep
		switch c.op {
		case '+':
			mode |= bits
		case '-':
			mode &^= bits
		case '=':
			mode = mode&(keep|^affected) | bits
		}
	}
	return mode
}
