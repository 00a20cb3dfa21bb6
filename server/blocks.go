package server

import (
	"sync"
	"time"

	"ext4box/ext4"
	"ext4box/fuse"
)

// blocksDelay is how long st_blocks of a file may be outdated after the kernel has
// written back.
const blocksDelay = 500 * time.Millisecond

// grown are files to which the kernel has written back, on its own account, since it
// was last told: of what it writes back it keeps all attributes itself but the
// number of blocks, which it asks for again only after fsync(2) and close(2).
type grown struct {
	mu    sync.Mutex
	nodes map[uint64]struct{}
}

// grew has the kernel told of the file that r is about, soon.
func (s *Server) grew(r *fuse.Request) {
	g := &s.grown
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.nodes == nil {
		g.nodes = make(map[uint64]struct{})
		session := r.Session()
		time.AfterFunc(blocksDelay, func() { s.tellGrown(session) })
	}
	g.nodes[r.NodeID] = struct{}{}
}

// tellGrown tells the kernel of those that are still open for writing. It must not be
// called from the request that writes back, for which the kernel may wait with the
// inode about to go.
func (s *Server) tellGrown(session *fuse.Session) {
	g := &s.grown
	g.mu.Lock()
	nodes := g.nodes
	g.nodes = nil
	g.mu.Unlock()
	for nodeid := range nodes {
		if !s.mayBeDirty(ext4.Ino(nodeid)) {
			continue
		}
		if session.NotifyInvalInode(nodeid, -1, 0) != nil {
			return // the connection is gone
		}
	}
}
