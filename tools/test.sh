#!/usr/bin/env bash
# Installs what is missing and runs the tests, a process for each core; arguments go to pytest: bash tools/test.sh -k fbank
# The slow ones too: bash tools/test.sh -m "slow or not slow"
# In one process, for a debugger: bash tools/test.sh -n 0 --pdb -k fbank
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. tools/env.sh
# A file's tests share servers and models, so a file is run by one process; each process takes about 1 GB.
OMP_NUM_THREADS=1 exec python -m pytest -q -m "not slow" -n auto --maxprocesses 8 --dist loadfile "$@"
