#!/usr/bin/env bash
# Check style and types: ruff (lint and format) and mypy, with the settings of pyproject.toml. `--fix` mends what ruff can.
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
