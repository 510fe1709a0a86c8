#!/bin/sh
# Runs N workers beside a running `pyrograph up`, or on the services that the environment names, until Ctrl-C.
set -eu
cd -- "$(dirname -- "$0")/.."
count=$1
shift
cargo build --release -p pyrograph
pyrograph=${CARGO_TARGET_DIR:-target}/release/pyrograph
# Ctrl-C reaches all of them: they share a process group with this script, which only waits.
trap : INT TERM
started=0
while [ "$started" -lt "$count" ]; do
    "$pyrograph" worker "$@" &
    started=$((started + 1))
done
# A signal interrupts the first wait; the second waits while the workers return their jobs.
wait || true
wait
