#!/usr/bin/env bash
# The paper's comparison on English: every configuration with its own learning rate. Usage: bash run_comparison.sh [--name value]...
#
# Stages 0 to 3 of run.sh must have made the data. Finished trainings are skipped: after an interruption, run the same command again.
# It trains about 40 models: 24 of 15 minutes that choose the learning rates, then longer ones of up to 2 hours each on one core.
#
# Examples:
#   bash run_comparison.sh --dry_run true
#   bash run_comparison.sh --jobs 2
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

# options
study=conf/comparison.yaml      # what is compared
data_dir=data                   # data of stages 0 to 3
dir=exp/comparison              # folder of the trainings
records=                        # folder of what is kept of ended runs; empty: DIR, so that nothing has ended yet
jobs=1                          # trainings at once, one core each
device=cpu                      # device of the trainings
dry_run=false                   # print the plan instead
. "$here/../../../tools/parse_options.sh"
. "$here/../../../tools/comparison.sh"

cd "$here"
. ./path.sh
run_comparison english
