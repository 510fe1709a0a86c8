#!/usr/bin/env bash
# Builds `pyrograph` with the NVIDIA backend into out/gpu/pyrograph, stripped, and compresses a copy with xz. At run
# time it needs the driver and libdevice.10.bc (docs/gpu.md).
#
#   deploy/gpu-build.sh [FEATURES]     cuda (default), cuda-unfused, cuda-nvrtc: see cli/Cargo.toml
set -euo pipefail
cd "$(dirname "$0")/.."

deploy/with-llvm.sh cargo build --release --package pyrograph --features "${1:-cuda}"
mkdir -p out/gpu
cp "${CARGO_TARGET_DIR:-target}/gpu/release/pyrograph" out/gpu/pyrograph
xz --keep --force -6 --threads=0 out/gpu/pyrograph
size=$(stat --format %s out/gpu/pyrograph.xz)
echo "out/gpu/pyrograph: $(stat --format %s out/gpu/pyrograph) bytes, compressed $size"
if [ "$size" -gt 60000000 ]; then
    echo "the compressed binary exceeds its limit of 60 MB" >&2
    exit 1
fi
