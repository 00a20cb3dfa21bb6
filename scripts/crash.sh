#!/bin/bash
# The crash suite: CRASHPOINTS power cuts of each random history, more of the
# short ones, every write and flush of a workload failing, and CRASHKILLS mounts
# killed under load. The last line says how many points were tried and lost.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export PATH="$PATH:/usr/sbin:/sbin"
: "${GO:=go}" "${CRASHPOINTS:=2000}" "${CRASHKILLS:=100}"

status=0
EXT4BOX_CRASH_POINTS="$CRASHPOINTS" EXT4BOX_CRASH_KILLS="$CRASHKILLS" \
	"$GO" test -count=1 -timeout 12h -v -run '^TestCrash((Iomap)?(Random|Scripts)|Unlogged|FailingDevice|Kill)$' ./ext4 ./test |
	grep --line-buffered -v '^=== ' | awk '
		{ print; fflush() }
		/ tried, .* lost$/ || / killed, .* lost$/ {
			for (i = 2; i <= NF; i++) {
				if ($i == "tried," || $i == "killed,") tried += $(i - 2)
				if ($i == "lost") lost += $(i - 1)
			}
		}
		END { printf "crash: %d points tried, %d lost\n", tried, lost }' || status=$?
exit "$status"
