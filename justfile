# The vocabulary of work. `./justw` lists it; recipes are idempotent and never ask.

[private]
default:
    @{{ just_executable() }} --justfile {{ justfile() }} --list --unsorted

# the whole road once: train a LoRA on bundled pictures, generate with and without it, into out/
demo *args: setup
    cargo run --release -p pyrograph -- demo {{ args }}

# set up, then every check and every test
test *args: setup
    scripts/test.sh {{ args }}

# install what is missing into .tools/, and say what and why
setup:
    @scripts/set_up.sh

# build the program: target/release/pyrograph
build: setup
    cargo build --release -p pyrograph

# start everything here: Postgres, S3, API, one worker
up *args: setup
    cargo run --release -p pyrograph -- up {{ args }}

# N workers beside a running `up`, or on the services of the environment
worker N='1' *args:
    scripts/workers.sh {{ N }} {{ args }}

# write anew everything that is generated and committed
bless:
    mkdir -p openapi
    scripts/openapi.sh > openapi/openapi.json.part
    mv openapi/openapi.json.part openapi/openapi.json
    cargo fmt --all

# the checks without the tests: formatting, generated files, lints
check:
    cargo fmt --all --check
    scripts/check_openapi.sh
    cargo clippy --workspace --all-targets --quiet -- -D warnings

# meet the whole API with schemathesis
contract: setup
    scripts/contract.sh

# fuzz headers, LoRA keys and prompts: each target or one, for this many seconds (nightly toolchain); finds lie in out/fuzz/
fuzz target='' seconds='600': setup
    scripts/fuzz.sh "{{ target }}" {{ seconds }}

# measure against the goals and the peers (bench/README.md), into bench/results/
bench *parts: setup
    bench/setup.sh
    cargo build --release -p pyrograph -p diffusion -p journeys --bin pyrograph --example flux_block --example networks --example load_weights --example http_load
    .venv-bench/bin/python bench/run.py {{ parts }}

# write anew what sqlx knows about our queries (.sqlx), against a throw-away Postgres with our migrations
prepare:
    scripts/prepare_queries.sh

# build the program with the NVIDIA backend: out/gpu/pyrograph
gpu-build *features:
    deploy/gpu-build.sh {{ features }}

# whether the NVIDIA backend compiles; CI does this too when it has the time
gpu-compiles: setup
    deploy/with-llvm.sh cargo check --workspace --all-targets --features pyrograph/cuda

# every test of the CPU, in a build with the NVIDIA backend
gpu-test *args: setup
    deploy/with-llvm.sh cargo build --workspace --features pyrograph/cuda --bins --tests
    deploy/with-llvm.sh cargo test --workspace --features pyrograph/cuda --no-fail-fast --lib --bins --tests {{ args }}

# measure this machine's card with out/gpu/pyrograph, into bench/results/
gpu-check *args:
    deploy/gpu-check.sh {{ args }}

# all of gpu-check at a tiny size on the CPU
gpu-rehearsal *args: setup
    cargo run -p pyrograph -- gauge --tiny --device cpu --results out/gauge {{ args }}

# train the built-in checkpoint anew from Noto emoji, and measure it (about three hours on two cores)
ember:
    models/ember-recipe/train.sh

# measure the built-in checkpoint: nearest pictures, attributes, VAE, the demo's style
bench-ember *args:
    models/ember-recipe/train.sh measure {{ args }}
