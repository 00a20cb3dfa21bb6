package archive

import (
	"encoding/binary"
	"strconv"
	"strings"
)

// aclKeys are the records in which tar programs keep POSIX ACLs. GNU tar with
// --acls takes these and no others, and removes an ACL for which there is none.
var aclKeys = map[string]string{
	"system.posix_acl_access":  "SCHILY.acl.access",
	"system.posix_acl_default": "SCHILY.acl.default",
}

// aclText is the value of an ACL attribute in the words of acl(5), with numbers
// for users and groups: user::rw-,user:1000:r--,group::r--,mask::r--,other::r--.
func aclText(value []byte) (string, bool) {
	const version, header, entry = 2, 4, 8
	if len(value) < header || binary.LittleEndian.Uint32(value) != version || (len(value)-header)%entry != 0 {
		return "", false
	}
	var words []string
	for e := value[header:]; len(e) > 0; e = e[entry:] {
		id := strconv.FormatUint(uint64(binary.LittleEndian.Uint32(e[4:])), 10)
		var who string
		switch binary.LittleEndian.Uint16(e) { // ACL_USER_OBJ and so on
		case 0x01:
			who = "user::"
		case 0x02:
			who = "user:" + id + ":"
		case 0x04:
			who = "group::"
		case 0x08:
			who = "group:" + id + ":"
		case 0x10:
			who = "mask::"
		case 0x20:
			who = "other::"
		default:
			return "", false
		}
		may := []byte("rwx")
		for i := range may {
			if binary.LittleEndian.Uint16(e[2:])&(4>>i) == 0 {
				may[i] = '-'
			}
		}
		words = append(words, who+string(may))
	}
	return strings.Join(words, ","), true
}
