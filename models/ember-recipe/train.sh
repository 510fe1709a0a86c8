#!/usr/bin/env bash
# Trains models/ember from pictures and their names, and measures it. models/ember/README.md says how long each part
# takes.
#
#   models/ember-recipe/train.sh            train everything, into out/ember and models/ember
#   models/ember-recipe/train.sh measure    measure models/ember (just bench-ember); further flags are passed on
set -euo pipefail
cd "$(dirname "$0")/../.."

out=out/ember
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

# The backward pass uses all vector instructions only in a build for this machine, hence a separate folder.
export RUSTFLAGS="-C target-cpu=native" CARGO_TARGET_DIR=target/ember
cargo build --release --package diffusion --example ember
ember=target/ember/release/examples/ember

if [ "${1:-all}" = measure ]; then
    shift
    exec "$ember" --art "$art" measure "$@"
fi
"$ember" --art "$art" autoencoder --steps 5900 --batch 8 --out "$out"
"$ember" --art "$art" encode --out "$out"
# Latents do not change, so the decoder can continue training in parallel with the transformer.
"$ember" --art "$art" decoder --steps 10400 --out "$out" &
decoder=$!
# A few names first: the model learns the role of names sooner if each occurs often.
"$ember" --art "$art" flow --steps 6000 --batch 16 --shift 2 --learning-rate 2e-3 \
    --only models/ember-recipe/first.tsv --out "$out"
"$ember" --art "$art" flow --steps 18000 --batch 24 --shift 2 --learning-rate 1.5e-3 --resume --out "$out"
wait "$decoder"
"$ember" --art "$art" assemble --out "$out" --model models/ember
"$ember" --art "$art" measure --sheet "$out/measure.png"
