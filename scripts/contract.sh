#!/bin/sh
# Tests the API with schemathesis: every operation of the OpenAPI document, all checks, 50 examples each.
set -eu
cd -- "$(dirname -- "$0")/.."
version=4.32.5
st=$PWD/.tools/schemathesis/bin/st
if [ "$(cat .tools/schemathesis/version 2>/dev/null)" != "$version" ]; then
    echo "contract: installing schemathesis $version, which tests the API against its own description, into .tools/"
    rm -rf .tools/schemathesis
    python3 -m venv .tools/schemathesis
    .tools/schemathesis/bin/python -m pip install --quiet --disable-pip-version-check "schemathesis==$version"
    echo "$version" > .tools/schemathesis/version
fi
cargo build --workspace --bins --tests
# Test the whole workspace, as it was built: a single crate would have its dependencies compiled with other features.
PYROGRAPH_SCHEMATHESIS=$st exec cargo test --workspace --test journeys -- \
    --ignored every_operation_keeps_its_contract --nocapture
