#!/bin/sh
# Regenerates .sqlx/: metadata of each checked query from Postgres, so that other builds need no database.
set -eu
cd -- "$(dirname -- "$0")/.."
fresh=$(mktemp -d .sqlx-XXXXXX)
trap 'rm -rf -- "$fresh"' EXIT
# Queries are checked while `domain` is compiled, so force that.
touch domain/src/lib.rs
SQLX_OFFLINE=false SQLX_OFFLINE_DIR=$PWD/$fresh cargo run --quiet -p embedded --example with_postgres -- \
    migrations cargo check -p domain --all-targets
rm -rf .sqlx
mv -- "$fresh" .sqlx
chmod 755 .sqlx
trap - EXIT
