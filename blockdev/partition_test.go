package blockdev

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"unicode/utf8"
)

// disk is a device in memory for tables. (Package blocktest imports this one.)
type disk struct {
	b      []byte
	sector int
}

func (d *disk) ReadAt(p []byte, off int64) (int, error) {
	n, err := clipRead(len(p), off, d.Size())
	copy(p[:n], d.b[min(off, d.Size()):])
	return n, err
}
func (d *disk) WriteAt([]byte, int64) (int, error) { return 0, syscall.EROFS }
func (d *disk) Size() int64                        { return int64(len(d.b)) }
func (d *disk) Alignment() int                     { return 1 }
func (d *disk) ReadOnly() bool                     { return true }
func (d *disk) Flush() error                       { return syscall.EROFS }
func (d *disk) Discard(_, _ int64) error           { return syscall.EROFS }
func (d *disk) Close() error                       { return nil }
func (d *disk) SectorSize() int                    { return d.sector }

// sfdiskTable is the output of sfdisk --json.
type sfdiskTable struct {
	PartitionTable struct {
		Label      string
		SectorSize int64
		Partitions []struct {
			Node, Type, UUID, Name string
			Start, Size            int64
		}
	}
}

const gptScript = `label: gpt
size=1M, type=linux, name="root äöü"
size=2M, type=uefi
size=1M, type=swap
`

const mbrScript = `label: dos
label-id: 0x12345678
size=1M, type=83
size=1M, type=82, bootable
size=20M, type=f
size=1M, type=83
size=1M, type=83
size=2M, type=7
size=1M, type=83
`

// makeTable makes an image with a table by sfdisk, and returns its path and what
// sfdisk reads from it.
func makeTable(t *testing.T, script string, sector int) (string, sfdiskTable) {
	t.Helper()
	sfdisk, err := exec.LookPath("sfdisk")
	if err != nil {
		t.Skip("sfdisk is not installed")
	}
	img := filepath.Join(t.TempDir(), "disk.img")
	if err := os.WriteFile(img, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(img, 64<<20); err != nil {
		t.Fatal(err)
	}
	dev := img
	if sector != 512 {
		// sfdisk takes 512 for image files; not every version has an option.
		dev = attach(t, img, "--sector-size", strconv.Itoa(sector))
		defer detach(t, dev)
	}
	cmd := exec.Command(sfdisk, "-q", "--no-reread", "--no-tell-kernel", dev)
	cmd.Stdin = strings.NewReader(script)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("sfdisk: %v\n%s", err, out)
	}
	out, err := exec.Command(sfdisk, "--json", dev).Output()
	if err != nil {
		t.Fatal(err)
	}
	var table sfdiskTable
	if err := json.Unmarshal(out, &table); err != nil {
		t.Fatal(err)
	}
	table.PartitionTable.SectorSize = int64(sector)
	for i := range table.PartitionTable.Partitions {
		p := &table.PartitionTable.Partitions[i]
		p.Node = strings.TrimLeft(strings.TrimPrefix(p.Node, dev), "p")
	}
	return img, table
}

func compareTable(t *testing.T, got []Partition, want sfdiskTable) {
	t.Helper()
	pt := want.PartitionTable
	if len(got) != len(pt.Partitions) || len(got) == 0 {
		t.Fatalf("%d partitions, sfdisk has %d", len(got), len(pt.Partitions))
	}
	for i, p := range got {
		w := pt.Partitions[i]
		ok := w.Node == strconv.Itoa(p.Number) &&
			p.Offset == w.Start*pt.SectorSize && p.Size == w.Size*pt.SectorSize && int64(p.SectorSize) == pt.SectorSize &&
			p.Name == w.Name
		if pt.Label == "gpt" {
			ok = ok && p.Table == "gpt" && strings.EqualFold(p.Type, w.Type) && strings.EqualFold(p.UUID, w.UUID)
		} else {
			typ, err := strconv.ParseUint(w.Type, 16, 8)
			ok = ok && err == nil && p.Table == "mbr" && p.Type == fmt.Sprintf("0x%02x", typ) && p.Extended == (typ == 0xf)
		}
		if !ok {
			t.Errorf("partition %d: got %+v, sfdisk has %+v", i, p, w)
		}
	}
}

