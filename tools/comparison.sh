# Sourced by a recipe's run_comparison.sh after its options. The comparison is explained in docs/comparison.md.
# shellcheck shell=bash disable=SC2154  # variables of the recipe

# A relative folder is relative to the folder where the script was called.
case $records in "" | /*) ;; *) records=$PWD/$records ;; esac

# Run the missing trainings and evaluations, and summarise them; or print the plan: run_comparison CORPUS
run_comparison() {
  [ -z "$records" ] || [ -d "$records" ] ||
    { echo "error: --records $records: no such folder; create it if no training has finished yet" >&2; return 1; }
  local program=$root/benchmarks/comparison.py
  local common=(--study "$study" --folder "$dir" --records "${records:-$dir}")
  local run=(run "${common[@]}" --data_dir "$data_dir" --jobs "$jobs")
  # Each training uses one core; `jobs` trainings run at the same time.
  export OMP_NUM_THREADS=1
  if [ "$dry_run" = true ]; then
    python "$program" "${run[@]}" --dry_run
    return
  fi
  python "$program" "${run[@]}" --device "$device"
  python "$program" summarise "${common[@]}" --name "$1" --output "$dir" --picture "$dir/comparison.png"
}
