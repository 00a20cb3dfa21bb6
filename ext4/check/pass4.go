package check

// pass4 compares the link counts of inodes with the entries that were found.
func (c *checker) pass4() error { return nil }
