#!/usr/bin/env bash
# Commands, digits and dates in English for any speaker, from synthetic and recorded speech.
# Usage: bash run.sh --data FOLDER --speech FOLDER [--name value]...
#
# The model is made for the language of conf/grammar.yaml. Synthesizers speak sentences of this language in many voices,
# Whisper rejects unclear utterances, and recordings of people complete the training set. The README names the sources.
#
# Stages: -1 synthetic speech, 0 data, 1 mean and variance of the features, 2 vocabulary, 3 data lists, 4 training,
# 5 averaging and evaluation, 6 export, 7 streaming, pictures and summary, 8 language model.
# Stages that were done with the same settings are skipped: after an interruption, run the same command again.
#
# Examples:
#   bash run.sh --data /corpora --speech /big/speech --stage -1 --stop_stage -1
#   bash run.sh --data /corpora --speech /big/speech
#   bash run.sh --data /corpora --speech /big/speech --synthesizers "flite=1" --whisper "" --dir exp/small
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

# options
stage=-1                        # the first stage to run
stop_stage=8                    # the last stage to run
force=false                     # repeat finished stages; the training starts anew, and its old folder is renamed
data=                           # folder with english/ and, optionally, LibriSpeech/, fsdd/, wakewords/, speech_commands_300/, text/
speech=data/speech              # folder of the synthetic speech, which other runs may use too
synthesizers="hibari=14 kokoro=7 flite=2 festival=0.7" # synthesizers and the hours of speech to make with each
kokoro=                         # folder of kokoro.onnx and voices/, for the synthesizer kokoro
test_voices="af_nova am_echo bf_isabella bm_lewis am_puck af_bella" # voices of kokoro for the test set only
dev_voices="bf_alice am_liam af_sky am_onyx" # voices of kokoro for the dev set only
foreign_hours=2.6               # hours of synthetic speech in other languages, without transcripts
sound_hours=1.5                 # hours of silence, noise, music and reversed speech, without transcripts
wordless_test_hours=1           # hours of the test set foreign and of the test set sounds, for the model card; 0: none
whisper=tiny.en                 # faster-whisper model that rejects unclear utterances: name or folder; empty: keep all
seed=0                          # seed of the training
vocab_size=250                  # number of BPE pieces
data_type=raw                   # raw or shard
num_utts_per_shard=500          # number of utterances per shard
train_config=conf/train.yaml    # configuration of the training
overrides=                      # configuration values to change, e.g. "training.max_steps=4000 model.encoder.layers=6"
checkpoint=                     # checkpoint whose weights the training starts from (fine-tuning); empty: random weights
dir=                            # folder of the experiment; empty: exp/fusionformer_bpe_seedSEED
num_workers=1                   # number of processes that prepare batches
num_gpus=1                      # number of training processes on this host, one per GPU; without GPUs they run on CPU cores
num_nodes=1                     # number of hosts that train together; on each, run --stage 4 --stop_stage 4 with the same options
HOST_NODE_ADDR=localhost:0      # with several hosts: name and free port of the first one
job_id=2023                     # with several hosts: a number that no other training uses
average_num=5                   # number of last checkpoints to average; if the last one alone is better on dev, it is used instead
decode_modes="ctc_greedy_search ctc_prefix_beam_search" # searches to evaluate
chunkings="full 16/4 8/8"       # chunkings to evaluate: frames of 40 ms per chunk / chunks of left context
test_sets=                      # sets to evaluate, without speakers of the training set; empty: voices, strings, digits, words, librispeech and english_dev, as far as --data and --synthesizers give them
lm_sentences=600000             # number of sentences drawn for the language model, in addition to the texts for the synthesizers and the open text
lm_order=3                      # length of the language model's longest n-grams, in words
lm_prune="0 1 2"                # for each order, n-grams with at most this count are left out; "0 1 2" keeps pairs that occur at least twice and triples that occur at least three times
lm_weights="0.2 0.5 1"          # weights of the language model to try on the dev set
word_bonuses="0 1 2"            # bonuses per word to try with each weight
unknown_word_penalty=8          # nats subtracted for each word that the language model does not know
. "$here/../../../tools/parse_options.sh"

