package ext4

// Counters are what has been done since a filesystem was opened for writing.
type Counters struct {
	Handles      int64 // operations that joined a transaction
	Commits      int64 // of the journal, that wrote something
	LoggedBlocks int64
	// Conversions are changes of a map by which preallocated blocks become written
	// ones. Writing into a hole does not need any.
	Conversions int64
}

// Counters returns what has been done so far. It is all zero for a filesystem that
// is open for reading only.
func (fs *FS) Counters() Counters {
	if fs.w == nil {
		return Counters{}
	}
	s := fs.w.log.Stats()
	return Counters{Handles: s.Handles, Commits: s.Commits, LoggedBlocks: s.Blocks, Conversions: fs.w.converted.Load()}
}
