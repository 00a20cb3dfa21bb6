#!/bin/bash
# Installs the Debian packages that the demo and the tests use, those that are
# missing, when it may. It never fails: what cannot be installed is named, and the
# tests that need it are left out.
set -uo pipefail
export PATH="$PATH:/usr/sbin:/sbin"

# package and a program of it, by which its presence is known
packages='
e2fsprogs    mke2fs      images, and the judges of them
fuse3        fusermount3 mounting as an ordinary user
attr         setfattr    extended attributes
acl          setfacl     access control lists
fio          fio         benchmarks
fuse2fs      fuse2fs     benchmarks: what to compare with
git          git         benchmarks: checkout and status
util-linux   setpriv     mounting, loop devices, other users
mount        losetup     loop devices
fdisk        sfdisk      partition tables
keyutils     keyctl      encrypted directories
libcap2-bin  capsh       capabilities
stress-ng    stress-ng   soaking
gcc          gcc         the race detector
libc6-dev    -           the race detector
'

installed() { # package program
	if [ "$2" = - ]; then
		[ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ] || ! command -v dpkg-query >/dev/null
	else
		command -v "$2" >/dev/null
	fi
}

missing() {
	while read -r package program purpose; do
		[ -n "$package" ] && ! installed "$package" "$program" && echo "$package"
	done <<<"$packages"
}

as_root() {
	if [ "$(id -u)" = 0 ]; then
		"$@"
	elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
		sudo -n "$@"
	else
		return 1
	fi
}

wanted=$(missing)
if [ -n "$wanted" ] && command -v apt-get >/dev/null && as_root true; then
	echo "setup: installing $(echo $wanted)"
	{
		as_root apt-get update -qq
		# One by one when not all of them are to be had.
		as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $wanted ||
			for package in $wanted; do
				as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$package"
			done
	} </dev/null >/dev/null 2>&1
fi
[ -e /dev/fuse ] || as_root modprobe fuse 2>/dev/null

while read -r package program purpose; do
	[ -n "$package" ] && ! installed "$package" "$program" &&
		echo "setup: left out for want of the package $package: $purpose"
done <<<"$packages"
exit 0
