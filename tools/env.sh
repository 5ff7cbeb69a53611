# shellcheck shell=bash
# Source this file to use `python`, `wenet-fusion` and `wenet-fusion-runtime` from an environment that has the packages
# of constraints.txt and runs the sources of this clone: the active environment if it has the packages, else .venv in
# the root of the clone, which is created, updated or repaired where necessary. Sets env_seconds to the time it took.
#
#   PYTHON=python3.12                  the interpreter that .venv is made with
#   WENET_FUSION_PIP_OPTIONS="..."     more options of pip install, e.g. for PyTorch without CUDA (3 GB less):
#                                      --extra-index-url https://download.pytorch.org/whl/cpu

_env_root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
_env_start=$SECONDS

# Use this clone's sources where our two packages are not installed, or are installed from another clone.
_env_use_sources() {
  export PYTHONPATH="$_env_root:$_env_root/runtime${PYTHONPATH:+:$PYTHONPATH}"
  export PATH="$_env_root/tools/bin:$PATH"
}

# Print the first interpreter for which the pinned PyTorch exists.
_env_find_python() {
  local candidate
  for candidate in ${PYTHON:-python3 python python3.13 python3.12 python3.11 python3.10}; do
    if "$candidate" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then
      command -v "$candidate"
      return 0
    fi
  done
  echo "error: no Python 3.10 to 3.13 here (tried: ${PYTHON:-python3, python, python3.13 to python3.10};" \
    "python3 is $(python3 --version 2>&1 || true)). The pinned PyTorch was not tested with Python 3.14 or later." \
    "Install one of these versions, or name it: PYTHON=/path/to/python3.12 bash ..." >&2
  return 1
}

_env_make_venv() {
  local venv=$_env_root/.venv fingerprint python
  fingerprint=$(cd "$_env_root" && { pwd; cat pyproject.toml runtime/pyproject.toml constraints.txt; } | cksum)
  if [ "$(cat "$venv/.complete" 2>/dev/null)" = "$fingerprint" ] && "$venv/bin/python" -c '' 2>/dev/null; then
    return 0
  fi
  # A killed pip may leave files that look like installed packages: start again.
  if [ -e "$venv/.installing" ] || ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
    python=$(_env_find_python) || return 1
    echo "env: making $venv with $("$python" --version) ($python)" >&2
    if ! "$python" -m venv --clear "$venv"; then
      echo "error: $python -m venv failed; on Debian and Ubuntu install the package python3-venv" >&2
      return 1
    fi
  fi
  rm -f "$venv/.complete"
  touch "$venv/.installing"
  echo "env: installing the packages of constraints.txt into $venv (PyTorch is large: minutes at the first time)" >&2
  # shellcheck disable=SC2086  # several options in one variable
  if ! (cd "$_env_root" && "$venv/bin/python" -m pip install --disable-pip-version-check \
    ${WENET_FUSION_PIP_OPTIONS:-} -c constraints.txt -e ./runtime -e '.[test,recipes]' >&2); then
    rm -f "$venv/.installing"
    echo "error: pip could not install the packages; its message is above. Check the network and the disk space" \
      "($(df -h "$_env_root" | awk 'NR == 2 { print $4 }') free, 8 GB needed), and run the same command again; or" \
      "activate an environment that has the packages of $_env_root/constraints.txt, which is then used" >&2
    return 1
  fi
  rm -f "$venv/.installing"
  echo "$fingerprint" >"$venv/.complete"
}

_env_main() {
  local found reason
  if found=$(python "$_env_root/tools/check_environment.py" "$_env_root" 2>&1); then
    [ "$found" = installed ] || _env_use_sources
    echo "env: using $(command -v python), which has the packages" >&2
    return 0
  fi
  reason=$(tail -n 1 <<<"$found")
  # Two commands must not install into .venv at the same time.
  exec 9>"$_env_root/.venv.lock"
  if command -v flock >/dev/null && ! flock -n 9; then
    echo "env: waiting for another installation into $_env_root/.venv" >&2
    flock 9
  fi
  _env_make_venv 9>&- || return 1
  exec 9>&-
  echo "env: using $_env_root/.venv (the active environment is unsuitable: $reason)" >&2
  export VIRTUAL_ENV=$_env_root/.venv PATH=$_env_root/.venv/bin:$PATH
  unset PYTHONHOME
  hash -r
}

_env_main || return 1
# shellcheck disable=SC2034  # read by recipes
env_seconds=$((SECONDS - _env_start))
