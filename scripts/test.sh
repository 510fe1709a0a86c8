#!/bin/sh
# Every check and every test. The quick ones first; the test runner's own summary is the last line.
set -eu
cd -- "$(dirname -- "$0")/.."

say() { printf '\n── %s\n' "$1"; }

say "formatting"
cargo fmt --all --check

say "building the workspace and its tests (dev profile)"
# Together and before the tests, which drive the built binary: one feature set, so nothing is compiled twice.
cargo build --workspace --bins --tests

say "openapi/openapi.json is what the code says"
scripts/check_openapi.sh

say "lints"
cargo clippy --workspace --all-targets --quiet -- -D warnings

# Not when somebody asks for a few tests only.
if [ $# -eq 0 ]; then
    say "every operation of the API, by schemathesis"
    scripts/contract.sh
fi

say "tests"
# Not nextest: it gives each test a process, and so each would make a Postgres of its own instead of sharing one.
# There are no documentation tests, and their "0 passed" would be the last line.
exec cargo test --workspace --no-fail-fast --lib --bins --tests "$@"
