package fuse

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"os"
	"strconv"
	"strings"
	"syscall"
	"unsafe"
)

const (
	// initInCompatSize is the size of fuse_init_in before minor 36.
	initInCompatSize = 16
	// minMaxWrite is the least that the kernel takes for max_write.
	minMaxWrite = 4096
	// defaultMaxPages is the limit of pages per request before there was a sysctl, and its default.
	defaultMaxPages = 256
	// classicMaxPages is what the kernel uses without InitMaxPages.
	classicMaxPages = 32
)

// structural are the features that the session itself needs.
const structural = InitExt | InitMaxPages | InitBigWrites | InitAbortError

// answerable are the features that may be part of an answer.
const answerable = (initBit43 - 1) &^ (initReserved | InitOverIOUring)

// KernelMaxPages returns the kernel's limit of pages per request, as /proc shows it.
func KernelMaxPages() int {
	b, err := os.ReadFile("/proc/sys/fs/fuse/max_pages_limit")
	if err != nil {
		return defaultMaxPages // before 6.13, or in a box without /proc
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil || n < 1 {
		return defaultMaxPages
	}
	return min(n, math.MaxUint16)
}

// normalise fills in the defaults and makes MaxPages and MaxWrite fit together and below limit pages.
func (p Params) normalise(limit int) (Params, error) {
	if p.TimeGran > 1e9 {
		return p, fmt.Errorf("time granularity of %d ns is more than a second: %w", p.TimeGran, syscall.EINVAL)
	}
	if p.Flags&^answerable != 0 {
		return p, fmt.Errorf("features %v cannot be asked for: %w", p.Flags&^answerable, syscall.EINVAL)
	}
	if p.IomapMinor != 0 && p.IomapMinor <= IomapMinor {
		return p, fmt.Errorf("version 7.%d cannot be taken for 7.%d: %w", p.IomapMinor, IomapMinor, syscall.EINVAL)
	}
	page := pageSize
	pages := int(p.MaxPages)
	if pages == 0 {
		pages = limit
		if p.MaxWrite != 0 {
			pages = max(1, (int(p.MaxWrite)+page-1)/page)
		}
	}
	p.MaxPages = uint16(min(pages, limit))
	room := uint64(p.MaxPages) * uint64(page)
	if p.MaxWrite == 0 || uint64(p.MaxWrite) > room {
		p.MaxWrite = uint32(min(room, math.MaxUint32&^uint64(page-1)))
	}
	p.MaxWrite = max(p.MaxWrite, minMaxWrite)
	if p.TimeGran == 0 {
		p.TimeGran = 1
	}
	if p.RequestTimeout != 0 {
		p.Flags |= InitRequestTimeout
	}
	p.Flags |= structural
	return p, nil
}

// payloadSize is the room that the largest request or reply needs behind its head, in whole pages.
// Extended attributes (64 KiB and their name) need it even where READ and WRITE do not.
func (p *Params) payloadSize() int {
	page := pageSize
	n := max(int(p.MaxPages)*page, int(p.MaxWrite), classicMaxPages*page)
	return (n + page - 1) / page * page
}

// errInitAgain means that the kernel speaks a later major version and will ask again with ours.
var errInitAgain = errors.New("the kernel speaks a newer major version")

// negotiate decides on the terms. In case of errInitAgain the answer carries our version only.
func negotiate(in *InitIn, want Params) (*Protocol, error) {
	switch {
	case in.Major > Major:
		return &Protocol{Minor: MaxMinor}, errInitAgain
	case in.Major < Major || in.Minor < MinMinor:
		return nil, fmt.Errorf("the kernel speaks FUSE %d.%d, but at least %d.%d (Linux 5.4) is needed: %w",
			in.Major, in.Minor, Major, MinMinor, syscall.EPROTO)
	}
	p := &Protocol{
		Minor:           min(in.Minor, MaxMinor),
		KernelMinor:     in.Minor,
		Offered:         in.InitFlags(),
		KernelReadahead: in.MaxReadahead,
		Params:          want,
	}
	p.Iomap = false // until the session has asked for it: see grantIomap
	p.settle()
	return p, nil
}

// settle brings the parameters in line with the offer and with each other.
func (p *Protocol) settle() {
	p.Flags &= p.Offered & answerable
	if p.Has(InitAutoInvalData) {
		p.Flags &^= InitExplicitInvalData // the kernel honours only one
	}
	if p.MaxReadahead == 0 || p.MaxReadahead > p.KernelReadahead {
		p.MaxReadahead = p.KernelReadahead
	}
	if !p.Has(InitMaxPages) {
		p.MaxPages = classicMaxPages
	}
	room := uint64(p.MaxPages) * uint64(pageSize)
	p.MaxWrite = max(uint32(min(uint64(p.MaxWrite), room)), minMaxWrite)
	if !p.Has(InitPassthrough) {
		p.MaxStackDepth = 0
	}
	if !p.Has(InitRequestTimeout) {
		p.RequestTimeout = 0
	}
	if !p.Has(InitMapAlignment) {
		p.MapAlignment = 0
	}
}

// answer encodes the terms.
func (p *Protocol) answer() *InitOut {
	flags := p.Flags
	if p.Iomap {
		flags |= InitIomap
	}
	return &InitOut{
		Major:               Major,
		Minor:               p.Minor,
		MaxReadahead:        p.MaxReadahead,
		Flags:               uint32(flags),
		Flags2:              uint32(flags >> 32),
		MaxBackground:       p.MaxBackground,
		CongestionThreshold: p.CongestionThreshold,
		MaxWrite:            p.MaxWrite,
		TimeGran:            p.TimeGran,
		MaxPages:            p.MaxPages,
		MapAlignment:        p.MapAlignment,
		MaxStackDepth:       p.MaxStackDepth,
		RequestTimeout:      p.RequestTimeout,
	}
}

// initialise handles INIT.
func (w *Worker) initialise(r *Request, rest, payload []byte) (int, syscall.Errno) {
	s := w.s
	if s.proto.Load() != nil || s.destroyed.Load() {
		return 0, syscall.EIO
	}
	in := input[InitIn](w)
	copy(raw(in)[initInCompatSize:], rest)
	if len(rest) < int(unsafe.Sizeof(InitIn{}))-initInCompatSize {
		in.Flags &^= uint32(InitExt)
	}
	p, err := negotiate(in, s.want)
	if err == errInitAgain {
		return copy(payload, raw(p.answer())), 0
	}
	if err != nil {
		s.fail(err)
		return 0, syscall.EPROTO
	}
	s.grantIomap(p)
	granted := p.Params
	r.Protocol = p
	if errno := s.ops.Init(r, p); errno != 0 {
		s.fail(fmt.Errorf("the server refused to start: %w", errno))
		return 0, errno
	}
	// Init may have given up features, but it cannot add any or raise what sizes the buffers.
	p.Flags = p.Flags&granted.Flags | granted.Flags&structural
	p.MaxPages = min(max(p.MaxPages, 1), granted.MaxPages)
	p.MaxWrite = min(p.MaxWrite, granted.MaxWrite)
	if p.Iomap = p.Iomap && granted.Iomap; granted.Iomap && !p.Iomap {
		p.refuseIomap(cmp.Or(p.NoIomap, "the server does not want it"))
	}
	p.settle()
	if r, ok := s.t.(ringed); ok && !p.Iomap && p.Offered&InitOverIOUring != 0 && r.prepareRings(s) {
		p.Flags |= InitOverIOUring
	}
	s.proto.Store(p)
	close(s.ready)
	return copy(payload, raw(p.answer())), 0
}
