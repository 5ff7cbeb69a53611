#!/usr/bin/env bash
# Digit strings: from recordings to an exported model that is streamed. Usage: bash run.sh [--name value]...
#
# Stages: -1 recordings, 0 digit strings, 1 mean and variance of the features, 2 units, 3 data lists, 4 training,
# 5 averaging and evaluation, 6 export, 7 streaming, pictures and summary, 8 language model.
# A stage that was done before with the same settings is skipped, so the same command goes on after an interruption.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

# options
stage=-1                        # the first stage to run
stop_stage=8                    # the last one
force=false                     # do stages again that are done; training starts anew, its folder is moved aside
data=                           # checkout of the Free Spoken Digit Dataset; synthetic: espeak-ng; empty: download
seed=0                          # of the training strings and of the training
train_strings=4000              # number of training strings; the other sets are fixed
units=words                     # words, char or bpe
vocab_size=30                   # pieces of --units bpe
data_type=raw                   # raw or shard
train_config=conf/train.yaml    # configuration of the training
overrides=                      # values in its place, e.g. "training.max_steps=400 model.encoder.layers=6"
dir=                            # folder of the experiment; empty: exp/fusionformer_UNITS_seedSEED
num_workers=1                   # processes that prepare batches
average_num=3                   # the last checkpoints, averaged for decoding if that is better on the dev set
decode_modes="ctc_greedy_search ctc_prefix_beam_search attention attention_rescoring" # searches to evaluate
chunkings="full 16/4 8/8"       # to evaluate: frames of 40 ms per chunk / chunks of left context
lm_order=3                      # words of the language model's longest n-grams
lm_weights="0.2 0.5 1"          # weights of the language model to try on the dev set
word_bonuses="0 1 2"            # bonuses for each word to try with each weight
. "$here/../../../tools/parse_options.sh"

fail() {
  echo "error: $*" >&2
  exit 1
}
[ $# -eq 0 ] || fail "unexpected argument '$1' (--help lists the options)"
[[ $stage =~ ^-?[0-9]+$ && $stop_stage =~ ^-?[0-9]+$ ]] || fail "--stage and --stop_stage are numbers from -1 to 8"
[[ $units =~ ^(words|char|bpe)$ ]] || fail "--units $units is not words, char or bpe"
[[ $data_type =~ ^(raw|shard)$ ]] || fail "--data_type $data_type is not raw or shard"
for name in seed train_strings vocab_size num_workers average_num lm_order; do
  [[ ${!name} =~ ^[0-9]+$ ]] || fail "--$name ${!name} is not a number"
done

# Paths that were typed start where they were typed; the recipe itself works in its own folder.
caller=$PWD
case $data in
  "" | synthetic | /*) ;;
  *) data=$caller/$data ;;
esac
cd "$here"
[ -f "$train_config" ] || [ ! -f "$caller/$train_config" ] || train_config=$caller/$train_config
[ -f "$train_config" ] || fail "--train_config $train_config: no such file in $here or $caller"
: "${dir:=exp/fusionformer_${units}_seed$seed}"
averaged=$dir/avg_$average_num.pt
exported=$dir/final.zip
results=$dir/results

. ./path.sh
. "$root/tools/stages.sh"
# shellcheck disable=SC2034  # read by stages.sh
stage_options=$given_options
# shellcheck disable=SC2034
stage_names=(
  "recordings of single digits" "digit strings" "mean and variance of the features" "units" "data lists"
  "training" "averaging and evaluation" "export" "streaming, pictures and summary" "language model"
)

stage_stamp() {
  if [ "$1" -le 3 ]; then echo "data/.stage$1"; else echo "$dir/.stage$1"; fi
}

# The lines of the configuration, and the overrides, that features depend on.
frontend() {
  awk '
    /^ *frontend:/ { match($0, /^ */); depth = RLENGTH; inside = 1; print; next }
    inside { match($0, /^ */); if (NF && RLENGTH <= depth) exit; print }' "$train_config"
  tr ' ' '\n' <<<"$overrides" | grep '^model\.frontend' || true
}

