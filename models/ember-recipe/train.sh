#!/usr/bin/env bash
# Trains models/ember anew from pictures and their names, and measures it. models/ember/README.md tells how long each part takes.
#
#   models/ember-recipe/train.sh            everything, into out/ember and models/ember
#   models/ember-recipe/train.sh measure    only the measurement of models/ember (just bench-ember); more flags are passed on
set -euo pipefail
cd "$(dirname "$0")/../.."

out=out/ember
# What the transformer learns to draw: 150 names in an hour. All 648 (concepts.tsv) take several times as long.
names=${EMBER_NAMES:-models/ember-recipe/first.tsv}
art=$out/art
package=emoji-datasource-google@16.0.0

# The pictures are not in this repository: 74 MB from npm, of which 4 MB are used.
if [ ! -d "$art" ]; then
    echo "fetching $package (Noto Emoji, Apache-2.0)"
    mkdir -p "$out/package"
    (cd "$out/package" && npm pack --silent "$package" >/dev/null && tar xzf ./*.tgz package/img/google/64)
    mv "$out/package/package/img/google/64" "$art"
    rm -rf "$out/package"
fi

# The kernels for the CPU are worth it only with the machine's own vector instructions, and Burn is built with its extension
# interface: hence a folder of its own.
export RUSTFLAGS="-C target-cpu=native" CARGO_TARGET_DIR=target/ember
cargo build --release --package diffusion --features cpu-kernels --example ember
ember=target/ember/release/examples/ember

if [ "${1:-all}" = measure ]; then
    shift
    exec "$ember" --art "$art" --concepts "$names" measure "$@"
fi
"$ember" --art "$art" autoencoder --minutes 24 --batch 8 --out "$out"
"$ember" --art "$art" encode --out "$out"
# Latents stay as they are, so that the decoder can go on learning beside the transformer.
"$ember" --art "$art" decoder --minutes 45 --out "$out" &
decoder=$!
"$ember" --art "$art" flow --minutes 60 --batch 16 --shift 2 --learning-rate 1.5e-3 --only "$names" --out "$out"
wait "$decoder"
"$ember" --art "$art" assemble --out "$out" --model models/ember
"$ember" --art "$art" --concepts "$names" measure --sheet "$out/measure.png"
