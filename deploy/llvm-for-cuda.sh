#!/usr/bin/env bash
# Makes the cargo feature `cuda` buildable where Burn's LLVM bundle (a download from GitHub releases) is unreachable.
# Installs LLVM 22 from Debian where the bundler looks for its own, linked statically and with only the NVPTX and x86
# back ends, so that the binary needs no libLLVM at run time.
#
#   deploy/llvm-for-cuda.sh DIR      100 MB of packages, one minute; does nothing if it has run before
#   . DIR/env.sh                     then: cargo build --release --features cuda
#
# Burn expects LLVM 23.1. A build with 22 passes our goldens; prefer the bundle for releases.
set -euo pipefail

mkdir -p "$1"
folder=$(cd "$1" && pwd)
# The bundle has the version of its crate; LLVM's version precedes the dash.
crate=$(grep -A1 '^name = "tracel-llvm-bundler"' "$(dirname "$0")/../Cargo.lock" | sed -n 's/^version = "\(.*\)"/\1/p')
home=$folder/data/tracel/tracel-llvm-${crate:?Cargo.lock does not contain tracel-llvm-bundler}
if [ -e "$home/.tracel-llvm-installed" ]; then
    exit
fi
for tool in apt-get dpkg g++; do
    command -v $tool >/dev/null || { echo "llvm-for-cuda needs $tool to install LLVM from Debian" >&2; exit 1; }
done
echo "downloading LLVM 22 from Debian into $folder (100 MB), since Burn's own bundle is unreachable"
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
# Last, since this file marks the installation as complete.
touch "$home/.tracel-llvm-installed"
