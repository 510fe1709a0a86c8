#!/bin/sh
# Measures the card of this machine with out/gpu/pyrograph (`just gpu-build`), into bench/results/. Needs no compiler, no Rust and no
# network: only this repository, the driver and libdevice.10.bc; with PyTorch in python3, its figures stand beside ours.
set -eu
cd -- "$(dirname -- "$0")/.."

program=out/gpu/pyrograph
if [ ! -x $program ] && [ -f $program.xz ]; then
    xz --decompress --keep $program.xz
    chmod +x $program
fi
if [ ! -x $program ]; then
    echo "gpu-check: there is no $program; \`just gpu-build\` makes it, on any machine with a compiler" >&2
    exit 1
fi
# Triton, which comes with PyTorch, brings libdevice along.
if [ -z "${CUDA_PATH:-}" ] && ! ls /usr/local/cuda/nvvm/libdevice/libdevice.10.bc >/dev/null 2>&1; then
    found=$(python3 -c 'import triton, pathlib; print(*pathlib.Path(triton.__file__).parent.rglob("libdevice.10.bc"))' 2>/dev/null | cut -d" " -f1 || true)
    if [ -n "$found" ]; then
        mkdir -p out/gpu/nvvm/libdevice
        cp "$found" out/gpu/nvvm/libdevice/
    fi
fi
exec $program gauge "$@"
