#!/bin/sh
# Compares the committed contract of the REST API with what the code says. `just bless` writes it anew.
set -eu
cd -- "$(dirname -- "$0")/.."
fresh=$(mktemp)
trap 'rm -f -- "$fresh"' EXIT
scripts/openapi.sh > "$fresh"
if ! diff -u openapi/openapi.json "$fresh"; then
    echo "openapi/openapi.json is behind the code: run \`just bless\` and commit it" >&2
    exit 1
fi