stage_settings() {
  case $1 in
    -1) echo "data=$data" ;;
    0) echo "seed=$seed train_strings=$train_strings folder=$PWD source=$(fingerprint data/source.json)" \
      "code=$(cat local/make_strings.py local/strings.py | cksum | tr ' ' '-')" ;;
    1) echo "$(stage_settings 0) frontend=$(frontend | cksum | tr ' ' '-')" ;;
    2) echo "$(stage_settings 0) units=$units vocab_size=$vocab_size" ;;
    3) echo "$(stage_settings 0) data_type=$data_type" ;;
    4) echo "$(stage_settings 0) config=$(fingerprint "$train_config") overrides=$overrides" \
      "cmvn=$(fingerprint data/train/global_cmvn) units=$units-$(fingerprint data/lang/units.txt)" ;;
    5) echo "average_num=$average_num decode_modes=$decode_modes chunkings=$chunkings" \
      "training=$(fingerprint "$dir/.stage4")" ;;
    6) echo "checkpoint=$(fingerprint "$averaged") times=$(fingerprint data/dev/words.ctm)" ;;
    7) echo "model=$(fingerprint "$exported") results=$(fingerprint "$results/results.json") chunkings=$chunkings" ;;
    8) echo "model=$(fingerprint "$exported") text=$(fingerprint data/train/text) chunkings=$chunkings" \
      "lm_order=$lm_order lm_weights=$lm_weights word_bonuses=$word_bonuses" ;;
  esac
}

# All seeds and units share data/: a second run would change it under the first one's training.
mkdir -p data
exec 8>data/.lock
if command -v flock >/dev/null && ! flock -n 8; then
  fail "another run of this recipe uses $PWD/data; wait for it, or use another clone"
fi

# Settings of the configuration that the options decide.
tokenizer=("tokenizer.units=data/lang/units.txt")
case $units in
  words) tokenizer+=("tokenizer.kind=char" "tokenizer.split_with_space=true") ;;
  char) tokenizer+=("tokenizer.kind=char" "tokenizer.split_with_space=false") ;;
  bpe) tokenizer+=("tokenizer.kind=bpe" "tokenizer.split_with_space=false" "tokenizer.bpe_model=data/lang/bpe.model") ;;
esac

if stage_wanted -1 && begin_stage -1; then
  change_stage -1
  python local/prepare_data.py --data "$data" --folder data --output data/source.json
  end_stage -1
fi

if stage_wanted 0 && begin_stage 0; then
  need_files -1 data/source.json
  change_stage 0
  python local/make_strings.py --source data/source.json --output data --seed "$seed" --train "$train_strings" --silence 24
  end_stage 0
fi

if stage_wanted 1 && begin_stage 1; then
  need_stage 0 data/train/{wav.scp,text}
  change_stage 1
  python "$root/tools/data/make_raw_list.py" data/train/{wav.scp,text,raw.list}
  # shellcheck disable=SC2086  # several overrides in one variable
  python "$root/tools/data/compute_cmvn_stats.py" --config "$train_config" --data data/train/raw.list --max_utterances 1000 \
    --output data/train/global_cmvn $overrides data.data_type=raw
  end_stage 1
fi

if stage_wanted 2 && begin_stage 2; then
  need_stage 0 data/train/text
  change_stage 2
  python "$root/tools/data/make_vocabulary.py" --kind "$units" --vocab_size "$vocab_size" data/train/text data/lang
  end_stage 2
fi

if stage_wanted 3 && begin_stage 3; then
  need_stage 0 data/{train,dev,test,silence}/{wav.scp,text}
  change_stage 3
  for name in train dev test silence; do
    if [ "$data_type" = raw ]; then
      python "$root/tools/data/make_raw_list.py" data/$name/{wav.scp,text,data.list}
    else
      rm -rf data/$name/shards
      python "$root/tools/data/make_shard_list.py" --num_utts_per_shard 500 --num_threads 2 \
        data/$name/{wav.scp,text,shards,data.list}
    fi
  done
  end_stage 3
fi

if stage_wanted 4 && begin_stage 4; then
  need_stage 0
  need_stage 1 data/train/global_cmvn
  need_stage 2 data/lang/units.txt
  need_stage 3 data/{train,dev}/data.list
  change_stage 4
  if [ -f "$dir/.training" ]; then
    if [ "$force" = true ]; then
      aside=$dir.$(date +%Y%m%d-%H%M%S)
      mv "$dir" "$aside"
      echo "the earlier training is now in $aside"
    elif [ "$(cat "$dir/.training")" = "$(stage_settings 4)" ]; then
      echo "going on with the training in $dir"
    else
      fail "$dir holds a training with other settings; name another folder with --dir, or start anew with --force true
  then: $(cat "$dir/.training")
  now:  $(stage_settings 4)"
    fi
  fi
  mkdir -p "$dir"
  stage_settings 4 >"$dir/.training"
  # shellcheck disable=SC2086
  wenet-fusion train --config "$train_config" --train_data data/train/data.list --dev_data data/dev/data.list \
    --model_dir "$dir" "seed=$seed" "data.data_type=$data_type" "data.cmvn=data/train/global_cmvn" \
    "training.num_workers=$num_workers" "${tokenizer[@]}" $overrides
  end_stage 4
fi

