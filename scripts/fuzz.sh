#!/bin/bash
# Runs every fuzz target for FUZZTIME, one after the other. An input that covers new code is made
# smaller in 10 tries: with 60 seconds for each, as is the default, little else would be done.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
: "${GO:=go}" "${FUZZTIME:=30s}"

for package in $("$GO" list ./...); do
	targets=$("$GO" test -run '^$' -list '^Fuzz' "$package" | grep '^Fuzz' || true)
	for target in $targets; do
		echo "fuzz: $package $target for $FUZZTIME"
		"$GO" test -run '^$' -fuzz "^$target\$" -fuzztime "$FUZZTIME" -fuzzminimizetime 10x "$package"
	done
done
