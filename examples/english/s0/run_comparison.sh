#!/usr/bin/env bash
# The comparison of the FusionFormer paper on English: every configuration with its own learning rate.
# docs/comparison.md explains it. Usage: bash run_comparison.sh [--name value]...
#
# Run stages 0 to 3 of run.sh first. Finished trainings are skipped: after an interruption, run the same command again.
# The whole comparison trains about 32 models, each on one core: about half an hour each on a processor with
# AVX-512 BF16 or AMX.
#
# Examples:
#   bash run_comparison.sh --dry_run true
#   bash run_comparison.sh --jobs 2
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

# options
study=conf/comparison.yaml      # settings of the comparison
data_dir=data                   # folder with the data of stages 0 to 3
dir=exp/comparison              # folder of the trainings
records=                        # folder with the records of finished trainings; empty: the folder of --dir
jobs=1                          # parallel trainings, each on one core
device=cpu                      # device of the trainings
dry_run=false                   # only print the plan
. "$here/../../../tools/parse_options.sh"
. "$here/../../../tools/comparison.sh"

cd "$here"
. ./path.sh
[ "$dry_run" = true ] || [ -s "$data_dir/train/global_cmvn" ] ||
  { echo "error: $data_dir has no data: run stages 0 to 3 first: bash run.sh --data FOLDER --stop_stage 3" >&2; exit 1; }
run_comparison english
