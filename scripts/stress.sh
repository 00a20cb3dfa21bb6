#!/bin/bash
# stress-ng's filesystem class against a mount of a new image, all stressors at
# once, for SECONDS_EACH seconds. What it checks is not whether every stressor is
# content (some are not on any filesystem) but that ext4box is: the server lives,
# serves, has logged no error, holds no memory for what is gone, and leaves an image
# that e2fsck finds clean and as empty as it was.
#
#	scripts/stress.sh bin/ext4box
set -euo pipefail
export PATH="$PATH:/usr/sbin:/sbin"
box=$(realpath "${1:-bin/ext4box}")
: "${STRESSTIME:=300}" "${STRESSMEM:=262144}" # seconds; KiB that the server may have in the end

command -v stress-ng >/dev/null || { echo "stress: the package stress-ng is missing" >&2; exit 1; }
[ "$(id -u)" = 0 ] || { echo "stress: must be root" >&2; exit 1; }

dir=$(mktemp -d)
cleanup() {
	mountpoint -q "$dir/mnt" && umount -l "$dir/mnt"
	rm -rf "$dir/image" "$dir/log" "$dir/out"
	rmdir "$dir/mnt" "$dir" 2>/dev/null || true
}
trap cleanup EXIT

mkdir "$dir/mnt"
truncate -s 16G "$dir/image"
mke2fs -q -t ext4 -N 2000000 "$dir/image"
"$box" mount --log "$dir/log" "$dir/image" "$dir/mnt"
server=$(pgrep -n -f "$dir/image")
free() { stat -f -c '%f blocks and %d inodes' "$dir/mnt"; }
mkdir "$dir/mnt/work"
sync -f "$dir/mnt"
before=$(free)

# Without those that are about mounts of their own or about the whole machine.
echo "stress: $STRESSTIME seconds"
status=0
stress-ng --temp-path "$dir/mnt/work" --class filesystem --all 1 --timeout "$STRESSTIME" \
	-x binderfs,bind-mount,procfs,fanotify >"$dir/out" 2>&1 || status=$?
grep -E 'fail|error|warn' "$dir/out" | head -40 || true
echo "stress: stress-ng ended with status $status"

failed=0
problem() { echo "stress: FAILED: $*"; failed=1; }

kill -0 "$server" 2>/dev/null || problem "the server is gone"
rm -rf "$dir/mnt/work/"* || problem "what is left cannot be removed"
# What nobody has open any more is let go a moment later.
for _ in $(seq 20); do
	# It reports once what an earlier write met, of a stressor that was killed.
	sync -f "$dir/mnt" || true
	after=$(free)
	[ "$after" = "$before" ] && break
	sleep 0.5
done
[ "$after" = "$before" ] || problem "free were $before, and are $after"
memory=$(awk '/^VmRSS/ {print $2}' "/proc/$server/status")
peak=$(awk '/^VmHWM/ {print $2}' "/proc/$server/status")
echo "stress: the server holds $memory KiB, and held $peak KiB"
[ "$memory" -le "$STRESSMEM" ] || problem "the server holds $memory KiB"
[ ! -s "$dir/log" ] || { head -20 "$dir/log"; problem "the server has logged errors"; }
umount "$dir/mnt"
while kill -0 "$server" 2>/dev/null; do sleep 0.1; done
e2fsck -fn "$dir/image" >"$dir/out" 2>&1 || { cat "$dir/out"; problem "e2fsck has found errors"; }
[ "$failed" = 0 ] && echo "stress: clean"
exit "$failed"
