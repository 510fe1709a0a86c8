#!/usr/bin/env bash
# Builds `pyrograph` with the NVIDIA backend into out/gpu/pyrograph, stripped, and beside it packed with xz. What it needs where it
# runs is the driver and libdevice.10.bc (README, "On an NVIDIA card").
#
#   deploy/gpu-build.sh [FEATURES]     cuda (default), cuda-unfused, cuda-nvrtc: see cli/Cargo.toml
set -euo pipefail
cd "$(dirname "$0")/.."

deploy/with-llvm.sh cargo build --release --package pyrograph --features "${1:-cuda}"
mkdir -p out/gpu
cp "${CARGO_TARGET_DIR:-target}/gpu/release/pyrograph" out/gpu/pyrograph
xz --keep --force -6 --threads=0 out/gpu/pyrograph
size=$(stat --format %s out/gpu/pyrograph.xz)
echo "out/gpu/pyrograph: $(stat --format %s out/gpu/pyrograph) bytes, packed $size"
if [ "$size" -gt 60000000 ]; then
    echo "packed it is larger than the 60 MB that it may have" >&2
    exit 1
fi
