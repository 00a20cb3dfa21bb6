package fuse

import (
	"errors"
	"math"
	"syscall"
	"testing"
)

func mustNormalise(t *testing.T, p Params, limit int) Params {
	t.Helper()
	p, err := p.normalise(limit)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestNegotiateVersions(t *testing.T) {
	want := mustNormalise(t, Params{}, 256)
	for minor := uint32(0); minor <= 110; minor++ {
		p, err := negotiate(&InitIn{Major: 7, Minor: minor, Flags: math.MaxUint32, Flags2: math.MaxUint32}, want)
		if minor < 31 {
			if !errors.Is(err, syscall.EPROTO) {
				t.Errorf("7.%d: error %v, want EPROTO", minor, err)
			}
			continue
		}
		if err != nil {
			t.Fatalf("7.%d: %v", minor, err)
		}
		if p.Minor != min(minor, 46) || p.KernelMinor != minor {
			t.Errorf("7.%d: speaks 7.%d, kernel's is %d", minor, p.Minor, p.KernelMinor)
		}
	}
	if _, err := negotiate(&InitIn{Major: 6, Minor: 99}, want); !errors.Is(err, syscall.EPROTO) {
		t.Errorf("major 6: error %v, want EPROTO", err)
	}
	p, err := negotiate(&InitIn{Major: 8}, want)
	if err != errInitAgain || p.Minor != MaxMinor {
		t.Errorf("major 8: %v, %v", p, err)
	}
	if out := p.answer(); out.Major != 7 || out.Minor != 46 || out.InitFlags() != 0 {
		t.Errorf("answer to major 8: %+v", out)
	}
}

// TestNeverAnswered checks the features that must not be opted in to, whatever was wanted and offered.
func TestNeverAnswered(t *testing.T) {
	const never = InitFlags(math.MaxUint64 &^ (1<<43 - 1))
	all := mustNormalise(t, Params{Flags: answerable}, 256)
	for _, minor := range []uint32{31, 36, 45, 46, 50, 98, 99, 100, 1000} {
		p, err := negotiate(&InitIn{Major: 7, Minor: minor, Flags: math.MaxUint32, Flags2: math.MaxUint32}, all)
		if err != nil {
			t.Fatal(err)
		}
		if f := p.answer().InitFlags(); f&(never|initReserved|InitOverIOUring) != 0 {
			t.Errorf("7.%d: answers %v", minor, f&(never|initReserved|InitOverIOUring))
		}
		if !p.Has(InitExt | InitMaxPages | InitBigWrites | InitAbortError) {
			t.Errorf("7.%d: lacks what the session needs: %v", minor, p.Flags)
		}
	}
	for _, f := range []InitFlags{initReserved, InitOverIOUring, InitIOUringBufpool, 1 << 44, 1 << 63} {
		if _, err := (Params{Flags: f}).normalise(256); !errors.Is(err, syscall.EINVAL) {
			t.Errorf("asking for %v: %v, want EINVAL", f, err)
		}
	}
}

func TestNegotiateFlags(t *testing.T) {
	const offered = InitAsyncRead | InitParallelDirops | InitMaxPages
	p, err := negotiate(&InitIn{Major: 7, Minor: 31, Flags: uint32(offered), Flags2: math.MaxUint32},
		mustNormalise(t, Params{Flags: InitAsyncRead | InitWritebackCache | InitPassthrough, MaxStackDepth: 1, RequestTimeout: 60}, 256))
	if err != nil {
		t.Fatal(err)
	}
	if want := InitAsyncRead | InitMaxPages; p.Flags != want {
		t.Errorf("granted %v, want %v", p.Flags, want)
	}
	if p.Offered != offered {
		t.Errorf("flags2 was believed without INIT_EXT: %v", p.Offered)
	}
	if p.MaxStackDepth != 0 || p.RequestTimeout != 0 {
		t.Errorf("parameters of features that were not granted: %+v", p.Params)
	}
	if out := p.answer(); out.Flags2 != 0 {
		t.Errorf("flags2 = %#x without INIT_EXT", out.Flags2)
	}

	both := InitAutoInvalData | InitExplicitInvalData
	p, _ = negotiate(&InitIn{Major: 7, Minor: 46, Flags: math.MaxUint32}, mustNormalise(t, Params{Flags: both}, 256))
	if p.Flags&both != InitAutoInvalData {
		t.Errorf("granted %v", p.Flags&both)
	}

	p, _ = negotiate(&InitIn{Major: 7, Minor: 46, Flags: math.MaxUint32, Flags2: math.MaxUint32},
		mustNormalise(t, Params{Flags: InitPassthrough, MaxStackDepth: 2, RequestTimeout: 60}, 256))
	out := p.answer()
	if out.MaxStackDepth != 2 || out.RequestTimeout != 60 || !p.Has(InitPassthrough|InitRequestTimeout) {
		t.Errorf("%+v", out)
	}
}

func TestRequestSizes(t *testing.T) {
	page := uint32(pageSize)
	for _, c := range []struct {
		name      string
		want      Params
		limit     int
		noPages   bool // the kernel does not offer MAX_PAGES
		maxWrite  uint32
		maxPages  uint16
		readahead uint32
	}{
		{"default", Params{}, 256, false, 256 * page, 256, 1 << 20},
		{"raised sysctl", Params{}, 1024, false, 1024 * page, 1024, 1 << 20},
		{"lowered sysctl", Params{MaxPages: 256}, 16, false, 16 * page, 16, 1 << 20},
		{"small writes", Params{MaxWrite: 64 << 10}, 256, false, 64 << 10, uint16((64 << 10) / page), 1 << 20},
		{"odd write", Params{MaxWrite: 3*page + 1}, 256, false, 3*page + 1, 4, 1 << 20},
		{"pages without write", Params{MaxPages: 8}, 256, false, 8 * page, 8, 1 << 20},
		{"tiny", Params{MaxWrite: 1}, 256, false, 4096, 1, 1 << 20},
		{"too large write", Params{MaxWrite: 1 << 30, MaxPages: 2}, 256, false, 2 * page, 2, 1 << 20},
		{"most", Params{MaxPages: 65535}, 65535, false, 65535 * page, 65535, 1 << 20},
		{"no MAX_PAGES", Params{}, 256, true, 32 * page, 32, 1 << 20},
		{"less readahead", Params{MaxReadahead: 4096}, 256, false, 256 * page, 256, 4096},
		{"more readahead", Params{MaxReadahead: 4 << 20}, 256, false, 256 * page, 256, 1 << 20},
	} {
		want := mustNormalise(t, c.want, c.limit)
		in := &InitIn{Major: 7, Minor: 40, MaxReadahead: 1 << 20, Flags: math.MaxUint32}
		if c.noPages {
			in.Flags &^= uint32(InitMaxPages)
		}
		p, err := negotiate(in, want)
		if err != nil {
			t.Fatal(err)
		}
		out := p.answer()
		if out.MaxWrite != c.maxWrite || out.MaxPages != c.maxPages || out.MaxReadahead != c.readahead {
			t.Errorf("%s: max_write %d, max_pages %d, max_readahead %d; want %d, %d, %d", c.name,
				out.MaxWrite, out.MaxPages, out.MaxReadahead, c.maxWrite, c.maxPages, c.readahead)
		}
		if room := want.payloadSize(); room < int(out.MaxWrite) || room < int(out.MaxPages)*pageSize ||
			room < 65536+4096 || room%pageSize != 0 {
			t.Errorf("%s: buffers have room for %d bytes", c.name, room)
		}
	}
	if _, err := (Params{TimeGran: 2e9}).normalise(256); !errors.Is(err, syscall.EINVAL) {
		t.Errorf("time granularity of 2 s: %v, want EINVAL", err)
	}
}
