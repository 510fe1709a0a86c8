#!/bin/sh
# Runs N workers beside a running `pyrograph up` (or on the services that the environment names) until Ctrl-C.
set -eu
cd -- "$(dirname -- "$0")/.."
count=$1
shift
cargo build --release -p pyrograph
pyrograph=${CARGO_TARGET_DIR:-target}/release/pyrograph
# Ctrl-C reaches them all: they are of one group with this script, which only waits.
trap : INT TERM
started=0
while [ "$started" -lt "$count" ]; do
    "$pyrograph" worker "$@" &
    started=$((started + 1))
done
# A signal ends a wait; the second one is for the workers giving their jobs back.
wait || true
wait
