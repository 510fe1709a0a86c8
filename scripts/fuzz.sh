#!/bin/sh
# Fuzzes TARGET, or each target in turn, for SECONDS, starting from the committed corpus. New inputs and crashes are
# written to out/fuzz/. Needs a nightly toolchain for the instrumentation.
set -eu
cd -- "$(dirname -- "$0")/.."
seconds=${2:-600}

# Use the dependency versions of the product.
cp Cargo.lock fuzz/Cargo.lock
(cd fuzz && cargo +nightly build --release --bins)
built=$(cd fuzz && cargo +nightly metadata --format-version 1 --no-deps \
    | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')

for target in ${1:-$(ls fuzz/corpus)}; do
    mkdir -p "out/fuzz/$target/corpus"
    echo "── $target for $seconds s"
    "$built/release/$target" "out/fuzz/$target/corpus" "fuzz/corpus/$target" -max_total_time="$seconds" \
        -artifact_prefix="out/fuzz/$target/" -rss_limit_mb=2048 -timeout=20 -print_final_stats=1
done
