#!/usr/bin/env bash
# Build wheels of wenet-fusion-kernels for Linux on x86-64 and on aarch64. Usage: bash build_wheels.sh FOLDER
#
# Needs the compilers x86_64-linux-gnu-g++ and aarch64-linux-gnu-g++ (Debian: apt install g++-x86-64-linux-gnu
# g++-aarch64-linux-gnu). A wheel serves every Python from 3.10 on, and systems whose C library is not older than the
# build's.
set -euo pipefail
[ $# -eq 1 ] || { echo "error: give the folder for the wheels: bash build_wheels.sh FOLDER" >&2; exit 1; }
output=$(mkdir -p "$1" && cd "$1" && pwd)
cd "$(dirname "${BASH_SOURCE[0]}")"
for machine in x86_64 aarch64; do
  compiler=$machine-linux-gnu-g++
  command -v "$compiler" >/dev/null ||
    { echo "error: $compiler is not installed: apt install g++-${machine/_/-}-linux-gnu" >&2; exit 1; }
  copy=$(mktemp -d) # files of the other machine must not be reused
  trap 'rm -rf "$copy"' EXIT
  cp -r pyproject.toml setup.py README.md src wenet_fusion_kernels "$copy"
  CC=$compiler CXX=$compiler LDSHARED="$compiler -shared" LDCXXSHARED="$compiler -shared" \
    _PYTHON_HOST_PLATFORM=linux-$machine python -m pip wheel -q --no-deps --wheel-dir "$output" "$copy"
  rm -rf "$copy"
done
ls -l "$output"/wenet_fusion_kernels-*.whl
