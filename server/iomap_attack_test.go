package server_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"ext4box/ext4"
	"ext4box/fuse"
	"ext4box/fuse/fusetest"
	"ext4box/iomap"
)

// The limits of an attack. The machine may be busy with other things as well.
const (
	attackTime = 100 * time.Second
	attackHeap = 400 << 20
)

// attackSize is how much of something there is to be, and the seed of the first.
func attackSize(n int) (count int, seed uint64) {
	count, seed = n, 1
	if n, err := strconv.Atoi(os.Getenv("EXT4BOX_MUTANTS")); err == nil {
		count = n
	}
	if n, err := strconv.ParseUint(os.Getenv("EXT4BOX_MUTANTS_SEED"), 10, 64); err == nil {
		seed = n
	}
	return count, seed
}

// bounded runs fn, and ends the process when that takes long or much memory: what hangs cannot be
// stopped otherwise, and what eats goes on eating.
func bounded(t *testing.T, what string, fn func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		fn()
	}()
	stacks := func() []byte {
		b := make([]byte, 1<<20)
		return b[:runtime.Stack(b, true)]
	}
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(attackTime); ; {
		select {
		case <-done:
			return
		case <-tick.C:
			var m runtime.MemStats
			if runtime.ReadMemStats(&m); m.HeapAlloc > attackHeap {
				runtime.GC() // what is not collected yet does not count
				runtime.ReadMemStats(&m)
			}
			if m.HeapAlloc > attackHeap {
				panic(fmt.Sprintf("%s: %s: %d MiB of heap\n%s", t.Name(), what, m.HeapAlloc>>20, stacks()))
			}
			if time.Now().After(end) {
				panic(fmt.Sprintf("%s: %s: does not end\n%s", t.Name(), what, stacks()))
			}
		}
	}
}

// hostile is a kernel that sends what no kernel would.
type hostile struct {
	*bare
	rng   *rand.Rand
	nodes []uint64
	calm  bool                    // nothing that ends the service of the filesystem
	tally map[fuse.Opcode]*[2]int // replies of success, and others
}

// somewhere is an offset or a length where things go wrong.
func (h *hostile) somewhere() uint64 {
	rng := h.rng
	near := []uint64{0, 4096, 10000, 48 << 10, 64 << 10, 1 << 20, 2 << 20, 1 << 31, 1 << 32, 1 << 40, 1<<44 - 4096, 1 << 44, 1 << 63, 0}
	switch rng.IntN(4) {
	case 0:
		return near[rng.IntN(len(near))] + rng.Uint64N(10) - 5
	case 1:
		return near[rng.IntN(len(near))] + rng.Uint64N(10)<<12 - 5<<12
	case 2:
		return rng.Uint64N(300) << 12
	}
	return rng.Uint64() >> rng.IntN(64)
}

func (h *hostile) node() uint64 {
	if h.rng.IntN(12) == 0 {
		odd := []uint64{0, 1, 2, 3, 4, 7, 8, 9, 10, 11, 1000, 4096, 4097, 1 << 32, 1<<32 + 12, 1<<64 - 1}
		return odd[h.rng.IntN(len(odd))]
	}
	return h.nodes[h.rng.IntN(len(h.nodes))]
}

