# Sourced by recipes: functions that print the data sets of a corpus and the files that stage 0 makes for each set.
# shellcheck shell=bash disable=SC2154  # variables of the recipe
# A set may come with its own list: lhotse's cuts.jsonl.gz (--data_type lhotse) or shards.list (--data_type sequential).
# Such a set needs no wav.scp, and only stage 8 needs its file text. The shards of the training set may be URLs, those of
# dev and test sets must be files.

# Print the names of the data sets that the corpus has.
data_sets() {
  local name
  for name in train dev ${test_sets:-test} silence; do
    if [ -f "data/$name/wav.scp" ] || [ -f "$(given_list "$name")" ]; then echo "$name"; fi
  done
}

# Print the path of a set's own list; print nothing if the list is made from wav.scp and text.
given_list() {
  case $data_type in
    lhotse) echo "data/$1/cuts.jsonl.gz" ;;
    sequential) [ ! -f "data/$1/shards.list" ] || echo "data/$1/shards.list" ;;
  esac
}

# Print the files that stage 0 makes for each of the sets.
set_files() {
  local name given
  for name in "$@"; do
    given=$(given_list "$name")
    if [ -n "$given" ]; then echo "$given"; else echo "data/$name/wav.scp data/$name/text"; fi
  done
}

# Print the path of a file in each of several sets: paths_of "SET..." FILE
paths_of() {
  local name
  for name in $1; do echo "data/$name/$2"; done
}

# Print the options that pass a set's segments and reco2file_and_channel, if it has these files.
segments_of() {
  [ ! -f "data/$1/segments" ] || echo "--segments data/$1/segments"
  [ ! -f "data/$1/reco2file_and_channel" ] || echo "--reco2file_and_channel data/$1/reco2file_and_channel"
}
