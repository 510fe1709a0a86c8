#!/bin/sh
# Prints the contract of the REST API as the code says it.
set -eu
cd -- "$(dirname -- "$0")/.."
# The whole workspace, as the tests build it: one package alone would have other features, and all of Burn be compiled again.
cargo build --quiet --workspace --bins --tests
target=$(cargo metadata --no-deps --format-version 1 | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')
exec "$target/debug/pyrograph" openapi
