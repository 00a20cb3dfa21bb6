# ext4box. The two commands to know are "make demo" and "make test"; each does
# everything it needs by itself.

PREFIX  ?= /usr/local
SBINDIR ?= /sbin
UNITDIR ?= $(PREFIX)/lib/systemd/system
UNITS   := ext4box.socket ext4box@.service
DESTDIR ?=

GO          ?= go
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2
FUZZTIME    ?= 30s
BENCHTIME   ?= 1s
BENCHFLAGS  ?=
BENCHJSON   ?= bin/bench.json
DIFFERENTIAL_OPS  ?= 20000
DIFFERENTIAL_SEED ?= 1000
CRASHPOINTS ?= 2000
CRASHKILLS  ?= 100
HOSTILE     ?= 2000
HOSTILESEED ?= 1
HOSTILEOF   ?=
FSXOPS      ?= 1000000
CHECKMUTANTS ?= 1000
CHECKSEED   ?= 1000
FSXSEED     ?= 1
STRESSTIME  ?= 300
RELEASE     ?= $(shell git describe --tags --always --dirty 2>/dev/null)

# Packages with goroutines, which are tested under the race detector as well.
RACE := ./blockdev/... ./fuse/... ./server/... ./mount/... ./iomap/... ./ext4/...

.PHONY: all build demo test setup lint fuzz crash differential hostile check-mutants fsx stress links soak bench bench-doc microbench install uninstall clean

all: build

# A static binary: no cgo, no shared libraries, nothing to install beside it.
build:
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-s -w -X main.release=$(RELEASE)' -o bin/ext4box ./cmd/ext4box

demo: setup build
	scripts/demo.sh bin/ext4box

test: setup lint
	GO='$(GO)' scripts/test.sh $(RACE)

setup:
	scripts/setup.sh

lint:
	GO='$(GO)' STATICCHECK='$(STATICCHECK)' scripts/lint.sh

# Every fuzz target in turn, FUZZTIME each.
fuzz:
	GO='$(GO)' FUZZTIME='$(FUZZTIME)' scripts/fuzz.sh

# Random I/O to files on a mount, against buffers in memory: FSXOPS operations, and
# as many through the model of each kernel that moves the data itself.
fsx:
	EXT4BOX_FSX_OPS='$(FSXOPS)' EXT4BOX_FSX_SEED='$(FSXSEED)' $(GO) test -count=1 -timeout 1h -run '^TestFsx(Iomap)?$$' -v ./test

# Hostile images, read and written, through the library, a model of the kernel and the real one:
# HOSTILE mutants of each rich image of the matrix whose name HOSTILEOF matches, from seed HOSTILESEED on, fewer where a
# kernel or a model of one mounts them, and as many kernels that have gone mad.
hostile: setup
	EXT4BOX_MUTANTS='$(HOSTILE)' EXT4BOX_MUTANTS_SEED='$(HOSTILESEED)' EXT4BOX_MUTANTS_OF='$(HOSTILEOF)' $(GO) test -count=1 -timeout 8h \
		-run '^(TestMutants|TestMutantsMapped|TestMutantsMounted|TestIomapAttacked)$$' -v ./ext4 ./server ./test

# CHECKMUTANTS damaged images of each shape from seed CHECKSEED on, and the sound ones
# of the matrix, before the verb check and before e2fsck: prints how often they agree.
check-mutants:
	EXT4BOX_CHECK_MUTANTS='$(CHECKMUTANTS)' EXT4BOX_CHECK_SEED='$(CHECKSEED)' $(GO) test -count=1 -timeout 4h -run '^Test(Agree|Mutants)' -v ./ext4/check

# stress-ng's filesystem class against a mount, STRESSTIME seconds.
stress: setup build
	STRESSTIME='$(STRESSTIME)' scripts/stress.sh bin/ext4box

# A quarter of a million names and subdirectories.
links:
	EXT4BOX_SOAK=1 $(GO) test -count=1 -timeout 1h -run '^TestLimitLinks$$' -v ./test

# All the long suites of I/O.
soak: fsx stress links

# Power cuts, also where a model of a kernel moves the data itself, failing devices and
# killed mounts; prints the points tried and lost.
crash: setup
	GO='$(GO)' CRASHPOINTS='$(CRASHPOINTS)' CRASHKILLS='$(CRASHKILLS)' scripts/crash.sh

# ext4box, on the kernel and on models of kernels, and ext4 side by side: random
# system calls, the same answers.
# DIFFERENTIAL_OPS calls for each shape of filesystem, from DIFFERENTIAL_SEED on.
differential:
	DIFFERENTIAL_OPS='$(DIFFERENTIAL_OPS)' DIFFERENTIAL_SEED='$(DIFFERENTIAL_SEED)' \
		$(GO) test ./test -run TestDifferential -count 1 -timeout 0 -v

# Jobs on ext4box, the kernel's ext4 and fuse2fs, side by side, for about 15 minutes; takes
# root, 15 GiB of space, and a machine that does nothing else. The results go to BENCHJSON.
# BENCHFLAGS are those of the program in bench: --quick, --jobs REGEXP, --scale, --unboxed
# for what the box costs; "bin/bench --help" has all.
bench: setup build
	$(GO) build -o bin/bench ./bench
	bin/bench --json '$(BENCHJSON)' $(BENCHFLAGS)

# docs/performance.md from these results.
bench-doc:
	$(GO) run ./bench --json '$(BENCHJSON)' --doc docs/performance.md

# Benchmarks of single packages.
microbench:
	$(GO) test -run '^$$' -bench . -benchmem -benchtime '$(BENCHTIME)' ./...

install: build
	install -D -m 755 bin/ext4box '$(DESTDIR)$(PREFIX)/bin/ext4box'
	install -D -m 644 docs/ext4box.1 '$(DESTDIR)$(PREFIX)/share/man/man1/ext4box.1'
	install -d '$(DESTDIR)$(SBINDIR)' '$(DESTDIR)$(UNITDIR)'
	for unit in $(UNITS); do \
		sed 's|@BINDIR@|$(PREFIX)/bin|' systemd/$$unit >'$(DESTDIR)$(UNITDIR)'/$$unit || exit; \
		chmod 644 '$(DESTDIR)$(UNITDIR)'/$$unit; \
	done
	ln -sf '$(PREFIX)/bin/ext4box' '$(DESTDIR)$(SBINDIR)/mount.fuse.ext4box'
	ln -sf '$(PREFIX)/bin/ext4box' '$(DESTDIR)$(SBINDIR)/umount.fuse.ext4box'
	ln -sf '$(PREFIX)/bin/ext4box' '$(DESTDIR)$(SBINDIR)/fsck.fuse.ext4box'

uninstall:
	rm -f '$(DESTDIR)$(PREFIX)/bin/ext4box' '$(DESTDIR)$(PREFIX)/share/man/man1/ext4box.1'
	rm -f '$(DESTDIR)$(SBINDIR)/mount.fuse.ext4box' '$(DESTDIR)$(SBINDIR)/umount.fuse.ext4box'
	rm -f '$(DESTDIR)$(SBINDIR)/fsck.fuse.ext4box'
	for unit in $(UNITS); do rm -f '$(DESTDIR)$(UNITDIR)'/$$unit; done

clean:
	rm -rf bin
