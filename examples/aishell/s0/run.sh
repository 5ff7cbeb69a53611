#!/usr/bin/env bash
# AISHELL-1: from openslr.org to a streamed exported model. Usage: bash run.sh [--name value]...
#
# Stages: -1 download, 0 data, 1 mean and variance of the features, 2 vocabulary, 3 data lists, 4 training, 5 averaging and
# evaluation, 6 export, 7 streaming, pictures and summary, 8 language model.
# Stages that were done with the same settings are skipped: after an interruption, run the same command again.
#
# Examples (without --data, the corpus is downloaded):
#   bash run.sh --data /corpora/aishell --num_gpus 8
#   bash run.sh --data /corpora/aishell --train_config conf/train_small.yaml --dir exp/small
#   bash run.sh --data /corpora/aishell --stage 5 --chunkings "full 16/4"
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

# options
stage=-1                        # the first stage to run
stop_stage=8                    # the last stage to run
force=false                     # repeat finished stages; the training starts anew, and its old folder is renamed
data=                           # folder with data_aishell; empty: download to data/corpus
url="https://www.openslr.org https://us.openslr.org https://openslr.elda.org" # servers to download from, tried in this order
manifests=                      # folder with lhotse's manifests (lhotse prepare aishell); empty: none
seed=0                          # seed of the training
units=char                      # kind of tokens: char or bpe
vocab_size=4000                 # number of pieces with --units bpe
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
average_num=30                  # number of last checkpoints to average; if the last one alone is better on dev, it is used instead
decode_modes="ctc_greedy_search ctc_prefix_beam_search attention attention_rescoring" # searches to evaluate
chunkings="full 16/4 8/8"       # chunkings to evaluate: frames of 40 ms per chunk / chunks of left context
error_unit=char                 # unit to count errors in: word, char, or mixed (Chinese by characters, the rest by words)
targets="torchscript onnx wenet-onnx sherpa-onnx pt2 onnx:int8" # formats to export and measure on dev; empty: only final.zip
export_utterances=200           # number of utterances of dev to measure each format with
lm_order=5                      # length of the language model's longest n-grams, in characters
lm_words=characters             # words of the language model; characters: each character is a word
lm_weights="0.1 0.2 0.5"        # weights of the language model to try on the dev set
word_bonuses="0 0.5 1"          # bonuses per character to try with each weight
unknown_word_penalty=0          # nats subtracted for each word that the language model does not know; 8 almost forbids them
. "$here/../../../tools/parse_options.sh"
. "$here/../../../tools/recipe.sh"

[ $# -eq 0 ] || fail "unexpected argument '$1' (--help lists the options)"
enter_recipe
data=$(from_caller "${data:-$here/data/corpus}")
manifests=$(from_caller "$manifests")
corpus_stages=("download" "data")

corpus_settings() {
  echo "data=$data manifests=$manifests"
}

# shellcheck disable=SC2046,SC2086  # several names in one variable
prepare_corpus() {
  local name folder=$data
  [ "$(basename "$data")" = data_aishell ] || folder=$data/data_aishell
  [ "$1" = -1 ] || [ -n "$manifests" ] || need_files -1 "$folder/wav"
  change_stage "$1"
  case $1 in
    -1)
      [ -d "$folder" ] || [ -n "$manifests" ] || python "$root/tools/data/fetch_corpus.py" \
        --url $(printf '%s/resources/33 ' $url) --checksums local/md5sum.txt --folder "$data" \
        resource_aishell.tgz data_aishell.tgz
      ;;
    0)
      if [ -z "$manifests" ]; then
        python "$root/tools/data/corpora/prepare_aishell.py" "$folder" data
        return
      fi
      for name in train dev test; do
        python "$root/tools/data/corpora/prepare_manifests.py" "$manifests/aishell_supervisions_$name.jsonl.gz" "data/$name"
      done
      ;;
  esac
}

run_recipe
