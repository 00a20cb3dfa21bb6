package ext4

import (
	"encoding/binary"
	"sync"

	"ext4box/ext4/internal/disk"
	"ext4box/ext4/internal/quota"
)

// Statfs is the space of a filesystem, as statfs(2) has it.
type Statfs struct {
	BlockSize   uint32 `json:"block_size"`
	Blocks      uint64 `json:"blocks"`       // without overhead, unless Options.MinixDF
	BlocksFree  uint64 `json:"blocks_free"`  // for anybody
	BlocksAvail uint64 `json:"blocks_avail"` // for ordinary users
	Files       uint64 `json:"files"`
	FilesFree   uint64 `json:"files_free"`
	NameLen     uint32 `json:"name_len"`
	FSID        uint64 `json:"fsid"`
}

// maxReservedClusters is what the kernel holds back so that delayed allocation
// cannot run out of space for its metadata: this, or 2% of the filesystem.
const maxReservedClusters = 4096

// pool is the number of blocks that are held back.
func (fs *FS) pool() uint64 {
	return min(fs.geo.BlocksCount>>fs.geo.ClusterBits/50, maxReservedClusters) << fs.geo.ClusterBits
}

// freeSpace is what the group descriptors say in sum.
type freeSpace struct {
	clusters uint64
	inodes   uint64
}

// freeSummary keeps the sum once it could be made.
type freeSummary struct {
	mu   sync.Mutex
	done bool
	sum  freeSpace
}

func (s *freeSummary) get(compute func() (freeSpace, error)) (sum freeSpace, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.done {
		if s.sum, err = compute(); err != nil {
			return freeSpace{}, err
		}
		s.done = true
	}
	return s.sum, nil
}

// Statfs returns the space of the filesystem as the kernel computes it. The
// first call reads the group descriptors, which is the only work in this package
// that grows with the size of the filesystem.
func (fs *FS) Statfs() (Statfs, error) {
	sum := fs.free.get
	if fs.w != nil {
		sum = func(compute func() (freeSpace, error)) (freeSpace, error) { return compute() } // it changes
	}
	free, err := sum(fs.sumFree)
	if err != nil {
		return Statfs{}, err
	}
	s := Statfs{
		BlockSize:  fs.geo.BlockSize,
		Blocks:     fs.geo.BlocksCount,
		BlocksFree: free.clusters << fs.geo.ClusterBits,
		Files:      uint64(fs.sb.InodesCount),
		FilesFree:  free.inodes,
		NameLen:    NameMax,
		FSID:       binary.LittleEndian.Uint64(fs.sb.UUID[:8]) ^ binary.LittleEndian.Uint64(fs.sb.UUID[8:]),
	}
	if fs.w != nil && fs.outside != nil {
		taken := fs.w.asked.Load() + fs.w.ahead.lost()
		s.BlocksFree -= min(s.BlocksFree, uint64(max(taken, 0)))
	}
	if !fs.opts.MinixDF {
		overhead := fs.overheadClusters() << fs.geo.ClusterBits
		s.Blocks -= min(overhead, s.Blocks)
	}
	reserved := min(fs.sb.ReservedBlocks, fs.geo.BlocksCount)
	if fs.sb.Incompat&disk.IncompatExtents != 0 {
		reserved += fs.pool()
	}
	s.BlocksAvail = s.BlocksFree - min(reserved, s.BlocksFree)
	return s, nil
}

// StatfsAt is Statfs of what a file or directory may use: inside of a directory
// that hands its project down it is no more than the limits of the project
// leave, where they are enforced.
func (fs *FS) StatfsAt(ino Ino) (Statfs, error) {
	s, err := fs.Statfs()
	if err != nil || fs.w == nil {
		return s, err
	}
	q := fs.w.quotas[quota.Project]
	if q == nil || !q.limits {
		return s, nil
	}
	in, err := fs.rlock(ino)
	if err != nil {
		return s, err
	}
	id, inherit := in.ProjectID, in.Flags&disk.FlagProjInherit != 0
	in.runlock()
	if !inherit {
		return s, nil
	}
	d, err := fs.dquot(q, id)
	if d == nil || err != nil {
		return s, err
	}
	defer d.refs.Add(-1)
	d.mu.Lock()
	defer d.mu.Unlock()
	if limit := lower(d.rec.SpaceSoft, d.rec.SpaceHard) >> fs.geo.BlockBits; limit > 0 {
		has := (d.rec.Space + d.space) >> fs.geo.BlockBits
		left := limit - min(has, limit)
		s.Blocks, s.BlocksFree, s.BlocksAvail = min(s.Blocks, limit), min(s.BlocksFree, left), min(s.BlocksAvail, left)
	}
	if limit := lower(d.rec.InodeSoft, d.rec.InodeHard); limit > 0 {
		s.Files, s.FilesFree = min(s.Files, limit), min(s.FilesFree, limit-min(d.rec.Inodes, limit))
	}
	return s, nil
}

// lower is the lower of two limits, of which 0 is none.
func lower(a, b uint64) uint64 {
	if a == 0 || b != 0 && b < a {
		return b
	}
	return a
}

// sumFree adds up the group descriptors, and what deleted but not yet freed
// inodes occupied.
func (fs *FS) sumFree() (free freeSpace, err error) {
	if fs.w != nil {
		t, err := fs.w.groups.Totals()
		return freeSpace{t.FreeClusters, t.FreeInodes}, err
	}
	if fs.geo.Groups > maxWritableGroups { // too many to be read while somebody waits
		return freeSpace{min(fs.sb.FreeBlocks, fs.geo.BlocksCount) >> fs.geo.ClusterBits, uint64(min(fs.sb.FreeInodes, fs.geo.InodesCount))}, nil
	}
	blk := make([]byte, fs.geo.BlockSize)
	for i := range fs.geo.DescBlocks {
		// Not through the cache, which holds what is asked for again.
		if err := fs.readBlock(blk, fs.geo.DescBlock(fs.superBlock, i)); err != nil {
			return free, err
		}
		for j := range fs.geo.DescPerBlock {
			group := i*fs.geo.DescPerBlock + j
			if group >= fs.geo.Groups {
				break
			}
			d, err := fs.decodeGroup(group, blk[j*fs.geo.DescSize:(j+1)*fs.geo.DescSize])
			if err != nil {
				return free, err
			}
			free.clusters += uint64(min(d.FreeBlocks, fs.geo.ClustersPerGroup))
			free.inodes += uint64(min(d.FreeInodes, fs.geo.InodesPerGroup))
		}
	}
	clusters, inodes := fs.orphanSpace()
	// What inodes claim to occupy is not what there is.
	free.clusters = min(free.clusters+clusters, fs.geo.BlocksCount)
	free.inodes = min(free.inodes+inodes, uint64(fs.geo.InodesCount))
	clusters, inodes, err = fs.fastSpace()
	free.clusters -= min(clusters, free.clusters)
	free.inodes -= min(inodes, free.inodes)
	return free, err
}

// overheadClusters is the space that the filesystem's own structures take, as
// the kernel computes it.
func (fs *FS) overheadClusters() uint64 {
	g := &fs.geo
	if g.ClusterBits > 0 {
		if n := uint64(fs.sb.OverheadClusters); n != 0 && n <= g.BlocksCount {
			return n
		}
	}
	blocks := uint64(g.FirstDataBlock) + g.BaseMetaBlocks() + uint64(g.Groups)*(uint64(g.InodeTableBlocks)+2)
	ratio := uint64(1) << g.ClusterBits
	return (blocks+ratio-1)>>g.ClusterBits + (fs.journalLen+ratio-1)>>g.ClusterBits
}
