#!/usr/bin/env bash
# Makes the cargo feature `cuda` buildable where Burn's LLVM bundle (a download from GitHub releases) cannot be had: takes
# LLVM 22 from Debian and plants it where the bundler looks, linked statically and with only its NVPTX and x86 parts, so that the
# binary needs no libLLVM where it runs.
#
#   deploy/llvm-for-cuda.sh DIR      100 MB of packages, a minute; nothing to do when it was done before
#   . DIR/env.sh                     then: cargo build --release --features cuda
#
# Burn expects LLVM 23.1. A build with 22 passes our goldens, but releases are better made with the bundle.
set -euo pipefail

mkdir -p "$1"
folder=$(cd "$1" && pwd)
# The bundle's version is that of its crate, and LLVM's is in front of the dash.
crate=$(grep -A1 '^name = "tracel-llvm-bundler"' "$(dirname "$0")/../Cargo.lock" | sed -n 's/^version = "\(.*\)"/\1/p')
home=$folder/data/tracel/tracel-llvm-${crate:?Cargo.lock knows no tracel-llvm-bundler}
if [ -e "$home/.tracel-llvm-installed" ]; then
    exit
fi
for tool in apt-get dpkg g++; do
    command -v $tool >/dev/null || { echo "llvm-for-cuda needs $tool: it takes LLVM from Debian" >&2; exit 1; }
done
echo "fetching LLVM 22 from Debian into $folder (100 MB), since Burn's own bundle cannot be had"
mkdir -p "$folder/packages" "$folder/root"
apt-get update -qq || true
(cd "$folder/packages" && apt-get download -qq llvm-22-dev llvm-22 libllvm22 llvm-22-tools libzstd-dev zlib1g-dev)
for package in "$folder"/packages/*.deb; do dpkg -x "$package" "$folder/root"; done
rm -rf "$folder/packages"

mkdir -p "$home/bin"
cat > "$home/bin/llvm-config" <<END
#!/bin/sh
export LD_LIBRARY_PATH="$folder/root/usr/lib/llvm-22/lib:$folder/root/usr/lib/x86_64-linux-gnu"
real="$folder/root/usr/lib/llvm-22/bin/llvm-config"
parts="nvptx x86 passes bitreader bitwriter irreader asmparser linker ipo mcjit orcjit target executionengine"
case "\$2" in
    --libs | --libnames) exec "\$real" --link-static "\$2" \$parts ;;
    --system-libs) echo "-lrt -ldl -lm -lz -lzstd" ;;
    *) exec "\$real" --link-static "\$2" ;;
esac
END
chmod +x "$home/bin/llvm-config"
cat > "$folder/env.sh" <<END
export XDG_DATA_HOME="$folder/data"
export LIBRARY_PATH="$folder/root/usr/lib/x86_64-linux-gnu:$folder/root/usr/lib/llvm-22/lib\${LIBRARY_PATH:+:\$LIBRARY_PATH}"
END
# Last, since it tells the bundler that all is there.
touch "$home/.tracel-llvm-installed"
