# The recipes of development. `./justw` lists them. They are idempotent and never prompt.

[private]
default:
    @{{ just_executable() }} --justfile {{ justfile() }} --list --unsorted

# train a LoRA on the bundled pictures, generate with and without it, write everything to out/
demo *args: setup
    PYROGRAPH_POSTGRES_BIN="$(scripts/postgres_bin.sh)" cargo run --release -p pyrograph -- demo {{ args }}

# set up, then run every check and every test
test *args: setup
    scripts/test.sh {{ args }}

# install what is missing into .tools/, and say what and why
setup:
    @scripts/set_up.sh

# build the binary: target/release/pyrograph
build: setup
    cargo build --release -p pyrograph

# start Postgres, S3, the API and one worker in .pyrograph/
up *args: setup
    PYROGRAPH_POSTGRES_BIN="$(scripts/postgres_bin.sh)" cargo run --release -p pyrograph -- up {{ args }}

# run N workers beside a running `up`, or on the services that the environment names
worker N='1' *args:
    scripts/workers.sh {{ N }} {{ args }}

# regenerate openapi/openapi.json and format the code
bless:
    mkdir -p openapi
    scripts/openapi.sh > openapi/openapi.json.part
    mv openapi/openapi.json.part openapi/openapi.json
    cargo fmt --all

# run the checks without the tests: formatting, generated files, lints
check:
    cargo fmt --all --check
    python3 scripts/check_imports.py
    python3 scripts/check_words.py
    python3 scripts/check_permalinks.py
    scripts/lint.sh
    scripts/check_openapi.sh
    cargo clippy --workspace --all-targets --quiet -- -D warnings

# lose half of the replies to COMMIT over 500 creations of each kind, with clients that hang up
lost-replies: setup
    cargo build --workspace --bins
    cargo test --workspace --test journeys -- --ignored --nocapture costs_no_object_500_times

# promises under attack and failure, by their numbers (`just chaos 36`), or all of them
chaos *rows: setup
    cargo build --workspace --bins
    cargo test --workspace --test chaos -- --ignored --nocapture --test-threads 1 {{ prepend('row_', rows) }}

# test every API operation with schemathesis
contract: setup
    scripts/contract.sh

# generate a Python and a TypeScript client from openapi/openapi.json and use them
clients: setup
    scripts/clients.sh

# fuzz headers, LoRA keys and prompts: one target or each, for SECONDS (nightly toolchain); findings go to out/fuzz/
fuzz target='' seconds='600': setup
    scripts/fuzz.sh "{{ target }}" {{ seconds }}

# run the benchmarks (bench/README.md), into bench/results/
bench *parts: setup
    bench/setup.sh
    cargo build --release -p pyrograph -p bench --bin pyrograph --examples
    PYROGRAPH_POSTGRES_BIN="$(scripts/postgres_bin.sh)" .venv-bench/bin/python bench/run.py {{ parts }}

# run models at their published sizes within 3 to 16 GiB of memory, into bench/results/ (two hours, 50 GB of disk)
real-size *rows: setup
    bench/setup.sh
    cargo build --release -p pyrograph -p bench --bin pyrograph --examples
    .venv-bench/bin/python bench/real_size/run.py {{ rows }}

# regenerate .sqlx/, the metadata of the checked queries, against a temporary Postgres with our migrations
prepare:
    scripts/prepare_queries.sh

# build the binary with the NVIDIA backend: out/gpu/pyrograph
gpu-build *features:
    deploy/gpu-build.sh {{ features }}

# check that the NVIDIA backend compiles; CI does this too if there is time left
gpu-compiles: setup
    deploy/with-llvm.sh cargo check --workspace --all-targets --features pyrograph/cuda

# run every CPU test in a build with the NVIDIA backend
gpu-test *args: setup
    deploy/with-llvm.sh cargo build --workspace --features pyrograph/cuda --bins --tests
    deploy/with-llvm.sh cargo test --workspace --features pyrograph/cuda --no-fail-fast --lib --bins --tests {{ args }}

# measure this machine's GPU with out/gpu/pyrograph, into bench/results/
gpu-check *args:
    deploy/gpu-check.sh {{ args }}

# run all of gpu-check at a tiny size on the CPU
gpu-rehearsal *args: setup
    cargo run -p pyrograph -- gauge --tiny --device cpu --results out/gauge {{ args }}

# retrain the built-in checkpoint from Noto Emoji and measure it (about three hours on two cores)
ember:
    models/ember-recipe/train.sh

# measure the built-in checkpoint: nearest pictures, attributes, VAE, the demo's style
bench-ember *args:
    models/ember-recipe/train.sh measure {{ args }}
