#!/usr/bin/env bash
# English from 7 hours of recordings: an open vocabulary on two cores. Usage: bash run.sh --data FOLDER [--name value]...
#
# FOLDER holds english/{train,dev} in Kaldi's format and, optionally, LibriSpeech/{train-clean-100,dev-clean} and
# text/*.txt.gz; the README names the sources. Stage 0 divides the speakers of dev and dev-clean into dev and test set.
#
# Stages: 0 data, 1 mean and variance of the features, 2 vocabulary, 3 data lists, 4 training, 5 averaging and evaluation,
# 6 export, 7 streaming, pictures and summary, 8 language model.
# Stages that were done with the same settings are skipped: after an interruption, run the same command again.
#
# Examples:
#   bash run.sh --data /corpora/english
#   bash run.sh --data /corpora/english --seed 1 --stage 4
#   bash run.sh --data /corpora/english --overrides "model.loss.consistency_weight=0" --dir exp/without_consistency
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

# options
stage=0                         # the first stage to run
stop_stage=8                    # the last stage to run
force=false                     # repeat finished stages; the training starts anew, and its old folder is renamed
data=                           # folder with english/ and, optionally, LibriSpeech/ and text/
seed=0                          # seed of the training
units=bpe                       # kind of tokens: words, char or bpe
vocab_size=256                  # number of pieces with --units bpe
data_type=raw                   # raw or shard
num_utts_per_shard=500          # number of utterances per shard
train_config=conf/train.yaml    # configuration of the training
overrides=                      # configuration values to change, e.g. "training.max_steps=4000 model.encoder.layers=6"
checkpoint=                     # checkpoint whose weights the training starts from (fine-tuning); empty: random weights
dir=                            # folder of the experiment; empty: exp/fusionformer_UNITS_seedSEED
num_workers=1                   # number of processes that prepare batches
num_gpus=1                      # number of training processes on this host, one per GPU; without GPUs they run on CPU cores
num_nodes=1                     # number of hosts that train together; on each, run --stage 4 --stop_stage 4 with the same options
HOST_NODE_ADDR=localhost:0      # with several hosts: name and free port of the first one
job_id=2023                     # with several hosts: a number that no other training uses
average_num=5                   # number of last checkpoints to average; if the last one alone is better on dev, it is used instead
decode_modes="ctc_greedy_search ctc_prefix_beam_search attention attention_rescoring" # searches to evaluate
chunkings="full 16/4 8/8"       # chunkings to evaluate: frames of 40 ms per chunk / chunks of left context
lm_order=3                      # length of the language model's longest n-grams, in words
lm_weights="0.2 0.5 1"          # weights of the language model to try on the dev set
word_bonuses="0 1 2"            # bonuses per word to try with each weight
unknown_word_penalty=0          # nats subtracted for each word that the language model does not know; 8 almost forbids them
. "$here/../../../tools/parse_options.sh"
. "$here/../../../tools/recipe.sh"

[ $# -eq 0 ] || fail "unexpected argument '$1' (--help lists the options)"
enter_recipe
data=$(from_caller "$data")
lm_text=$here/data/text/lm.txt # contains the transcripts of the training set
corpus_stages=("" "data")

corpus_settings() {
  echo "data=$data code=$(cksum <local/divide_speakers.py | tr ' ' '-') $(cat "$data"/english/{train,dev}/{wav.scp,text} 2>/dev/null | cksum | tr ' ' '-')"
}

prepare_corpus() {
  local part train=("$data/english/train") held_out=("$data/english/dev") texts=()
  [ -n "$data" ] || fail "--data is missing: give the folder that holds english/, LibriSpeech/ and text/"
  need_files 0 "$data"/english/{train,dev}/{wav.scp,text,utt2spk}
  change_stage 0
  for part in train-clean-100 dev-clean; do
    [ -d "$data/LibriSpeech/$part" ] || continue
    python "$root/tools/data/corpora/prepare_librispeech.py" "$data/LibriSpeech/$part" "data/local/$part"
    if [ "$part" = dev-clean ]; then held_out+=("data/local/$part"); else train+=("data/local/$part"); fi
  done
  for part in "$data"/text/*.txt.gz; do [ ! -f "$part" ] || texts+=("$part"); done
  python local/divide_speakers.py --train "${train[@]}" --held_out "${held_out[@]}" \
    --text ${texts[@]+"${texts[@]}"} --output data
}

run_recipe