func list(t *testing.T, img string) []Partition {
	t.Helper()
	f, err := Open(img, Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	parts, err := ListPartitions(f)
	if err != nil {
		t.Fatal(err)
	}
	return parts
}

func TestTablesOfSfdisk(t *testing.T) {
	for name, script := range map[string]string{"gpt": gptScript, "mbr": mbrScript} {
		for _, sector := range []int{512, 4096} {
			t.Run(fmt.Sprint(name, sector), func(t *testing.T) {
				img, table := makeTable(t, script, sector)
				parts := list(t, img)
				compareTable(t, parts, table)
				for _, p := range parts {
					f, err := Open(img, Options{ReadOnly: true, Partition: p.Number})
					if p.Extended {
						wantError(t, err, syscall.EINVAL, "extended")
						continue
					}
					if err != nil {
						t.Fatal(err)
					}
					if f.Base() != p.Offset || f.Size() != p.Size || f.SectorSize() != sector ||
						f.Name() != fmt.Sprintf("%s@p%d", img, p.Number) {
						t.Errorf("%s: base %d, size %d", f.Name(), f.Base(), f.Size())
					}
					f.Close()
				}
				_, err := Open(img, Options{ReadOnly: true, Partition: 99})
				wantError(t, err, syscall.ENXIO, "no partition 99; there are 1, 2")
			})
		}
	}
}

// Tables that lie in a window of the file count from its start.
func TestTableAtOffset(t *testing.T) {
	img, table := makeTable(t, gptScript, 512)
	data, err := os.ReadFile(img)
	if err != nil {
		t.Fatal(err)
	}
	const shift = 1000
	if err := os.WriteFile(img, append(make([]byte, shift), data...), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := Open(img, Options{Offset: shift, Partition: 2})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	p := table.PartitionTable.Partitions[1]
	if f.Base() != shift+p.Start*512 || f.Size() != p.Size*512 {
		t.Errorf("base %d, size %d", f.Base(), f.Size())
	}
}

func TestDamagedGPT(t *testing.T) {
	for _, sector := range []int{512, 4096} {
		img, table := makeTable(t, gptScript, sector)
		data, err := os.ReadFile(img)
		if err != nil {
			t.Fatal(err)
		}
		last := len(data) - sector
		for _, c := range []struct {
			name   string
			damage func(b []byte)
			errno  error
			text   string
		}{
			{"primary header", func(b []byte) { b[sector+0x30]++ }, nil, ""},
			{"primary signature", func(b []byte) { b[sector]++ }, nil, ""},
			{"primary entries", func(b []byte) { b[2*sector+5]++ }, nil, ""},
			{"backup", func(b []byte) { b[last+0x30]++ }, nil, ""},
			{"no MBR", func(b []byte) { clear(b[:512]) }, nil, ""},
			{"both headers", func(b []byte) { b[sector+0x30]++; b[last+0x30]++ }, syscall.EUCLEAN, "damaged"},
			{"everything", func(b []byte) { clear(b) }, syscall.ENXIO, "no partition table"},
			{"GPT with an MBR that is not protective", func(b []byte) { b[mbrOffEntries+4] = 0x83 }, nil, "mbr"},
		} {
			b := append([]byte(nil), data...)
			c.damage(b)
			parts, err := ListPartitions(&disk{b: b})
			if c.errno != nil {
				wantError(t, err, c.errno, c.text)
				continue
			}
			if err != nil {
				t.Errorf("%s: %v", c.name, err)
				continue
			}
			if c.text == "mbr" {
				if len(parts) != 1 || parts[0].Table != "mbr" {
					t.Errorf("%s: %v", c.name, parts)
				}
				continue
			}
			compareTable(t, parts, table)
		}
	}
}

// patchGPT changes the primary header, makes its checksums match, and removes
// the backup.
func patchGPT(data []byte, patch func(header, entries []byte)) []byte {
	b := append([]byte(nil), data...)
	clear(b[len(b)-512:])
	h := b[512:1024]
	le := binary.LittleEndian
	entries := b[1024:][:128*128]
	patch(h, entries)
	n := min(uint64(le.Uint32(h[0x50:]))*uint64(le.Uint32(h[0x54:])), uint64(len(b)-1024))
	le.PutUint32(h[0x58:], crc32.ChecksumIEEE(b[1024:1024+n]))
	clear(h[0x10:0x14])
	le.PutUint32(h[0x10:], crc32.ChecksumIEEE(h[:min(le.Uint32(h[0x0c:]), 512)]))
	return b
}

func TestHostileGPT(t *testing.T) {
	img, _ := makeTable(t, gptScript, 512)
	data, err := os.ReadFile(img)
	if err != nil {
		t.Fatal(err)
	}
	le := binary.LittleEndian
	for _, c := range []struct {
		name  string
		patch func(h, e []byte)
		errno error
		parts int
	}{
		{"unchanged", func(h, e []byte) {}, nil, 3},
		{"huge count", func(h, e []byte) { le.PutUint32(h[0x50:], 1<<31) }, syscall.EUCLEAN, 0},
		{"no entries", func(h, e []byte) { le.PutUint32(h[0x50:], 0) }, syscall.EUCLEAN, 0},
		{"entry size 0", func(h, e []byte) { le.PutUint32(h[0x54:], 0) }, syscall.EUCLEAN, 0},
		{"entry size 130", func(h, e []byte) { le.PutUint32(h[0x54:], 130) }, syscall.EUCLEAN, 0},
		{"entry size 8192", func(h, e []byte) { le.PutUint32(h[0x54:], 8192) }, syscall.EUCLEAN, 0},
		{"count and size overflow", func(h, e []byte) { le.PutUint32(h[0x50:], 1<<25); le.PutUint32(h[0x54:], 4096) }, syscall.EUCLEAN, 0},
		{"entries far away", func(h, e []byte) { le.PutUint64(h[0x48:], 1<<63) }, syscall.EUCLEAN, 0},
		{"entries at the end", func(h, e []byte) { le.PutUint64(h[0x48:], 64<<11-1) }, syscall.EUCLEAN, 0},
		{"header elsewhere", func(h, e []byte) { le.PutUint64(h[0x18:], 2) }, syscall.EUCLEAN, 0},
		{"header size 0", func(h, e []byte) { le.PutUint32(h[0x0c:], 0) }, syscall.EUCLEAN, 0},
		{"header size 4G", func(h, e []byte) { le.PutUint32(h[0x0c:], 1<<32-1) }, syscall.EUCLEAN, 0},
		{"entries of 256 bytes", func(h, e []byte) { le.PutUint32(h[0x50:], 64); le.PutUint32(h[0x54:], 256) }, nil, 2},
		{"one upside down", func(h, e []byte) { le.PutUint64(e[128+0x28:], 1) }, syscall.EUCLEAN, 2},
		{"one past 2^63", func(h, e []byte) { le.PutUint64(e[128+0x28:], 1<<62) }, syscall.EUCLEAN, 2},
		{"name of lone surrogates", func(h, e []byte) { le.PutUint16(e[0x38:], 0xd800) }, nil, 3},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := patchGPT(data, c.patch)
			parts, err := ListPartitions(&disk{b: b})
			if len(parts) != c.parts || !errors.Is(err, c.errno) {
				t.Errorf("%d partitions, %v", len(parts), err)
			}
		})
	}

	// A partition past the end is listed, and refused when it is asked for.
	b := patchGPT(data, func(h, e []byte) { le.PutUint64(e[0x28:], 1<<40) })
	if err := os.WriteFile(img, b, 0o600); err != nil {
		t.Fatal(err)
	}
	if parts := list(t, img); len(parts) != 3 {
		t.Errorf("%d partitions", len(parts))
	}
	_, err = Open(img, Options{Partition: 1})
	wantError(t, err, syscall.EINVAL, "partition 1 ends at byte 562949953421824, but there are only 67108864; the image is incomplete")

	// One that can be read is usable although another is damaged.
	b = patchGPT(data, func(h, e []byte) { le.PutUint64(e[128+0x28:], 1) })
	if err := os.WriteFile(img, b, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := Open(img, Options{Partition: 3})
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	_, err = Open(img, Options{Partition: 2})
	wantError(t, err, syscall.EUCLEAN, "partition 2 has the impossible range")
}

// bootRecord makes a boot record of entries {type, start, sectors}.
func bootRecord(b []byte, entries ...[3]uint32) {
	for i, e := range entries {
		p := b[mbrOffEntries+16*i:]
		p[4] = byte(e[0])
		binary.LittleEndian.PutUint32(p[8:], e[1])
		binary.LittleEndian.PutUint32(p[12:], e[2])
	}
	binary.LittleEndian.PutUint16(b[mbrOffSignature:], mbrSignature)
}

func TestHostileMBR(t *testing.T) {
	at := func(d *disk, sector int) []byte { return d.b[sector*512:][:512] }
	for _, c := range []struct {
		name    string
		make    func(d *disk)
		errno   error
		numbers string
	}{
		{"empty", func(d *disk) { bootRecord(at(d, 0)) }, nil, "[]"},
		{"extended without a record", func(d *disk) { bootRecord(at(d, 0), [3]uint32{5, 10, 100}) }, nil, "[1]"},
		{"chain to itself", func(d *disk) {
			bootRecord(at(d, 0), [3]uint32{5, 10, 100})
			bootRecord(at(d, 10), [3]uint32{0x83, 1, 1}, [3]uint32{5, 0, 100})
		}, syscall.EUCLEAN, ""},
		{"chain of two in a loop without partitions", func(d *disk) {
			bootRecord(at(d, 0), [3]uint32{5, 10, 100})
			bootRecord(at(d, 10), [3]uint32{0, 0, 0}, [3]uint32{5, 1, 100})
			bootRecord(at(d, 11), [3]uint32{0, 0, 0}, [3]uint32{5, 0, 100})
		}, syscall.EUCLEAN, "[1]"},
		{"chain out of the device", func(d *disk) {
			bootRecord(at(d, 0), [3]uint32{5, 10, 100})
			bootRecord(at(d, 10), [3]uint32{0x83, 1, 1}, [3]uint32{5, 0xffffffff, 100})
		}, syscall.EUCLEAN, "[1 5]"},
		{"chain to nothing", func(d *disk) {
			bootRecord(at(d, 0), [3]uint32{5, 10, 100})
			bootRecord(at(d, 10), [3]uint32{0x83, 1, 1}, [3]uint32{5, 20, 100})
		}, syscall.EUCLEAN, "[1 5]"},
		{"empty record in the chain", func(d *disk) {
			bootRecord(at(d, 0), [3]uint32{0x83, 1, 2}, [3]uint32{0}, [3]uint32{5, 10, 100})
			bootRecord(at(d, 10), [3]uint32{0, 0, 0}, [3]uint32{5, 20, 100})
			bootRecord(at(d, 30), [3]uint32{0x83, 1, 1})
		}, nil, "[1 3 5]"},
		{"two extended partitions", func(d *disk) {
			bootRecord(at(d, 0), [3]uint32{5, 10, 10}, [3]uint32{0x85, 30, 10})
			bootRecord(at(d, 10), [3]uint32{0x83, 1, 1})
			bootRecord(at(d, 30), [3]uint32{0x83, 1, 1})
		}, nil, "[1 2 5 6]"},
		{"boot sector of a filesystem", func(d *disk) {
			bootRecord(at(d, 0), [3]uint32{0x83, 1, 2})
			d.b[mbrOffEntries] = 0x33
		}, syscall.ENXIO, "[]"},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := &disk{b: make([]byte, 128*512), sector: 512}
			c.make(d)
			parts, err := ListPartitions(d)
			if !errors.Is(err, c.errno) {
				t.Errorf("error %v, want %v", err, c.errno)
			}
			numbers := []int{}
			for _, p := range parts {
				numbers = append(numbers, p.Number)
			}
			if c.numbers != "" && fmt.Sprint(numbers) != c.numbers {
				t.Errorf("partitions %v, want %s", numbers, c.numbers)
			}
		})
	}
	for n := range 513 {
		if _, err := ListPartitions(&disk{b: make([]byte, n)}); !errors.Is(err, syscall.ENXIO) {
			t.Fatalf("%d bytes: %v", n, err)
		}
	}
}

