#!/bin/sh
# Prints the OpenAPI document, generated from the code.
set -eu
cd -- "$(dirname -- "$0")/.."
# Build the whole workspace, as the tests do: a single package has other features, and all of Burn would be compiled
# again.
cargo build --quiet --workspace --bins --tests
target=$(cargo metadata --no-deps --format-version 1 | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')
exec "$target/debug/pyrograph" openapi
