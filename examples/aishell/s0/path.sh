# Sourced in the recipe's folder: the environment that its commands run in.
# shellcheck shell=bash
root=$(cd ../../.. && pwd)
export root
# shellcheck source=tools/env.sh
. "$root/tools/env.sh"
# Threads that spin while they wait take the processor from those that work, most of all on a busy machine.
export OMP_WAIT_POLICY=passive
export PYTHONUNBUFFERED=1
# Scripts in local/ import those of tools/data/.
export PYTHONPATH="$root/tools/data${PYTHONPATH:+:$PYTHONPATH}"
