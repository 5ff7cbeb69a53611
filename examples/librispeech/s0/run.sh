#!/usr/bin/env bash
# LibriSpeech: from openslr.org to a streamed exported model. Usage: bash run.sh [--name value]...
#
# Stages: -1 download, 0 data, 1 mean and variance of the features, 2 vocabulary, 3 data lists, 4 training, 5 averaging and
# evaluation, 6 export, 7 streaming, pictures and summary, 8 language model.
# Stages that were done with the same settings are skipped: after an interruption, run the same command again.
#
# Examples (without --data, the corpus is downloaded):
#   bash run.sh --data /corpora/LibriSpeech --num_gpus 8
#   bash run.sh --data /corpora/LibriSpeech --train_sets train-clean-100 --train_config conf/train_small.yaml \
#     --vocab_size 500 --dir exp/small
#   bash run.sh --data /corpora/LibriSpeech --num_gpus 8 --lm 3-gram.pruned.1e-7.arpa.gz
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

# options
stage=-1                        # the first stage to run
stop_stage=8                    # the last stage to run
force=false                     # repeat finished stages; the training starts anew, and its old folder is renamed
data=                           # folder with train-clean-100 and the other parts; empty: download to data/corpus
url="https://www.openslr.org https://us.openslr.org https://openslr.elda.org" # servers to download from, tried in this order
train_sets="train-clean-100 train-clean-360 train-other-500" # parts to train on
dev_sets="dev-clean dev-other"  # parts of the dev set: for validation, tuning and calibration
test_sets="test-clean test-other" # parts to evaluate separately; stage 7 streams the first
manifests=                      # folder with lhotse's manifests of these parts (lhotse prepare librispeech); empty: none
lm=                             # for stage 8: name of a file of openslr.org/11, or path of an ARPA, KenLM binary or .txt(.gz) file; empty: train on the transcripts
seed=0                          # seed of the training
units=bpe                       # kind of tokens: words, char or bpe
vocab_size=5000                 # number of pieces with --units bpe
data_type=raw                   # raw, shard, or sequential (shards that are read in sequence)
num_utts_per_shard=1000         # number of utterances per shard
train_config=conf/train.yaml    # configuration of the training; conf/train_small.yaml: a small model
overrides=                      # configuration values to change, e.g. "training.max_steps=20000 model.encoder.layers=6"
checkpoint=                     # checkpoint whose weights the training starts from (fine-tuning); empty: random weights
dir=                            # folder of the experiment; empty: exp/fusionformer_UNITS_seedSEED
num_workers=4                   # number of processes per GPU that prepare batches
num_gpus=1                      # number of training processes on this host, one per GPU; without GPUs they run on CPU cores
num_nodes=1                     # number of hosts that train together; on each, run --stage 4 --stop_stage 4 with the same options
HOST_NODE_ADDR=localhost:0      # with several hosts: name and free port of the first one
job_id=2023                     # with several hosts: a number that no other training uses
average_num=10                  # number of last checkpoints to average; if the last one alone is better on dev, it is used instead
decode_modes="ctc_greedy_search ctc_prefix_beam_search attention attention_rescoring" # searches to evaluate
chunkings="full 16/4 8/8"       # chunkings to evaluate: frames of 40 ms per chunk / chunks of left context
targets="torchscript onnx wenet-onnx sherpa-onnx pt2 onnx:int8" # formats to export and measure on dev; empty: only final.zip
export_utterances=200           # number of utterances of dev to measure each format with
lm_order=3                      # length of the language model's longest n-grams, in words
lm_prune=0                      # for each order, n-grams with at most this count are left out; "0 0 1" for large text
lm_weights="0.2 0.5 1"          # weights of the language model to try on the dev set
word_bonuses="0 1 2"            # bonuses per word to try with each weight
unknown_word_penalty=0          # nats subtracted for each word that the language model does not know; 8 almost forbids them
. "$here/../../../tools/parse_options.sh"
. "$here/../../../tools/recipe.sh"

[ $# -eq 0 ] || fail "unexpected argument '$1' (--help lists the options)"
enter_recipe
data=$(from_caller "${data:-$here/data/corpus}")
manifests=$(from_caller "$manifests")
corpus_stages=("download" "data")
case $lm in
  "" | */*) lm_path=$(from_caller "$lm") ;;
  *) lm_path=$data/$lm ;;
esac
case $lm_path in
  *.txt | *.txt.gz) lm_text=$lm_path ;;
  *) lm_arpa=$lm_path ;;
esac

# Print the folder of a part: part_folder NAME. Archives unpack to $data/LibriSpeech.
part_folder() {
  if [ -d "$data/LibriSpeech/$1" ]; then echo "$data/LibriSpeech/$1"; else echo "$data/$1"; fi
}

corpus_settings() {
  case $1 in
    -1) echo "data=$data parts=$train_sets $dev_sets $test_sets lm=$lm manifests=$manifests" ;;
    0) echo "data=$data train=$train_sets dev=$dev_sets test=$test_sets manifests=$manifests" ;;
  esac
}

# shellcheck disable=SC2046,SC2086  # several names in one variable
prepare_corpus() {
  local part name
  for part in $(printf '%s\n' $train_sets $dev_sets $test_sets | sort -u); do
    case $1 in
      -1) [ -d "$(part_folder "$part")" ] || [ -n "$manifests" ] || download 12 "$part.tar.gz" ;;
      0) [ -n "$manifests" ] || need_files -1 "$(part_folder "$part")" ;;
    esac
  done
  change_stage "$1"
  case $1 in
    -1)
      [ -z "$lm" ] || [ -f "$lm_path" ] || download 11 "$lm"
      ;;
    0)
      prepare_set train $train_sets
      prepare_set dev $dev_sets
      for name in $test_sets; do prepare_set "$name" "$name"; done
      ;;
  esac
}

# Download a file of an OpenSLR resource: download NUMBER NAME
# shellcheck disable=SC2046,SC2086
download() {
  python "$root/tools/data/fetch_corpus.py" --url $(printf "%s/resources/$1 " $url) --checksums local/md5sum.txt \
    --folder "$data" "$2"
}

# Write the folder of a set in Kaldi's format: prepare_set NAME PART...
prepare_set() {
  local name=$1 part folders=()
  shift
  if [ -z "$manifests" ]; then
    for part; do folders+=("$(part_folder "$part")"); done
    python "$root/tools/data/corpora/prepare_librispeech.py" "${folders[@]}" "data/$name"
  else
    set -- "${@/#/$manifests/librispeech_supervisions_}"
    python "$root/tools/data/corpora/prepare_manifests.py" "${@/%/.jsonl.gz}" "data/$name"
  fi
}

run_recipe
