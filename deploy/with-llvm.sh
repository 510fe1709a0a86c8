#!/usr/bin/env bash
# Runs a command that builds the feature `cuda`, with the LLVM that Burn needs, and in a separate target folder, since
# another set of features rebuilds most of the tree.
#
#   deploy/with-llvm.sh COMMAND…
set -euo pipefail
cd "$(dirname "$0")/.."

export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-target}/gpu
bundle=https://github.com/tracel-ai/tracel-llvm/releases
if [ -z "$(ls -d "${XDG_DATA_HOME:-$HOME/.local/share}"/tracel/tracel-llvm-* 2>/dev/null)" ] \
    && ! curl --silent --fail --head --location --max-time 10 --output /dev/null "$bundle"; then
    llvm=$CARGO_TARGET_DIR/llvm
    deploy/llvm-for-cuda.sh "$llvm"
    . "$llvm/env.sh"
fi
exec "$@"
