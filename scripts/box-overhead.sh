#!/bin/sh
# What the box costs: the same jobs on mounts with and without it, in turn.
# Prints the time with over the time without, each the best of ROUNDS.
set -eu
bin=${1:-bin/ext4box}
rounds=${ROUNDS:-5}
work=$(mktemp -d)
trap 'umount "$work/mnt" 2>/dev/null || true; rm -rf "$work"' EXIT
mkdir "$work/mnt" "$work/tree"
for d in $(seq 50); do
	mkdir "$work/tree/$d"
	for f in $(seq 40); do echo "$d $f" >"$work/tree/$d/$f"; done
done
tar -C "$work" -cf "$work/tree.tar" tree

seqwrite() { dd if=/dev/zero of="$work/mnt/file" bs=1M count=512 conv=fsync 2>/dev/null; }
seqread() { dd if="$work/mnt/file" of=/dev/null bs=1M iflag=direct 2>/dev/null; }
random() { i=0; while [ $i -lt 300 ]; do
	dd if="$work/mnt/file" of=/dev/null bs=4k count=8 skip=$((i * 7919 % 130000)) iflag=direct 2>/dev/null; i=$((i + 1)); done; }
untar() { tar -C "$work/mnt" -xf "$work/tree.tar"; sync -f "$work/mnt"; }
find_() { echo 2 >/proc/sys/vm/drop_caches; find "$work/mnt" -newer "$work/tree.tar" >/dev/null; }

round=0
while [ $round -lt "$rounds" ]; do
	for mode in on off; do
		rm -f "$work/image"
		truncate -s 2G "$work/image"
		mke2fs -q -t ext4 "$work/image"
		"$bin" mount --sandbox=$mode "$work/image" "$work/mnt" 2>/dev/null
		for job in seqwrite seqread random untar find_; do
			begin=$(date +%s%N)
			$job
			echo "$job $mode $(($(date +%s%N) - begin))" >>"$work/times"
		done
		"$bin" umount "$work/mnt"
	done
	round=$((round + 1))
done
awk '{ k = $1 " " $2; if (!(k in best) || $3 < best[k]) best[k] = $3; job[$1] = 1 }
END { for (j in job) printf "%-10s on %7.1f ms  off %7.1f ms  ratio %.3f\n", j, best[j " on"] / 1e6, best[j " off"] / 1e6, best[j " on"] / best[j " off"] }' "$work/times"
