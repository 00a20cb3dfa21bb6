#!/bin/bash
# Makes an ext4 image with real content, shows it without a mount, mounts it, shows
# it, unmounts it. Needs no root; where nothing can be mounted it shows what works
# without. Leaves nothing behind, also when it fails.
set -euo pipefail
export PATH="$PATH:/usr/sbin:/sbin"

ext4box=$(realpath "${1:?usage: demo.sh EXT4BOX}")
work=$(mktemp -d "${TMPDIR:-/tmp}/ext4box-demo.XXXXXX")
image=$work/demo.img
mnt=$work/mnt
export XDG_RUNTIME_DIR=$work # the state file of an ordinary user's mount

cleanup() {
	status=$?
	grep -qs " $mnt .* fuse.ext4box " /proc/self/mountinfo && "$ext4box" umount --lazy "$mnt"
	rm -rf "$work"
	exit "$status"
}
trap cleanup EXIT
trap 'exit 8' INT TERM HUP

bold=''
[ -t 1 ] && bold=$(printf '\033[1m')
say() { printf '\n%s%s%s\n' "$bold" "$*" "${bold:+$(printf '\033[0m')}"; }
show() {
	printf '$ %s\n' "$*" | sed "s|$ext4box|ext4box|; s|$work/||g"
	"$@"
}

if ! command -v mke2fs >/dev/null; then
	echo "demo: needs mke2fs: apt-get install e2fsprogs" >&2
	exit 1
fi

say "An ext4 image, made without root"
mkdir -p "$work/tree/etc" "$work/tree/docs/deep/er" "$mnt"
cp /etc/os-release "$work/tree/etc/"
printf 'root:x:0:0:root:/root:/bin/bash\n' >"$work/tree/etc/passwd"
ln -s ../etc/os-release "$work/tree/docs/link"
ln "$work/tree/etc/passwd" "$work/tree/docs/hard link"
seq 1 200000 >"$work/tree/docs/deep/er/numbers"
printf 'end' | dd of="$work/tree/docs/sparse" bs=1 seek=1G status=none
setfattr -n user.comment -v 'kept, like everything else' "$work/tree/etc/passwd" 2>/dev/null || true
mke2fs -q -t ext4 -L demo -d "$work/tree" "$image" 64M >/dev/null
before=$(sha256sum <"$image")
ls -sh "$image" | sed "s|$work/||"

say "Without a mount"
show "$ext4box" info "$image"
show "$ext4box" ls -l "$image" /docs
show "$ext4box" stat "$image" /etc/passwd
show "$ext4box" cat "$image" /etc/passwd
show "$ext4box" cp "$image" /docs "$work/copy"
du -h --apparent-size "$work/copy/sparse" | sed "s|$work/||"
du -h "$work/copy/sparse" | sed "s|$work/||"

say "What this machine offers"
if ! "$ext4box" doctor; then
	say "Nothing can be mounted here, for the reason given above; all that was shown before works without."
	exit 0
fi
if [ "$(id -u)" != 0 ] && ! command -v fusermount3 >/dev/null; then
	say "Without root and without fusermount3 (package fuse3) there is no mount to show; all of the above works without."
	exit 0
fi

say "Mounted"
show "$ext4box" mount -o ro "$image" "$mnt"
grep " $mnt " /proc/self/mountinfo | sed "s|$work/||g"
show df -h "$mnt" | sed "s|$work/||g"
show ls -lR "$mnt" --ignore=lost+found | sed "s|$work/||g"
show stat "$mnt/docs/hard link" | sed "s|$work/||g"
show tail -n 1 "$mnt/docs/deep/er/numbers"
cmp "$mnt/docs/deep/er/numbers" "$work/tree/docs/deep/er/numbers" && echo "the same as the original"
cmp "$mnt/docs/sparse" "$work/tree/docs/sparse" && echo "the sparse gigabyte too"

say "Unmounted"
show "$ext4box" umount "$mnt"
if [ "$before" = "$(sha256sum <"$image")" ]; then
	echo "not a byte of the image has changed"
else
	echo "demo: the image has changed" >&2
	exit 1
fi
