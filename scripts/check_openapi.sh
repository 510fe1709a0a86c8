#!/bin/sh
# Compares the committed OpenAPI document with the code. `just bless` regenerates it.
set -eu
cd -- "$(dirname -- "$0")/.."
fresh=$(mktemp)
trap 'rm -f -- "$fresh"' EXIT
scripts/openapi.sh > "$fresh"
if ! diff -u openapi/openapi.json "$fresh"; then
    echo "openapi/openapi.json is out of date: run \`just bless\` and commit it" >&2
    exit 1
fi