# Print the test sets that stage 0 makes.
possible_test_sets() {
  local sets=
  [[ " $synthesizers" != *" kokoro="* ]] || sets="voices "
  ! grep -Eqs '^[^[:space:]]+([[:space:]]+(ZERO|ONE|TWO|THREE|FOUR|FIVE|SIX|SEVEN|EIGHT|NINE))+[[:space:]]*$' "$data/english/dev/text" \
    || sets+="strings "
  [ ! -d "$data/speech_commands_300" ] || sets+="digits words "
  [ ! -d "$data/LibriSpeech/dev-clean" ] || sets+="librispeech "
  echo "${sets}english_dev"
}

: "${test_sets:=$(possible_test_sets)}"
. "$here/../../../tools/recipe.sh"

[ $# -eq 0 ] || fail "unexpected argument '$1' (--help lists the options)"
for pair in $synthesizers; do
  [[ $pair =~ ^(hibari|kokoro|flite|festival)=[0-9]+(\.[0-9]+)?$ ]] \
    || fail "--synthesizers $pair: give NAME=HOURS with hibari, kokoro, flite or festival"
done

# Print the optional corpora that --data holds.
optional_corpora() {
  local part
  for part in LibriSpeech/train-clean-100 LibriSpeech/dev-clean fsdd wakewords speech_commands_300; do
    [ ! -d "$data/$part" ] || printf '%s ' "$part"
  done
}

enter_recipe
data=$(from_caller "$data")
kokoro=$(from_caller "$kokoro")
[ "$speech" = data/speech ] || speech=$(from_caller "$speech")
[ -z "$whisper" ] || [ ! -d "$caller/$whisper" ] || whisper=$(from_caller "$whisper")
lm_text=$here/data/text/lm.txt
corpus_stages=("synthetic speech" "data")

corpus_settings() {
  case $1 in
    -1) echo "speech=$speech synthesizers=$synthesizers foreign=$foreign_hours sounds=$sound_hours tests=$wordless_test_hours whisper=$whisper" \
      "voices=$test_voices/$dev_voices grammar=$(fingerprint conf/grammar.yaml)" ;;
    0) echo "data=$data speech=$speech sentences=$lm_sentences grammar=$(fingerprint conf/grammar.yaml) code=$(cat local/{divide_corpora,folders,make_texts,language,templates,quantities}.py | cksum | tr ' ' '-') open=$(cat "$data"/text/*.txt.gz 2>/dev/null | cksum | tr ' ' '-') $(optional_corpora)$(cat "$data"/english/{train,dev}/text "$speech"/*/{kept,text} 2>/dev/null | cksum | tr ' ' '-')" ;;
  esac
}

# Write texts and speak them: speak NAME SYNTHESIZER HOURS [make_texts ARGUMENT...] -- [speak_texts ARGUMENT...]
speak() {
  local name=$1 synthesizer=$2 hours=$3 texts=() number list=$speech/texts/$1.tsv made_from
  shift 3
  while [ "$1" != -- ]; do
    texts+=("$1")
    shift
  done
  shift
  number=$(cksum <<<"$name" | cut -c 1-6) # a seed for each set
  mkdir -p "$speech/texts"
  made_from="$(fingerprint conf/grammar.yaml) ${texts[*]##*/}"
  [ ! -f "$list.made_from" ] || [ "$(cat "$list.made_from")" = "$made_from" ] || rm -f "$list"
  if [ ! -s "$list" ]; then
    echo "$made_from" >"$list.made_from"
    python local/make_texts.py --seed "$number" "${texts[@]}" --output "$list"
  fi
  python local/speak_texts.py "$synthesizer" "$list" --hours "$hours" --seed "$number" \
    ${kokoro:+--kokoro "$kokoro"} "$@" --output "$speech/$name"
}

