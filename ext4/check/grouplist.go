package check

// groupList is a set of groups that remembers the first ones only.
type groupList struct{ m map[uint32]bool }

const groupListMax = 1 << 16

func (l *groupList) add(group uint32) {
	if l.m == nil {
		l.m = map[uint32]bool{}
	}
	if len(l.m) < groupListMax {
		l.m[group] = true
	}
}

func (l *groupList) has(group uint32) bool { return l.m[group] }
