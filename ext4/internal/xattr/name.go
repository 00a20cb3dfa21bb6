package xattr

import (
	"strings"

	"ext4box/ext4/internal/disk"
)

// Full names of the attributes whose number stands for the whole name.
const (
	NameACLAccess  = "system.posix_acl_access"
	NameACLDefault = "system.posix_acl_default"
)

// prefixes are the name prefixes that callers may use.
var prefixes = []struct {
	index  uint8
	prefix string
}{
	{disk.XattrUser, "user."},
	{disk.XattrTrusted, "trusted."},
	{disk.XattrSecurity, "security."},
	{disk.XattrHurd, "gnu."},
}

// ParseName splits a full attribute name into its stored number and rest. ok is
// false for names that ext4 does not store; index is then 0, unless the name is
// no more than one of the prefixes.
func ParseName(full string) (index uint8, name string, ok bool) {
	switch full {
	case NameACLAccess:
		return disk.XattrACLAccess, "", true
	case NameACLDefault:
		return disk.XattrACLDefault, "", true
	}
	for _, p := range prefixes {
		if rest, found := strings.CutPrefix(full, p.prefix); found {
			return p.index, rest, rest != ""
		}
	}
	return 0, "", false
}

// FullName is the inverse of ParseName. ok is false for attributes that are
// the filesystem's own business, such as inline data and encryption contexts.
func FullName(index uint8, name []byte) (full string, ok bool) {
	switch index {
	case disk.XattrACLAccess:
		return NameACLAccess, true
	case disk.XattrACLDefault:
		return NameACLDefault, true
	}
	for _, p := range prefixes {
		if p.index == index {
			return p.prefix + string(name), true
		}
	}
	return "", false
}
