// Package buffertest has a [buffer.Tx] for the tests of packages that change
// metadata and need no journal to do it.
//
// It knows what the journal promises to those who change buffers, and nothing
// of logs. Only tests call it.
package buffertest