if stage_wanted 5 && begin_stage 5; then
  need_stage 3 data/{train,dev,test}/data.list
  need_stage 4
  change_stage 5
  rm -rf "$results"
  wenet-fusion average --model_dir "$dir" --num "$average_num" --train_data data/train/data.list \
    --dev_data data/dev/data.list --output "$averaged"
  # shellcheck disable=SC2086
  wenet-fusion evaluate --checkpoint "$averaged" --data data/test/data.list --modes $decode_modes \
    --chunkings $chunkings --result_dir "$results"
  end_stage 5
fi

if stage_wanted 6 && begin_stage 6; then
  need_stage 5 "$averaged"
  need_stage 3 data/dev/data.list
  need_stage 0 data/dev/words.ctm
  change_stage 6
  wenet-fusion export "$averaged" "$exported" --data data/dev/data.list --ctm data/dev/words.ctm
  end_stage 6
fi

if stage_wanted 7 && begin_stage 7; then
  need_files 3 data/{test,silence}/data.list
  need_files 0 data/test/words.ctm
  need_stage 5 "$results/results.json"
  need_stage 6 "$exported"
  change_stage 7
  rm -rf "$dir"/stream.* "$dir"/silence.* "$dir"/align
  for chunking in $chunkings; do
    [ "$chunking" != full ] || continue
    label=${chunking/\//-}
    offline=$results/attention_rescoring.$label/tokens
    compare=()
    [ ! -f "$offline" ] || compare=(--reference_tokens "$offline")
    OMP_NUM_THREADS=1 python "$root/tools/measure/measure_streaming.py" "$exported" data/test/data.list --data_type "$data_type" \
      --chunking "$chunking" --ctm data/test/words.ctm ${compare[@]+"${compare[@]}"} --output "$dir/stream.$label"
    OMP_NUM_THREADS=1 python "$root/tools/measure/measure_streaming.py" "$exported" data/silence/data.list --data_type "$data_type" \
      --chunking "$chunking" --output "$dir/silence.$label"
    python "$root/tools/measure/reliability.py" data/test/text "$dir/stream.$label/words.ctm" --title "Digit strings, streamed at $chunking" \
      --output "$dir/stream.$label/reliability.png"
  done
  wenet-fusion align "$averaged" --data data/test/data.list --word_times "$exported" --output "$dir/align" --worst 5
  python "$root/tools/measure/measure_timestamps.py" data/test/words.ctm "$dir/align/words.ctm" --output "$dir/align/word_times.json"
  streamed=()
  for record in "$dir"/stream.*/stream.json; do
    [ ! -f "$record" ] || streamed+=("$record")
  done
  [ ${#streamed[@]} = 0 ] || wenet-fusion report "$results" --streamed "${streamed[@]}"
  OMP_NUM_THREADS=1 python "$root/tools/measure/measure_insertions.py" "$exported" --speech data/test/data.list | tee "$dir/false_words.txt"
  python "$root/tools/measure/plot_training.py" "$dir/train_log.jsonl" "$dir/training.png"
  python local/summary.py --dir "$dir" --source data/source.json --seed "$seed" \
    --running_seconds "$((SECONDS - stage_started))" --stage_seconds {data,"$dir"}/.stage[-0-6]*.seconds
  end_stage 7
fi

if stage_wanted 8 && begin_stage 8; then
  need_stage 0 data/train/text
  need_stage 3 data/{dev,test}/data.list
  need_stage 6 "$exported"
  change_stage 8
  streamed=()
  for chunking in $chunkings; do
    [ "$chunking" = full ] || streamed+=("$chunking")
  done
  [ ${#streamed[@]} -gt 0 ] || fail "--chunkings $chunkings names none that can be streamed, such as 16/4"
  python "$root/tools/language_model/train_ngram.py" data/train/text --keyed --order "$lm_order" --output "$dir/lm.arpa" \
    --evaluate data/{dev,test}/text
  # shellcheck disable=SC2086  # several values in one variable
  OMP_NUM_THREADS=1 python "$root/tools/measure/tune_language_model.py" "$exported" "$dir/lm.arpa" --dev data/dev/data.list \
    --test data/test/data.list --data_type "$data_type" --chunkings "${streamed[@]}" --weights $lm_weights \
    --bonuses $word_bonuses --output "$dir/language_model.json"
  end_stage 8
fi

if [ -f "$exported" ]; then
  echo "
Text from a file of your own:
  ${VIRTUAL_ENV:+. $VIRTUAL_ENV/bin/activate; }wenet-fusion-runtime transcribe $PWD/$exported RECORDING"
fi
printf '\nstages took %d s; the environment took %d s\n' "$recipe_seconds" "$env_seconds"