func TestTableReadError(t *testing.T) {
	h := &fakeHandle{data: make([]byte, 1<<20), align: 512, bad: 512}
	_, err := ListPartitions(fakeFile(t, h, Options{}))
	if want := "fake.img: read of 512 bytes at offset 512: input/output error"; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

func TestTableSizes(t *testing.T) {
	// The struct leaves out the signature, the revision and a reserved field.
	if n := 8 + 4 + 4 + binary.Size(gptHeader{}); n != 92 {
		t.Errorf("GPT header has %d bytes", n)
	}
	if n := binary.Size(gptEntry{}); n != 128 {
		t.Errorf("GPT entry has %d bytes", n)
	}
	if gptHeaderSize != 92 || gptEntrySize != 128 || mbrSize != 512 || mbrEntrySize != 16 ||
		mbrOffEntries+mbrEntries*mbrEntrySize != mbrOffSignature {
		t.Error("a constant is wrong")
	}
}

func FuzzDecodeMBR(f *testing.F) {
	b := make([]byte, 512)
	bootRecord(b, [3]uint32{0x83, 1, 2}, [3]uint32{5, 10, 20})
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		r, ok := decodeMBR(b)
		if !ok {
			return
		}
		for _, e := range r.Entries {
			if e.Status&^mbrStatusActive != 0 || e.extended() && !e.used() {
				t.Errorf("entry %+v", e)
			}
		}
	})
}

