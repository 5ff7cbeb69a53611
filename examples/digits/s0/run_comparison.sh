#!/usr/bin/env bash
# The comparison of the FusionFormer paper on digit strings: every configuration with its own learning rate.
# docs/comparison.md explains it. Usage: bash run_comparison.sh [--name value]...
#
# Run stages -1 to 2 of run.sh first. The comparison makes its own strings, all of which have words, because the
# LayerNorm Conformer learns more slowly than the others if some training strings have none. Finished trainings are skipped:
# after an interruption, run the same command again. The whole comparison trains about 70 models, 10 to 15 minutes each.
# If --records names a folder with records of earlier trainings, only missing models are trained.
#
# Examples:
#   bash run_comparison.sh --dry_run true
#   bash run_comparison.sh --jobs 2
#   bash run_comparison.sh --records ../../../benchmarks/results/comparison_digits
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

# options
study=conf/comparison.yaml      # settings of the comparison
data_dir=data/with_words        # folder of the strings; they are made if it has none
dir=exp/comparison              # folder of the trainings
records=                        # folder with the records of finished trainings; empty: the folder of --dir
jobs=1                          # parallel trainings, each on one core
device=cpu                      # device of the trainings
dry_run=false                   # only print the plan
. "$here/../../../tools/parse_options.sh"
. "$here/../../../tools/comparison.sh"

cd "$here"
. ./path.sh

# Make strings that all have words, their data lists, and mean and variance of their features.
make_strings_with_words() {
  local name
  [ -s data/source.json ] && [ -s data/lang/units.txt ] ||
    { echo "error: run stages -1 to 2 first: bash run.sh --data FOLDER --stop_stage 2" >&2; exit 1; }
  python local/make_strings.py --source data/source.json --output "$data_dir" --empty_share 0 --backwards_share 0 \
    --silence 1
  for name in train dev test; do
    python "$root/tools/data/make_raw_list.py" "$data_dir/$name/"{wav.scp,text,data.list}
  done
  python "$root/tools/data/compute_cmvn_stats.py" --config conf/train.yaml --data "$data_dir/train/data.list" \
    --max_utterances 1000 --output "$data_dir/train/global_cmvn"
  cp -r data/lang "$data_dir"
}

if [ "$dry_run" = false ] && [ ! -s "$data_dir/lang/units.txt" ]; then
  make_strings_with_words
fi
run_comparison digits
