#!/usr/bin/env bash
# The smoke test on an emulated ARM processor:  tests/tools/arm64.sh [FOLDER]
#
# Fetches Debian's Python for arm64, the wheels of Numba, llvmlite and NumPy for aarch64, and qemu where it is not
# installed, to FOLDER (350 to 600 MB; a temporary one by default), and runs `tests.tools.smoke` with them.  Nothing is
# installed: packages are unpacked, and what is known to apt about arm64 stays in FOLDER.  What is in FOLDER already is
# used as it is, the compiled kernels too.
#
# Needs Debian or a relative of it, with apt and pip; it need not be run by root.
set -euo pipefail
repository=$(cd "$(dirname "$0")/../.." && pwd)

if [ $# -gt 0 ]; then
    mkdir -p "$1"
    work=$(cd "$1" && pwd)
else
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
fi

# Python and the libraries of the wheels that are not in them, with all that they depend on; and the emulator.
host=$(dpkg --print-architecture)
if [ ! -e "$work/system.complete" ]; then
    mkdir -p "$work/apt/lists/partial" "$work/apt/archives/partial" "$work/system"
    : > "$work/apt/status"
    apt=(
        apt-get -q -o APT::Architecture=arm64 -o APT::Architectures::=arm64 -o APT::Architectures::="$host"
        -o Acquire::Languages=none
        -o Dir::State="$work/apt" -o Dir::State::status="$work/apt/status" -o Dir::Cache="$work/apt"
        -o APT::Sandbox::User="$(id -un)" -o Debug::NoLocking=1
    )
    "${apt[@]}" update
    "${apt[@]}" --yes --no-install-recommends --download-only install python3 libstdc++6 libgomp1
    for package in "$work"/apt/archives/*.deb; do
        dpkg --extract "$package" "$work/system"
    done
    if ! command -v qemu-aarch64-static > /dev/null; then
        (cd "$work/apt" && "${apt[@]}" download "qemu-user-static:$host")
        dpkg --extract "$work"/apt/qemu-user-static_*.deb "$work/qemu"
    fi
    rm -r "$work/apt"
    touch "$work/system.complete"
fi
PATH="$PATH:$work/qemu/usr/bin"
python=$(readlink -f "$work/system/usr/bin/python3")
version=${python##*/python}

if [ ! -e "$work/site.complete" ]; then
    numba=$(python3 -c "import runpy; print(runpy.run_path('$repository/xent_numba/tested.py')['NUMBA'][1])")
    # The tag of a wheel is the oldest system it is for; pip takes tags as given.
    platforms=(--platform manylinux_2_28_aarch64 --platform manylinux_2_27_aarch64 --platform manylinux2014_aarch64)
    python3 -m pip install --quiet --no-warn-conflicts --only-binary=:all: --python-version "$version" "${platforms[@]}" \
        --target "$work/site" "numba==$numba" ml_dtypes mpmath
    touch "$work/site.complete"
fi

cd "$repository"
export PYTHONPATH="$repository:$work/site" PYTHONDONTWRITEBYTECODE=1 XENT_NUMBA_CACHE_DIR="$work/cache"
unset PYTHONHOME NUMBA_CPU_NAME NUMBA_CPU_FEATURES
qemu-aarch64-static -L "$work/system" "$python" -m tests.tools.smoke