func FuzzDecodeGPT(f *testing.F) {
	f.Add(make([]byte, 512))
	b := append([]byte(gptSignature), make([]byte, 504)...)
	b[0x0c], b[0x50], b[0x55] = 92, 128, 1
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) >= gptHeaderSize {
			// Let the fuzzer through the checksum.
			if n := binary.LittleEndian.Uint32(b[0x0c:]); n >= gptHeaderSize && uint64(n) <= uint64(len(b)) {
				clear(b[0x10:0x14])
				binary.LittleEndian.PutUint32(b[0x10:], crc32.ChecksumIEEE(b[:n]))
			}
		}
		h, err := decodeGPTHeader(b)
		if err == nil && (uint64(h.Entries)*uint64(h.EntrySize) > gptMaxArray || h.EntrySize < gptEntrySize) {
			t.Errorf("header %+v", h)
		}
		if len(b) < gptEntrySize {
			return
		}
		e := decodeGPTEntry(b)
		if !utf8.ValidString(e.name()) {
			t.Errorf("name %q", e.name())
		}
		for _, sector := range []int64{512, 4096} {
			if p, err := e.partition(1, sector); err == nil && (p.Offset < 0 || p.Size <= 0 || p.Offset+p.Size < 0) {
				t.Errorf("partition %+v", p)
			}
		}
	})
}

