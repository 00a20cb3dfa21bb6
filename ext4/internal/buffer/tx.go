package buffer

// Tx is a transaction as those see it who change metadata: a handle of the
// journal. A Tx belongs to one goroutine.
type Tx interface {
	// Modify makes b part of the transaction. It must be called before the first
	// change to b.Data in this handle, with the lock held that guards them.
	Modify(b *Buffer) error

	// New returns block blk, which was just allocated for metadata, as zeros and
	// as part of the transaction, without reading it; see [Cache.New].
	New(blk uint64, tag Tag) (*Buffer, error)

	// Forget says that metadata block blk was freed. It leaves the transaction
	// and the cache, older versions of it are no longer written home, and no
	// replay brings them back.
	Forget(blk uint64)

	// OnCommit has fn called once the transaction is durable, after those
	// registered before it; never if the journal is aborted.
	OnCommit(fn func())

	// TID identifies the transaction, for waiting until it is durable.
	TID() uint32
}
