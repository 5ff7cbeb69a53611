# Sourced in the recipe's folder: sets up the environment of its commands.
# shellcheck shell=bash
root=$(cd ../../.. && pwd)
export root
# shellcheck source=tools/env.sh
. "$root/tools/env.sh"
# Waiting threads that spin take processor time from working threads, above all on a busy machine.
export OMP_WAIT_POLICY=passive
export PYTHONUNBUFFERED=1
# Scripts in local/ import modules from tools/data/.
export PYTHONPATH="$root/tools/data${PYTHONPATH:+:$PYTHONPATH}"
