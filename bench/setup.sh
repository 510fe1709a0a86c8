#!/bin/sh
# The peers that `just bench` measures against, in .venv-bench of the repository: PyTorch and diffusers for tensors,
# FastAPI and asyncpg for the service. 1.5 GB, about two minutes, once. Needs Python 3.11 or later and gcc.
set -eu
cd "$(dirname "$0")/.."
wanted="torch 2.12.0, diffusers 0.42.1, transformers 5.23.0, fastapi 0.163.2, asyncpg 0.32.0"
if [ "$(cat .venv-bench/ready 2>/dev/null)" = "$wanted" ]; then
    exit 0
fi
echo "bench: setting up the peers in .venv-bench ($wanted)"
python3 -m venv .venv-bench
pip() { .venv-bench/bin/python -m pip install --quiet --disable-pip-version-check "$@"; }
# Without its dependencies: torch's CUDA libraries are 2 GB that CPU computation never calls.
pip --no-deps torch==2.12.0
pip nvidia-cuda-runtime==13.0.96 numpy==2.4.6 safetensors==0.8.0 \
    filelock fsspec jinja2 networkx sympy typing_extensions \
    diffusers==0.42.1 transformers==5.23.0 pillow \
    fastapi==0.163.2 uvicorn==0.54.0 uvloop==0.23.0 httptools==0.9.0 asyncpg==0.32.0 2>&1 \
    | grep -v "torch 2.12.0 requires" >&2 || true
.venv-bench/bin/python tests/reference/cuda_stubs.py
.venv-bench/bin/python -c "import torch, diffusers, transformers, fastapi, uvicorn, asyncpg"
echo "$wanted" > .venv-bench/ready
