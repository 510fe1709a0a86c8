#!/bin/sh
# Measures the GPU of this machine with out/gpu/pyrograph (`just gpu-build`), into bench/results/. Needs no compiler, no
# Rust and no network: only this repository, the driver and libdevice.10.bc. If python3 has PyTorch, its figures stand
# beside ours.
set -eu
cd -- "$(dirname -- "$0")/.."

program=out/gpu/pyrograph
if [ ! -x $program ] && [ -f $program.xz ]; then
    xz --decompress --keep $program.xz
    chmod +x $program
fi
if [ ! -x $program ]; then
    echo "gpu-check: $program is missing; build it with \`just gpu-build\` on a machine with a compiler" >&2
    exit 1
fi
# Triton, which PyTorch installs, contains libdevice.
if [ -z "${CUDA_PATH:-}" ] && ! ls /usr/local/cuda/nvvm/libdevice/libdevice.10.bc >/dev/null 2>&1; then
    list='import triton, pathlib; print(*pathlib.Path(triton.__file__).parent.rglob("libdevice.10.bc"))'
    found=$(python3 -c "$list" 2>/dev/null | cut -d" " -f1 || true)
    if [ -n "$found" ]; then
        mkdir -p out/gpu/nvvm/libdevice
        cp "$found" out/gpu/nvvm/libdevice/
    fi
fi
exec $program gauge "$@"
