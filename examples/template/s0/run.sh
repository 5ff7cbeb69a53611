#!/usr/bin/env bash
# Your corpus: from Kaldi folders to a streamed exported model. Usage: bash run.sh --data FOLDER [--name value]...
# FOLDER holds train/, dev/ and test/. Each has wav.scp and text in Kaldi's format, and segments if recordings hold
# several utterances. With --data_type lhotse each has lhotse's cuts.jsonl.gz instead; with --data_type sequential it may
# have a shards.list of files or URLs instead.
# To use a corpus in another layout, copy this folder and edit prepare_corpus below: it only has to make
# data/{train,dev,test}/{wav.scp,text}.
#
# Stages: 0 data, 1 mean and variance of the features, 2 vocabulary, 3 data lists, 4 training, 5 averaging and evaluation,
# 6 export, 7 streaming, pictures and summary, 8 language model.
# Stages that were done with the same settings are skipped: after an interruption, run the same command again.
#
# Examples:
#   bash run.sh --data /corpora/mine
#   bash run.sh --data /corpora/mine --units char
#   bash run.sh --data /corpora/mine --overrides "training.max_steps=20000 model.encoder.layers=6" --dir exp/small
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

# options
stage=0                         # the first stage to run
stop_stage=8                    # the last stage to run
force=false                     # repeat finished stages; the training starts anew, and its old folder is renamed
data=                           # folder with train/, dev/ and test/ in Kaldi's format
seed=0                          # seed of the training
units=bpe                       # kind of tokens: words, char or bpe
vocab_size=500                  # number of pieces with --units bpe
special_tokens=refuse           # marks such as <unk> and [noise] in transcripts: refuse, remove, keep or spell
data_type=raw                   # raw, shard, sequential (shards that are read in sequence), or lhotse
num_utts_per_shard=500          # number of utterances per shard
train_config=conf/train.yaml    # configuration of the training
overrides=                      # configuration values to change, e.g. "training.max_steps=20000 model.encoder.layers=6"
checkpoint=                     # checkpoint whose weights the training starts from (fine-tuning); empty: random weights
dir=                            # folder of the experiment; empty: exp/fusionformer_UNITS_seedSEED
num_workers=2                   # number of processes that prepare batches
num_gpus=1                      # number of training processes on this host, one per GPU; without GPUs they run on CPU cores
num_nodes=1                     # number of hosts that train together; on each, run --stage 4 --stop_stage 4 with the same options
HOST_NODE_ADDR=localhost:0      # with several hosts: name and free port of the first one
job_id=2023                     # with several hosts: a number that no other training uses
average_num=5                   # number of last checkpoints to average; if the last one alone is better on dev, it is used instead
decode_modes="ctc_greedy_search ctc_prefix_beam_search attention_rescoring" # searches to evaluate
chunkings="full 16/4 8/8"       # chunkings to evaluate: frames of 40 ms per chunk / chunks of left context
error_unit=word                 # unit to count errors in: word, char, or mixed (Chinese and Japanese by characters, the rest by words)
targets=                        # formats to export and measure on dev in addition to final.zip, e.g. "onnx sherpa-onnx onnx:int8"
lm_text=                        # text for the language model, one sentence per line; empty: the transcripts
lm_arpa=                        # language model to use instead of training one: ARPA file or KenLM's binary format
lm_words=spaces                 # words of the language model: spaces (text between spaces), unspaced or characters, see docs/language-models.md
lm_order=3                      # length of the language model's longest n-grams, in words
lm_prune=0                      # for each order, n-grams with at most this count are left out; "0 0 1" for large text
lm_weights="0.2 0.5 1"          # weights of the language model to try on the dev set
word_bonuses="0 1 2"            # bonuses per word to try with each weight
unknown_word_penalty=0          # nats subtracted for each word that the language model does not know; 8 almost forbids them
. "$here/../../../tools/parse_options.sh"
. "$here/../../../tools/recipe.sh"

[ $# -eq 0 ] || fail "unexpected argument '$1' (--help lists the options)"
enter_recipe
data=$(from_caller "$data")
corpus_stages=("" "data")

corpus_settings() {
  echo "data=$data $(cat "$data"/{train,dev,test}/{wav.scp,text,cuts.jsonl.gz,shards.list} 2>/dev/null | cksum | tr ' ' '-')"
}

prepare_corpus() {
  local name file
  [ -n "$data" ] || fail "--data is missing: give the folder that holds train/, dev/ and test/ with wav.scp and text"
  change_stage 0
  for name in train dev test; do
    if [ "$data_type" = lhotse ] || { [ "$data_type" = sequential ] && [ -f "$data/$name/shards.list" ]; }; then
      copy_list "$name"
      continue
    fi
    for file in wav.scp text; do
      [ -s "$data/$name/$file" ] || fail "$data/$name/$file is missing or empty; lines are 'key path' and 'key transcript'"
    done
    mkdir -p "data/$name"
    # Relative paths in wav.scp are relative to the folder in which the recipe was called.
    sed -E "s|^([^[:space:]]+[[:space:]]+)([^/])|\1$caller/\2|" "$data/$name/wav.scp" >"data/$name/wav.scp"
    for file in text segments reco2file_and_channel words.ctm; do
      [ ! -f "$data/$name/$file" ] || cp "$data/$name/$file" "data/$name/$file"
    done
  done
}

# Copy a set's own list. Relative paths of its shards are relative to the set's folder.
copy_list() {
  local file=cuts.jsonl.gz from=$data/$1
  [ "$data_type" = lhotse ] || file=shards.list
  [ -s "$from/$file" ] || fail "$from/$file is missing or empty"
  mkdir -p "data/$1"
  if [ "$file" = shards.list ]; then
    sed -E "/^(\/|pipe:|[a-z0-9+]+:\/\/)/!s|^|$from/|" "$from/$file" >"data/$1/$file"
  else
    cp "$from/$file" "data/$1/$file"
  fi
  for file in text words.ctm; do
    [ ! -f "$from/$file" ] || cp "$from/$file" "data/$1/$file"
  done
}

run_recipe
