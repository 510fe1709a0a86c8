#!/bin/sh
# Runs every check and every test, quick ones first. The last line counts the tests, and those that were skipped for
# want of a program.
set -eu
cd -- "$(dirname -- "$0")/.."

say() { printf '\n── %s\n' "$1"; }

say "formatting"
cargo fmt --all --check

say "imports and words"
python3 scripts/check_imports.py
python3 scripts/check_words.py
python3 scripts/check_permalinks.py

say "building the workspace and its tests (dev profile)"
# Together, and before the tests, which drive the built binary: with one feature set nothing is compiled twice.
cargo build --workspace --bins --tests

say "openapi/openapi.json matches the code"
scripts/check_openapi.sh

say "lints"
cargo clippy --workspace --all-targets --quiet -- -D warnings

# Skipped if only some tests were selected.
if [ $# -eq 0 ]; then
    say "every operation of the API, by schemathesis"
    scripts/contract.sh
    say "generated clients in Python and TypeScript"
    scripts/clients.sh
fi

if [ $# -eq 0 ]; then
    say "every benchmark, once and at a tiny size"
    bench/setup.sh
    cargo build --quiet --workspace --examples
    .venv-bench/bin/python bench/run.py --tiny
fi

say "what must not compile"
# The only documentation tests: rows of a user cannot be read without a caller (domain/src/database.rs).
# `-p domain` would resolve other features and compile its dependencies again.
cargo test --quiet --workspace --doc

say "tests"
# Not nextest: it runs each test in its own process, and each would start its own Postgres instead of sharing one.
# No documentation tests here: their summary would be the last line.
scripts/test_programs.sh
exec python3 scripts/run_tests.py --workspace --no-fail-fast --lib --bins --tests "$@"
