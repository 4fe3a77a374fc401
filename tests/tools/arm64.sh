#!/usr/bin/env bash
# The smoke test on an emulated ARM processor:  tests/tools/arm64.sh [FOLDER]
#
# Fetches Debian's Python for arm64 and the wheels of Numba, llvmlite and NumPy for aarch64 to FOLDER (350 MB; a temporary
# one by default), and runs `tests.tools.smoke` with them by qemu.  Nothing is installed: packages are unpacked, and what
# is known to apt about arm64 stays in FOLDER.  What is in FOLDER already is used as it is, the compiled kernels too.
#
# Needs Debian or a relative of it, with apt, pip and the package qemu-user-static (apt-get install qemu-user-static, as
# root); this script does not need to be run by root.
set -euo pipefail
repository=$(cd "$(dirname "$0")/../.." && pwd)

if ! command -v qemu-aarch64-static > /dev/null; then
    echo "arm64.sh: there is no qemu-aarch64-static; as root: apt-get install qemu-user-static" >&2
    exit 1
fi
if [ $# -gt 0 ]; then
    mkdir -p "$1"
    work=$(cd "$1" && pwd)
else
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
fi

# Python and the libraries of the wheels that are not in them, with all that they depend on.
if [ ! -e "$work/root.complete" ]; then
    mkdir -p "$work/apt/lists/partial" "$work/apt/archives/partial" "$work/root"
    : > "$work/apt/status"
    apt=(
        apt-get -q -o APT::Architecture=arm64 -o APT::Architectures=arm64 -o Acquire::Languages=none
        -o Dir::State="$work/apt" -o Dir::State::status="$work/apt/status" -o Dir::Cache="$work/apt"
        -o APT::Sandbox::User="$(id -un)" -o Debug::NoLocking=1
    )
    "${apt[@]}" update
    "${apt[@]}" --yes --no-install-recommends --download-only install python3 libstdc++6 libgomp1
    for package in "$work"/apt/archives/*.deb; do
        dpkg --extract "$package" "$work/root"
    done
    rm -r "$work/apt"
    touch "$work/root.complete"
fi
python=$(readlink -f "$work/root/usr/bin/python3")
version=${python##*/python}

if [ ! -e "$work/site.complete" ]; then
    # The tag of a wheel is the oldest system it is for; pip takes tags as given.
    platforms=(--platform manylinux_2_28_aarch64 --platform manylinux_2_27_aarch64 --platform manylinux2014_aarch64)
    python3 -m pip install --quiet --no-warn-conflicts --only-binary=:all: --python-version "$version" "${platforms[@]}" \
        --target "$work/site" numba ml_dtypes mpmath
    touch "$work/site.complete"
fi

cd "$repository"
export PYTHONPATH="$repository:$work/site" PYTHONDONTWRITEBYTECODE=1 XENT_NUMBA_CACHE_DIR="$work/cache"
unset PYTHONHOME NUMBA_CPU_NAME NUMBA_CPU_FEATURES
qemu-aarch64-static -L "$work/root" "$python" -m tests.tools.smoke