// step sends one message and waits for the reply, whatever it says.
func (h *hostile) step() {
	rng := h.rng
	node := h.node()
	ino := node
	if rng.IntN(20) == 0 {
		ino = h.node()
	}
	send := func(op fuse.Opcode, parts ...[]byte) {
		n := h.tally[op]
		if n == nil {
			n = new([2]int)
			h.tally[op] = n
		}
		if h.Do(op, node, parts...).Err() == nil {
			n[0]++
		} else {
			n[1]++
		}
	}
	name := fmt.Sprint("n", rng.IntN(20))
	switch k := rng.IntN(40); {
	case k < 12:
		in := fuse.IomapBeginIn{Op: iomap.Op(1 << rng.IntN(32)), Ino: ino, Pos: h.somewhere(), Count: h.somewhere()}
		switch rng.IntN(4) {
		case 0:
			in.Op = iomap.Op(rng.Uint32())
		case 1:
			in.Op |= iomap.Write
		case 2:
			in.Op = []iomap.Op{iomap.Read, iomap.Write, iomap.Zero, iomap.Writeback, iomap.Write | iomap.Direct, iomap.Write | iomap.Fault, iomap.Report | iomap.SwapFile}[rng.IntN(7)]
		}
		send(fuse.OpIomapBegin, fusetest.Bytes(&in))
	case k < 20:
		in := fuse.IomapIoendIn{
			Flags: fuse.IoendFlags(rng.Uint32N(1<<8)) &^ fuse.IoendShared, Ino: ino, Pos: h.somewhere(), Written: h.somewhere(),
			NewAddr: h.somewhere(), Dev: rng.Uint32(),
		}
		switch rng.IntN(8) {
		case 0:
			in.Error = int32(rng.Uint32())
		case 1:
			in.Error = -int32(rng.Uint32N(140))
		case 2:
			in.Flags = fuse.IoendFlags(rng.Uint32())
		default:
			in.Flags &^= fuse.IoendSwapoff
		}
		for range 1 + rng.IntN(2) {
			send(fuse.OpIomapIoend, fusetest.Bytes(&in))
		}
	case k < 21:
		in := fuse.IomapEndIn{Op: iomap.Op(rng.Uint32()), Ino: ino, Pos: h.somewhere(), Count: h.somewhere(), Written: int64(h.somewhere())}
		send(fuse.OpIomapEnd, fusetest.Bytes(&in))
	case k < 22:
		send(fuse.OpIomapConfig, fusetest.Bytes(&fuse.IomapConfigIn{Flags: fuse.IomapConfigFlags(rng.Uint64()), Maxbytes: int64(h.somewhere())}))
	case k < 23:
		if rng.IntN(4) == 0 {
			send(fuse.OpFreezeFS, fusetest.Bytes(&fuse.FreezeFSIn{Unlinked: h.somewhere()}))
		}
	case k < 25:
		send(fuse.OpUnfreezeFS)
	case k < 28:
		in := fuse.SetattrIn{Valid: fuse.SetattrValid(rng.Uint32()), Size: h.somewhere(), Mode: rng.Uint32(), UID: rng.Uint32N(5), GID: rng.Uint32N(5),
			Atime: h.somewhere(), Mtime: h.somewhere(), Ctime: h.somewhere(), AtimeNsec: rng.Uint32(), MtimeNsec: rng.Uint32(), CtimeNsec: rng.Uint32()}
		if rng.IntN(2) == 0 {
			in.Valid = fuse.SetattrSize
		}
		send(fuse.OpSetattr, fusetest.Bytes(&in))
	case k < 32:
		in := fuse.FallocateIn{Offset: h.somewhere(), Length: h.somewhere(), Mode: []uint32{0, 1, 3, 0x10, 0x11, 8, 0x20, rng.Uint32()}[rng.IntN(8)]}
		send(fuse.OpFallocate, fusetest.Bytes(&in))
	case k < 33:
		send(fuse.OpRead, fusetest.Bytes(&fuse.ReadIn{Offset: h.somewhere(), Size: uint32(h.somewhere()) % (1 << 18)}))
	case k < 35:
		data := make([]byte, h.somewhere()%9000)
		send(fuse.OpWrite, fusetest.Bytes(&fuse.WriteIn{Offset: h.somewhere(), Size: uint32(len(data))}), data)
	case k < 36:
		e, err := h.Lookup(h.nodes[0], name)
		if err == nil && e.NodeID != 0 && rng.IntN(2) == 0 {
			h.nodes = append(h.nodes, e.NodeID)
		}
	case k < 37:
		if e, _, err := h.Create(1, name, fuse.CreateIn{Flags: syscall.O_RDWR, Mode: syscall.S_IFREG | 0o644}); err == nil {
			h.nodes = append(h.nodes, e.NodeID)
		}
	case k < 38:
		send(fuse.OpUnlink, fusetest.CString(name))
		_ = h.Unlink(1, name)
	case k < 39:
		_ = h.Tell(fuse.OpForget, node, fusetest.Bytes(&fuse.ForgetIn{Nlookup: h.somewhere()}))
	default:
		switch rng.IntN(3) {
		case 0:
			send(fuse.OpFsync, fusetest.Bytes(&fuse.FsyncIn{}))
		case 1:
			send(fuse.OpSyncfs, make([]byte, 8))
		case 2:
			if !h.calm && rng.IntN(20) == 0 {
				send(fuse.OpShutdownFS, fusetest.Bytes(&fuse.ShutdownFSIn{Flags: h.somewhere()}))
			}
		}
	}
}

// TestIomapAttacked has several threads of a kernel that has gone mad send what they like: the server
// survives, and the image is sound afterwards, whatever has become of the files.
func TestIomapAttacked(t *testing.T) {
	count, seed := attackSize(1)
	sum := map[fuse.Opcode][2]int{}
	for _, image := range slices.Sorted(maps.Keys(attackedImages)) {
		for _, calm := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s,calm=%t", image, calm), func(t *testing.T) {
				for i := range count {
					if attackServer(t, image, calm, seed+uint64(i), sum); t.Failed() {
						t.Logf("seed %d", seed+uint64(i))
						break
					}
				}
			})
		}
	}
	t.Logf("done and refused: %v", sum)
	for _, op := range []fuse.Opcode{fuse.OpIomapBegin, fuse.OpIomapIoend, fuse.OpSetattr, fuse.OpFallocate} {
		if n := sum[op]; n[0] == 0 || n[1] == 0 {
			t.Errorf("%v: %d done and %d refused: this tests nothing", op, n[0], n[1])
		}
	}
}

