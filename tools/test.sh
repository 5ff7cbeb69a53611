#!/usr/bin/env bash
# Install missing packages and run the tests, one process per core (at most 8). Arguments go to pytest, e.g. -k fbank.
# With slow tests: bash tools/test.sh -m "slow or not slow"
# In one process, for a debugger: bash tools/test.sh -n 0 --pdb -k fbank
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. tools/env.sh
# One process runs all tests of a file, because they share servers and models; each process takes about 1 GB.
OMP_NUM_THREADS=1 exec python -m pytest -q -m "not slow" -n auto --maxprocesses 8 --dist loadfile "$@"
