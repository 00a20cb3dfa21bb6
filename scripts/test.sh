#!/bin/bash
# The tests: PACKAGES under the race detector, then everything. Before that it says
# what this user and this machine make it leave out; each test says so as well, to
# who asks with "go test -v". The last lines are go test's own.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export PATH="$PATH:/usr/sbin:/sbin"
: "${GO:=go}"

left_out() { echo "test: left out: $*"; }

if [ "$(id -u)" != 0 ]; then
	left_out "what needs root: the kernel's ext4 as judge, loop devices, mount(2), device files, foreign owners"
fi
if [ ! -e /dev/fuse ]; then
	left_out "mounting: there is no /dev/fuse"
elif ! [ -r /dev/fuse -a -w /dev/fuse ]; then
	left_out "mounting: /dev/fuse is not open to this user"
elif [ "$(id -u)" != 0 ] && ! command -v fusermount3 >/dev/null; then
	left_out "mounting: the package fuse3 is missing"
fi
for program in mke2fs debugfs e2fsck dumpe2fs setfattr setfacl sfdisk; do
	command -v "$program" >/dev/null || left_out "what needs $program"
done
unshare -Ur true 2>/dev/null || left_out "user namespaces"

if [ "$("$GO" env CGO_ENABLED)" = 1 ] && command -v "$("$GO" env CC)" >/dev/null; then
	echo "test: under the race detector"
	"$GO" test -race -short -timeout 10m "$@"
else
	left_out "the race detector: there is no C compiler"
fi
# Without cgo, as what is built and installed.
echo "test: everything"
export CGO_ENABLED=0
exec "$GO" test -timeout 15m ./...
