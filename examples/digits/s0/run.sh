#!/usr/bin/env bash
# Digit strings: from recordings to a streamed exported model. Usage: bash run.sh [--name value]...
#
# Stages: -1 recordings, 0 digit strings, 1 mean and variance of the features, 2 vocabulary, 3 data lists, 4 training,
# 5 averaging and evaluation, 6 export, 7 streaming, pictures and summary, 8 language model.
# Stages that were done with the same settings are skipped: after an interruption, run the same command again.
#
# Examples (without --data, the recordings are downloaded):
#   bash run.sh --data /path/to/free-spoken-digit-dataset
#   bash run.sh --data /path/to/free-spoken-digit-dataset --seed 1
#   bash run.sh --data /path/to/free-spoken-digit-dataset --overrides "model.encoder.layers=6" --dir exp/deep
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

# options
stage=-1                        # the first stage to run
stop_stage=8                    # the last stage to run
force=false                     # repeat finished stages; the training starts anew, and its old folder is renamed
data=                           # folder of the Free Spoken Digit Dataset; synthetic: use espeak-ng; empty: download
seed=0                          # seed of the training strings and of the training
train_strings=4000              # number of training strings; the other sets are fixed
units=words                     # kind of tokens: words, char or bpe
vocab_size=30                   # number of pieces with --units bpe
data_type=raw                   # raw, shard, or sequential (shards that are read in sequence)
num_utts_per_shard=500          # number of utterances per shard
train_config=conf/train.yaml    # configuration of the training
overrides=                      # configuration values to change, e.g. "training.max_steps=400 model.encoder.layers=6"
checkpoint=                     # checkpoint whose weights the training starts from (fine-tuning); empty: random weights
dir=                            # folder of the experiment; empty: exp/fusionformer_UNITS_seedSEED
num_workers=1                   # number of processes that prepare batches
num_gpus=1                      # number of training processes on this host, one per GPU; without GPUs they run on CPU cores
num_nodes=1                     # number of hosts that train together; on each, run --stage 4 --stop_stage 4 with the same options
HOST_NODE_ADDR=localhost:0      # with several hosts: name and free port of the first one
job_id=2023                     # with several hosts: a number that no other training uses
average_num=3                   # number of last checkpoints to average; if the last one alone is better on dev, it is used instead
decode_modes="ctc_greedy_search ctc_prefix_beam_search attention attention_rescoring" # searches to evaluate
chunkings="full 16/4 8/8"       # chunkings to evaluate: frames of 40 ms per chunk / chunks of left context
targets=                        # formats to export and measure on dev in addition to final.zip, e.g. "onnx sherpa-onnx onnx:int8"
lm_order=3                      # length of the language model's longest n-grams, in words
lm_weights="0.2 0.5 1"          # weights of the language model to try on the dev set
word_bonuses="0 1 2"            # bonuses per word to try with each weight
unknown_word_penalty=0          # nats subtracted for each word that the language model does not know; 8 almost forbids them
. "$here/../../../tools/parse_options.sh"
. "$here/../../../tools/recipe.sh"

[ $# -eq 0 ] || fail "unexpected argument '$1' (--help lists the options)"
[[ $train_strings =~ ^[0-9]+$ ]] || fail "--train_strings $train_strings is not a number"
enter_recipe
[ "$data" = synthetic ] || data=$(from_caller "$data")
corpus_stages=("recordings of single digits" "digit strings")
corpus_files=(data/{dev,test}/words.ctm data/silence/{wav.scp,text})

corpus_settings() {
  case $1 in
    -1) echo "data=$data" ;;
    0) echo "seed=$seed train_strings=$train_strings folder=$PWD source=$(fingerprint data/source.json)" \
      "code=$(cat local/make_strings.py local/strings.py | cksum | tr ' ' '-')" ;;
  esac
}

prepare_corpus() {
  case $1 in
    -1)
      change_stage -1
      python local/prepare_data.py --data "$data" --folder data --output data/source.json
      ;;
    0)
      need_files -1 data/source.json
      change_stage 0
      python local/make_strings.py --source data/source.json --output data --seed "$seed" --train "$train_strings" \
        --silence 24
      ;;
  esac
}

summarise() {
  OMP_NUM_THREADS=1 python "$root/tools/measure/measure_insertions.py" "$exported" --speech data/test/data.list \
    | tee "$dir/insertions.txt"
  python local/summary.py --dir "$dir" --source data/source.json --seed "$seed" \
    --running_seconds "$((SECONDS - stage_started))" --stage_seconds {data,"$dir"}/.stage[-0-6]*.seconds
}

run_recipe
