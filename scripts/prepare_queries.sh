#!/bin/sh
# Writes .sqlx anew: what Postgres says about each checked query, so that everyone else compiles without a database.
set -eu
cd -- "$(dirname -- "$0")/.."
fresh=$(mktemp -d .sqlx-XXXXXX)
trap 'rm -rf -- "$fresh"' EXIT
# The queries are looked at while `domain` is compiled, so it has to be.
touch domain/src/lib.rs
SQLX_OFFLINE=false SQLX_OFFLINE_DIR=$PWD/$fresh cargo run --quiet -p embedded --example with_postgres -- migrations cargo check -p domain --all-targets
rm -rf .sqlx
mv -- "$fresh" .sqlx
chmod 755 .sqlx
trap - EXIT
