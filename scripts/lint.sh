#!/bin/bash
# gofmt, go vet and staticcheck. Without access to a module proxy, staticcheck is
# left out and named.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
: "${GO:=go}"

unformatted=$(gofmt -l .)
if [ -n "$unformatted" ]; then
	echo "lint: not as gofmt writes it:" $unformatted
	exit 1
fi
"$GO" vet ./...
if "$GO" run "$STATICCHECK" -version >/dev/null 2>&1 </dev/null; then
	"$GO" run "$STATICCHECK" ./...
else
	echo "lint: left out: staticcheck, which cannot be downloaded"
fi
