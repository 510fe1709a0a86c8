#!/usr/bin/env bash
# Builds `pyrograph` with the NVIDIA backend into out/gpu/pyrograph, stripped, and beside it packed with xz. What it needs where it
# runs is the driver and libdevice.10.bc (README, "On an NVIDIA card").
#
#   deploy/gpu-build.sh [FEATURES]     cuda (default), cuda-unfused, cuda-nvrtc: see cli/Cargo.toml
set -euo pipefail
cd "$(dirname "$0")/.."

features=${1:-cuda}
# Another set of features rebuilds most of the tree, so it gets a folder of its own.
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-target}/gpu
bundle=https://github.com/tracel-ai/tracel-llvm/releases
if [ -z "$(ls -d "${XDG_DATA_HOME:-$HOME/.local/share}"/tracel/tracel-llvm-* 2>/dev/null)" ] && ! curl --silent --fail --head --location --max-time 10 --output /dev/null "$bundle"; then
    llvm=$CARGO_TARGET_DIR/llvm
    deploy/llvm-for-cuda.sh "$llvm"
    . "$llvm/env.sh"
fi
cargo build --release --package pyrograph --features "$features"
mkdir -p out/gpu
cp "$CARGO_TARGET_DIR/release/pyrograph" out/gpu/pyrograph
xz --keep --force -6 --threads=0 out/gpu/pyrograph
size=$(stat --format %s out/gpu/pyrograph.xz)
echo "out/gpu/pyrograph: $(stat --format %s out/gpu/pyrograph) bytes, packed $size"
if [ "$size" -gt 60000000 ]; then
    echo "packed it is larger than the 60 MB that it may have" >&2
    exit 1
fi
