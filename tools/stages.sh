# Sourced by recipes: functions that print a stage's name and time, skip it if done, and stop if its input is missing.
# shellcheck shell=bash disable=SC2154  # variables of the recipe
# The recipe sets stage, stop_stage, force, stage_options (the user's options) and stage_names (an array that begins
# with stage -1), and defines two functions of a stage number:
#   stage_stamp N      the file that marks stage N as done
#   stage_settings N   everything that the outcome of stage N depends on, as one line

recipe_seconds=0

stage_wanted() {
  [ "$stage" -le "$1" ] && [ "$stop_stage" -ge "$1" ]
}

# Print a checksum of a file.
fingerprint() {
  if [ -f "$1" ]; then cksum <"$1" | tr ' ' '-'; else echo none; fi
}

stage_is_done() {
  [ -f "$(stage_stamp "$1")" ] && [ "$(cat "$(stage_stamp "$1")")" = "$(stage_settings "$1")" ]
}

# begin_stage N: prints the header; returns false if the stage is done and need not be repeated (--force).
begin_stage() {
  stage_started=$SECONDS
  printf '\n=== stage %d: %s\n' "$1" "${stage_names[$1 + 1]}"
  if [ "$force" != true ] && stage_is_done "$1"; then
    echo "done before with the same settings; --force true does it again"
    return 1
  fi
}

# change_stage N: marks the stage as not done, because its files change from here on. Call it after need_stage and
# need_files.
change_stage() {
  rm -f "$(stage_stamp "$1")"
  stage_began_with=$(stage_settings "$1") # now, because a file may be edited before the stage ends
}

# end_stage N: marks the stage as done; prints its time, and stores it beside the stamp.
end_stage() {
  local seconds=$((SECONDS - stage_started))
  recipe_seconds=$((recipe_seconds + seconds))
  mkdir -p "$(dirname "$(stage_stamp "$1")")"
  echo "$seconds" >"$(stage_stamp "$1").seconds"
  echo "$stage_began_with" >"$(stage_stamp "$1")"
  printf '=== stage %d took %d s\n' "$1" "$seconds"
}

# need_files N FILE...: stops unless these files, which stage N makes, exist and are not empty.
need_files() {
  local number=$1 file
  shift
  for file in "$@"; do
    [ -s "$file" ] && continue
    rm -f "$(stage_stamp "$number")"
    refuse_stage "$number" "$file is missing:"
  done
}

# need_stage N FILE...: like need_files, but also stops unless stage N was finished with the present settings.
need_stage() {
  need_files "$@"
  [ -f "$(stage_stamp "$1")" ] || refuse_stage "$1" "stage $1 (${stage_names[$1 + 1]}) was not finished:"
  stage_is_done "$1" ||
    refuse_stage "$1" "stage $1 (${stage_names[$1 + 1]}) was last done with other settings: give the same options as then, or" \
      "$(printf '\n  then: %s\n  now:  %s' "$(cat "$(stage_stamp "$1")")" "$(stage_settings "$1")")"
}

# refuse_stage N REASON [DETAILS]: stops with an error that names the command for stage N.
refuse_stage() {
  printf 'error: %s run stage %d first: bash %s%s --stage %d --stop_stage %d%s\n' \
    "$2" "$1" "$0" "$stage_options" "$1" "$1" "${3:-}" >&2
  exit 1
}