# Print the voices of kokoro that are neither in the dev nor in the test set.
training_voices() {
  local path
  for path in "$kokoro"/voices/*.bin; do
    path=$(basename "$path" .bin)
    case " $test_voices $dev_voices " in *" $path "*) ;; *) echo "$path" ;; esac
  done
}

# Stop before hours of work if a synthesizer is missing.
need_synthesizers() {
  case " $synthesizers" in *" flite="*) command -v flite >/dev/null || fail "flite is missing; run: apt-get install flite" ;; esac
  case " $synthesizers" in *" festival="*) command -v text2wave >/dev/null \
    || fail "text2wave is missing; run: apt-get install festival festvox-kallpc16k festvox-us-slt-hts" ;; esac
  case " $synthesizers" in *" kokoro="*)
    [ -s "$kokoro/kokoro.onnx" ] \
      || fail "--kokoro '$kokoro': holds no kokoro.onnx; the README says how to make the folder, or leave kokoro out of --synthesizers"
    [ -n "$(training_voices)" ] || fail "$kokoro/voices: holds no voices but those of --test_voices and --dev_voices; add others"
    ;;
  esac
}

# shellcheck disable=SC2046,SC2086
make_speech() {
  local pair name open=() spoken=()
  for name in "$data"/text/*.txt.gz; do [ ! -f "$name" ] || open+=("$name"); done
  for pair in $synthesizers; do
    name=${pair%=*}
    # Utterances last 2.5 seconds on average: 2000 texts an hour are enough.
    speak "$name" "$name" "${pair#*=}" --count "$(awk "BEGIN { print int(2000 * ${pair#*=}) + 10 }")" \
      ${open[@]+--open_text "${open[@]}"} -- $([ "$name" != kokoro ] || echo --voices $(training_voices))
    spoken+=("$speech/$name")
  done
  if [[ " $synthesizers" == *" kokoro="* ]]; then
    speak test_voices kokoro 0 --count 500 -- --voices $test_voices
    speak dev_voices kokoro 0 --count 300 -- --voices $dev_voices
    spoken+=("$speech/test_voices" "$speech/dev_voices")
  fi
  if [ -n "$whisper" ] && [ ${#spoken[@]} != 0 ]; then
    python local/check_speech.py "${spoken[@]}" --whisper "$whisper"
  fi
  # The list of an earlier run with Whisper would leave speech out.
  [ -n "$whisper" ] || for name in ${spoken[@]+"${spoken[@]}"}; do rm -f "$name"/{kept,rejected}; done
  if [[ " $synthesizers" == *" hibari="* ]] && [ "$foreign_hours" != 0 ]; then
    speak foreign hibari "$foreign_hours" --foreign es fr de ru pl it nl sv pt sk sl hr lt et id bg lv \
      --count "$(awk "BEGIN { print int(3000 * $foreign_hours) + 10 }")" --
    [ "$wordless_test_hours" = 0 ] || speak test_foreign hibari "$wordless_test_hours" --foreign tr da cs fi hu ro \
      --count "$(awk "BEGIN { print int(3000 * $wordless_test_hours) + 10 }")" --
  fi
  if [ "$sound_hours" != 0 ]; then
    python local/make_sounds.py --speech "$data/english/train/wav.scp" --root "$data/english" --hours "$sound_hours" \
      --output "$speech/sounds"
    [ "$wordless_test_hours" = 0 ] || python local/make_sounds.py --speech "$data/english/dev/wav.scp" --root "$data/english" \
      --hours "$wordless_test_hours" --seed 1 --output "$speech/test_sounds"
  fi
}

# Write the text of the language model, without the sentences of four or more words that dev and test sets hold.
write_lm_text() {
  local name open=() held_out=data/text/held_out.txt
  mkdir -p data/text
  for name in data/*/text; do [ "$name" = data/train/text ] || [ ! -f "$name" ] || cut -d ' ' -f 2- "$name"; done | awk 'NF > 3' >"$held_out"
  for name in "$data"/text/*.txt.gz; do [ ! -f "$name" ] || open+=("$name"); done
  python local/make_texts.py --count "$lm_sentences" --seed 1 --open_share 0 --all_open_text \
    ${open[@]+--open_text "${open[@]}"} --output data/text/drawn.tsv
  {
    cut -f 2- data/text/drawn.tsv
    for name in "$speech"/texts/*.tsv; do
      case ${name##*/} in test_* | dev_* | foreign.tsv) ;; *) [ ! -f "$name" ] || cut -f 2- "$name" ;; esac
    done
  } | { grep -vxF -f "$held_out" || true; } >"$lm_text"
}

prepare_corpus() {
  local part name
  [ -n "$data" ] || fail "--data is missing: give the folder that holds english/ and the other corpora"
  case $1 in
    -1)
      for name in "$data"/english/{train,dev}/{wav.scp,text,utt2spk}; do
        [ -s "$name" ] || fail "$name is missing or empty: the README says what --data must hold"
      done
      need_synthesizers
      change_stage -1
      mkdir -p "$speech"
      make_speech
      ;;
    0)
      need_stage -1
      change_stage 0
      for part in train-clean-100 dev-clean; do
        [ ! -d "$data/LibriSpeech/$part" ] || python "$root/tools/data/corpora/prepare_librispeech.py" "$data/LibriSpeech/$part" "data/local/$part"
      done
      python local/divide_corpora.py "$data" "$speech" --output data
      write_lm_text
      ;;
  esac
}

run_recipe