func FuzzListPartitions(f *testing.F) {
	b := make([]byte, 4*512) // small, or the fuzzer only minimizes
	bootRecord(b, [3]uint32{5, 1, 3})
	bootRecord(b[512:], [3]uint32{0x83, 1, 2}, [3]uint32{5, 1, 2})
	bootRecord(b[2*512:], [3]uint32{0x83, 1, 1})
	f.Add(b)
	g := make([]byte, 4*512)
	h := g[512:1024]
	copy(h, gptSignature)
	le := binary.LittleEndian
	le.PutUint32(h[0x0c:], gptHeaderSize)
	le.PutUint64(h[0x18:], 1)
	le.PutUint64(h[0x48:], 2)
	le.PutUint32(h[0x50:], 2)
	le.PutUint32(h[0x54:], gptEntrySize)
	g[1024] = 1
	f.Add(g)
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) >= 1024 && string(b[512:520]) == gptSignature {
			b = patchGPT(append(b, make([]byte, 40*512)...), func(_, _ []byte) {})
		}
		d := &disk{b: b}
		reads := &readCounter{Device: d}
		parts, err := ListPartitions(reads)
		if err == io.EOF || len(parts) > 8192 || reads.n > 1000 {
			t.Errorf("%d partitions after %d reads, %v", len(parts), reads.n, err)
		}
		for _, p := range parts {
			if p.Number < 1 || p.Offset < 0 || p.Size <= 0 || p.Offset+p.Size < 0 {
				t.Errorf("partition %+v", p)
			}
		}
	})
}

type readCounter struct {
	Device
	n int
}

func (c *readCounter) ReadAt(p []byte, off int64) (int, error) {
	c.n++
	return c.Device.ReadAt(p, off)
}

func wantError(t *testing.T, err, errno error, text string) {
	t.Helper()
	if !errors.Is(err, errno) || err == nil || !strings.Contains(err.Error(), text) || strings.Contains(err.Error(), "\n") {
		t.Errorf("got error %v, want %v and %q", err, errno, text)
	}
}