// attackMessages is how many each thread sends.
const attackMessages = 80

// attackServer adds to sum how many messages were answered with success, and how many otherwise.
func attackServer(t *testing.T, image string, calm bool, seed uint64, sum map[fuse.Opcode][2]int) {
	names := []string{"dir", "file", "file", "sparse", "sparse", "unwritten", "unwritten", "small", "empty", "empty", "link", "fifo", "device"}
	var debugfs []string
	if image == "mixed" {
		names = append(names, "indirect", "indirect", "indirect")
		debugfs = []string{"write " + os.Args[0] + " indirect", "feature extent"}
	}
	b := serveBare(t, bareConfig{mke2fs: attackedImages[image], size: 64 << 20, debugfs: debugfs, prepare: func(t *testing.T, fs *ext4.FS) {
		someFiles(t, fs)
		for name, mode := range map[string]uint32{"link": syscall.S_IFLNK, "fifo": syscall.S_IFIFO, "device": syscall.S_IFBLK} {
			if _, err := fs.Create(ext4.RootIno, name, ext4.NewNode{Mode: mode | 0o777, Target: "file"}); err != nil {
				t.Fatal(err)
			}
		}
	}})
	var nodes []uint64
	for _, name := range names {
		nodes = append(nodes, b.node(name).NodeID)
	}
	var all []*hostile
	bounded(t, fmt.Sprint("seed ", seed), func() {
		var wg sync.WaitGroup
		for i := range 4 {
			h := &hostile{bare: b, rng: rand.New(rand.NewPCG(seed, uint64(i))), nodes: slices.Clone(nodes), calm: calm, tally: map[fuse.Opcode]*[2]int{}}
			all = append(all, h)
			wg.Go(func() {
				for range attackMessages {
					h.step()
				}
			})
		}
		wg.Wait()
	})
	for _, h := range all {
		for op, n := range h.tally {
			sum[op] = [2]int{sum[op][0] + n[0], sum[op][1] + n[1]}
		}
	}
	b.Do(fuse.OpUnfreezeFS, 1)
	if !calm {
		b.Do(fuse.OpShutdownFS, 1, fusetest.Bytes(&fuse.ShutdownFSIn{}))
	}
	_ = b.Destroy()
	for range 2 {
		if out, err := b.IomapBegin(nodes[1], fuse.IomapBeginIn{Op: iomap.Write, Ino: nodes[1], Count: 1}); err == nil && !calm {
			t.Errorf("BEGIN after SHUTDOWN and DESTROY: %+v", out)
		}
	}
	if calm {
		b.finish(t)
	}
}

// attackedImages are those with structures of their own for data.
var attackedImages = map[string][]string{
	"extents":  {"-t", "ext4", "-b", "4096"},
	"indirect": {"-t", "ext3", "-b", "4096"},
	"mixed":    {"-t", "ext3", "-b", "4096", "-O", "huge_file"}, // before some of its files get extents
	"inline":   {"-t", "ext4", "-b", "4096", "-I", "256", "-O", "inline_data"},
	"clusters": {"-t", "ext4", "-b", "4096", "-O", "bigalloc", "-C", "16384"},
	"quota":    {"-t", "ext4", "-b", "4096", "-O", "quota"},
}

// TestIomapIoendTooLong: the size of a file does not become more than its map allows, whoever says that
// there was something written.
func TestIomapIoendTooLong(t *testing.T) {
	b := serveBare(t, bareConfig{mke2fs: attackedImages["mixed"], size: 64 << 20, debugfs: []string{"write " + os.Args[0] + " indirect", "feature extent"}, prepare: someFiles})
	for _, name := range []string{"indirect", "file"} {
		node := b.node(name).NodeID
		for _, end := range []uint64{1 << 42, 1 << 43, 1<<44 - 4096, 1 << 44, 1<<44 + 1, 1 << 63, 1<<64 - 1} {
			for _, n := range []uint64{1, 4096, end} {
				in := fuse.IomapIoendIn{Flags: fuse.IoendAppend, Ino: node, Pos: end - n, Written: n, NewAddr: fuse.IomapNullAddr}
				out, err := b.IomapIoend(node, in)
				if a, e := b.Getattr(node); e != nil || err == nil && a.Attr.Size != out.Newsize || a.Attr.Size > uint64(b.cfg.Maxbytes) {
					t.Errorf("%s, IOEND up to %d: %+v, %v; size %d, %v", name, end, out, err, a.Attr.Size, e)
				}
			}
		}
	}
	b.finish(t)
}
