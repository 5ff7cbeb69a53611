# Sourced by recipes: the data sets of a corpus, and the files that stage 0 leaves of each.
# shellcheck shell=bash disable=SC2154  # variables of the recipe
# A set that has its list already needs no wav.scp: cuts.jsonl.gz of lhotse with --data_type lhotse, or shards.list, which
# may name URLs, with --data_type sequential. Then only stage 8 needs its text, and sets to evaluate need shards in files.

# The data sets of the corpus.
data_sets() {
  local name
  for name in train dev ${test_sets:-test} silence; do
    if [ -f "data/$name/wav.scp" ] || [ -f "$(given_list "$name")" ]; then echo "$name"; fi
  done
}

# The list that a set has already; nothing if it is made of wav.scp and text.
given_list() {
  case $data_type in
    lhotse) echo "data/$1/cuts.jsonl.gz" ;;
    sequential) [ ! -f "data/$1/shards.list" ] || echo "data/$1/shards.list" ;;
  esac
}

# What stage 0 leaves of each of the sets.
set_files() {
  local name given
  for name in "$@"; do
    given=$(given_list "$name")
    if [ -n "$given" ]; then echo "$given"; else echo "data/$name/wav.scp data/$name/text"; fi
  done
}

# Print the paths of a file of sets: paths_of "SET..." FILE
paths_of() {
  local name
  for name in $1; do echo "data/$name/$2"; done
}

# The arguments of the list makers for a set: a set may have Kaldi's segments and reco2file_and_channel.
segments_of() {
  [ ! -f "data/$1/segments" ] || echo "--segments data/$1/segments"
  [ ! -f "data/$1/reco2file_and_channel" ] || echo "--reco2file_and_channel data/$1/reco2file_and_channel"
}
