package disktest

import (
	"math/bits"
	"testing"

	"ext4box/ext4/internal/disk"
)

// Geometry is the layout of a plain filesystem with that many blocks of the
// given size in bytes.
func Geometry(tb testing.TB, blockSize int, blocks uint64) *disk.Geometry {
	tb.Helper()
	perGroup := uint32(8 * blockSize)
	inodes := uint32(blockSize) / 256
	sb := disk.Superblock{
		Magic: disk.SuperMagic, RevLevel: disk.RevDynamic, LogBlockSize: uint32(bits.TrailingZeros(uint(blockSize / 1024))),
		BlocksCount: blocks, BlocksPerGroup: perGroup, ClustersPerGroup: perGroup, InodesPerGroup: inodes,
		FirstIno: 11, InodeSize: 256, DescSize: disk.GroupDescSize64, Incompat: disk.Incompat64Bit,
	}
	if blockSize == 1024 {
		sb.FirstDataBlock = 1
	}
	groups := (blocks - uint64(sb.FirstDataBlock) + uint64(perGroup) - 1) / uint64(perGroup)
	sb.InodesCount = uint32(groups) * inodes
	g, err := sb.Geometry()
	if err != nil {
		tb.Fatal(err)
	}
	return &g
}
