package check

// nameSet finds names that occur in several blocks of a directory.
type nameSet struct{}

func (n *nameSet) reset() {}
