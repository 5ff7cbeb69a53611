#!/usr/bin/env bash
# Check style and types: ruff (lint, format) and mypy, with pyproject.toml's settings. `--fix` corrects what ruff can.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. tools/env.sh
if [ "${1:-}" = --fix ]; then
  ruff check --fix .
  ruff format .
else
  ruff check .
  ruff format --check .
fi
exec python -m mypy
