#!/usr/bin/env bash
# Installs what is missing and runs the tests; arguments go to pytest: bash tools/test.sh -k fbank
# The slow ones too: bash tools/test.sh -m "slow or not slow"
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. tools/env.sh
OMP_NUM_THREADS=1 exec python -m pytest -q -m "not slow" "$@"
