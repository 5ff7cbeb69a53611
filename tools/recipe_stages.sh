# The work of stages 1 to 8, one function per stage. tools/recipe.sh sources this file and sets the variables.
# shellcheck shell=bash disable=SC2154  # variables of recipe.sh

# Print the folder of a test set's results: results_of NAME
results_of() {
  if [ "$1" = "$test_set" ]; then echo "$results"; else echo "${results}_$1"; fi
}

# Print the chunkings that can be streamed.
streamed_chunkings() {
  local chunking
  for chunking in $chunkings; do
    [ "$chunking" = full ] || echo "$chunking"
  done
}

# shellcheck disable=SC2046,SC2086  # several arguments in one variable
features_stage() {
  local given type=$data_type
  given=$(given_list train)
  need_stage 0 $(set_files train)
  change_stage 1
  if [ -z "$given" ]; then
    given=data/train/raw.list type=raw
    python "$root/tools/data/make_raw_list.py" data/train/{wav.scp,text} $given $(segments_of train) \
      --special_tokens "$special_tokens"
  fi
  python "$root/tools/data/compute_cmvn_stats.py" --config "$train_config" --data "$given" \
    --max_utterances 1000 --output data/train/global_cmvn $overrides data.data_type=$type
}

vocabulary_stage() {
  local given type=$data_type
  given=$(given_list train)
  [ -n "$given" ] || given=data/train/text type=text
  need_stage 0 "$given"
  change_stage 2
  python "$root/tools/data/make_vocabulary.py" --kind "$units" --vocab_size "$vocab_size" \
    --special_tokens "$special_tokens" --data_type "$type" "$given" data/lang
}

lists_stage() {
  local name given
  # shellcheck disable=SC2046,SC2086
  need_stage 0 $(set_files train dev $test_sets) ${corpus_files[@]+"${corpus_files[@]}"}
  change_stage 3
  for name in $(data_sets); do
    given=$(given_list "$name")
    if [ -n "$given" ]; then
      [ "$given" -ef "data/$name/$list" ] || cp "$given" "data/$name/$list"
    elif [ "$data_type" = raw ]; then
      # shellcheck disable=SC2046
      python "$root/tools/data/make_raw_list.py" "data/$name/"{wav.scp,text,data.list} $(segments_of "$name") \
        --special_tokens "$special_tokens"
    else
      rm -rf "data/$name/shards"
      # shellcheck disable=SC2046
      python "$root/tools/data/make_shard_list.py" --num_utts_per_shard "$num_utts_per_shard" --num_threads 2 \
        --special_tokens "$special_tokens" "data/$name/"{wav.scp,text,shards,data.list} $(segments_of "$name")
    fi
  done
}

training_stage() {
  local earlier ctm_option=()
  need_stage 0
  need_stage 1 data/train/global_cmvn
  need_stage 2 data/lang/units.txt
  need_stage 3 data/{train,dev}/"$list"
  change_stage 4
  if [ -f "$dir/.training" ]; then
    if [ "$force" = true ]; then
      earlier=$dir.$(date +%Y%m%d-%H%M%S)
      mv "$dir" "$earlier"
      echo "the earlier training is now in $earlier"
    elif [ "$(cat "$dir/.training")" = "$(stage_settings 4)" ]; then
      echo "resuming the training in $dir"
    else
      # A resumed training may change some settings, e.g. the batch size; `wenet-fusion train` refuses other changes.
      echo "the settings have changed; trying to resume the training in $dir. If that fails, name another folder with" \
        "--dir, or start anew with --force true"
    fi
  fi
  mkdir -p "$dir"
  stage_settings 4 >"$dir/.training"
  [ ! -f data/dev/words.ctm ] || ctm_option=(training.dev_ctm=data/dev/words.ctm)
  # shellcheck disable=SC2086
  "${train_launcher[@]}" train --config "$train_config" --train_data "data/train/$list" --dev_data "data/dev/$list" \
    --model_dir "$dir" ${checkpoint:+--init_from "$checkpoint"} "seed=$seed" "data.data_type=$data_type" "data.cmvn=data/train/global_cmvn" \
    "training.num_workers=$num_workers" "${tokenizer[@]}" ${ctm_option[@]+"${ctm_option[@]}"} $overrides
}

evaluation_stage() {
  local name ctm_option
  # shellcheck disable=SC2046
  need_stage 3 $(paths_of "train dev $test_sets" "$list")
  need_stage 4
  change_stage 5
  rm -rf "$results" "$results"_*
  wenet-fusion average --model_dir "$dir" --num "$average_num" --train_data "data/train/$list" \
    --dev_data "data/dev/$list" --output "$averaged"
  for name in $test_sets; do
    ctm_option=()
    [ ! -f "data/$name/words.ctm" ] || ctm_option=(--ctm "data/$name/words.ctm")
    [ "$name" = "$test_sets" ] || echo "data/$name:"
    # shellcheck disable=SC2086
    "${launcher[@]}" evaluate --checkpoint "$averaged" --data "data/$name/$list" --modes $decode_modes \
      --chunkings $chunkings --unit "$error_unit" ${ctm_option[@]+"${ctm_option[@]}"} \
      --result_dir "$(results_of "$name")"
  done
}

export_stage() {
  local ctm_option=()
  need_stage 5 "$averaged"
  need_stage 3 "data/dev/$list"
  need_files 0 ${corpus_files[@]+"${corpus_files[@]}"}
  [ ! -f data/dev/words.ctm ] || ctm_option=(--ctm data/dev/words.ctm)
  change_stage 6
  wenet-fusion export "$averaged" "$exported" --data "data/dev/$list" ${ctm_option[@]+"${ctm_option[@]}"}
  # shellcheck disable=SC2086
  [ -z "$targets" ] || python "$root/tools/measure_exports.py" "$averaged" --data "data/dev/$list" \
    --num_utterances "$export_utterances" --targets $targets --output "$dir/exports"
}

# Stream the set NAME through the exported file at each chunking, and write $dir/LABEL.CHUNKING. Further arguments are
# passed to measure_streaming.py: stream_set NAME LABEL [ARGUMENT...]
stream_set() {
  local name=$1 label=$2 chunking
  shift 2
  for chunking in $(streamed_chunkings); do
    local folder=$dir/$label.${chunking/\//-} compare=() offline=$results/attention_rescoring.${chunking/\//-}/tokens
    [ "$name" != "$test_set" ] || [ ! -f "$offline" ] || compare=(--reference_tokens "$offline")
    OMP_NUM_THREADS=1 python "$root/tools/measure/measure_streaming.py" "$exported" "data/$name/$list" \
      --chunking "$chunking" ${compare[@]+"${compare[@]}"} "$@" --output "$folder"
  done
}

streaming_stage() {
  local ctm_option=() delay_option=() records=() groups=() folder
  need_files 3 "data/$test_set/$list"
  need_files 0 ${corpus_files[@]+"${corpus_files[@]}"}
  need_stage 5 "$results/results.json"
  need_stage 6 "$exported"
  change_stage 7
  rm -rf "$dir"/stream.* "$dir"/silence.* "$dir"/align
  [ ! -f "data/$test_set/words.ctm" ] || ctm_option=(--ctm "data/$test_set/words.ctm")
  stream_set "$test_set" stream ${ctm_option[@]+"${ctm_option[@]}"}
  [ ! -f "data/silence/$list" ] || stream_set silence silence
  for folder in "$dir"/stream.*; do
    [ -f "$folder/stream.json" ] || continue
    records+=("$folder/stream.json")
    [ -f "data/$test_set/text" ] || continue
    python "$root/tools/measure/reliability.py" "data/$test_set/text" "$folder/words.ctm" \
      --title "$(basename "$here/..") streamed, chunks ${folder##*.}" --output "$folder/reliability.png"
  done
  [ ! -f "data/$test_set/utt2group" ] || groups=(--groups "data/$test_set/utt2group")
  [ ${#records[@]} = 0 ] || wenet-fusion report "$results" --streamed "${records[@]}" ${groups[@]+"${groups[@]}"}
  # The exported file has the emission delay only if dev has word times and the model recognised some of dev's words.
  [ ! -f data/dev/words.ctm ] || [[ $(wenet-fusion-runtime info "$exported") == *"--ctm corrects"* ]] \
    || delay_option=(--word_times "$exported")
  wenet-fusion align "$averaged" --data "data/$test_set/$list" ${delay_option[@]+"${delay_option[@]}"} \
    --output "$dir/align" --worst 5
  [ ! -f "data/$test_set/words.ctm" ] || python "$root/tools/measure/measure_timestamps.py" "data/$test_set/words.ctm" \
    "$dir/align/words.ctm" --output "$dir/align/word_times.json"
  python "$root/tools/measure/plot_training.py" "$dir/train_log.jsonl" "$dir/training.png"
  if declare -F summarise >/dev/null; then summarise; fi
}

language_model_stage() {
  local streamed removal='' model=$dir/lm.arpa text=data/train/text keyed=--keyed
  [ "$special_tokens" != remove ] || removal=--remove_special_tokens
  [ -n "$lm_text$lm_arpa" ] || need_stage 0 data/train/text
  # shellcheck disable=SC2046
  need_stage 3 $(paths_of "dev $test_sets" "$list")
  need_stage 6 "$exported"
  change_stage 8
  streamed=$(streamed_chunkings)
  [ -n "$streamed" ] || fail "--chunkings $chunkings: none of these can be streamed; add one, such as 16/4"
  if [ -n "$lm_arpa" ]; then
    model=$lm_arpa
  else
    [ -z "$lm_text" ] || text=$lm_text keyed=
    # shellcheck disable=SC2086
    python "$root/tools/language_model/train_ngram.py" "$text" ${keyed:+"$keyed"} --order "$lm_order" --prune $lm_prune \
      ${removal:+"$removal"} --words "$lm_words" --output "$model"
  fi
  # shellcheck disable=SC2046
  python "$root/tools/language_model/perplexity.py" "$model" $(paths_of "dev $test_sets" text) --keyed \
    ${removal:+"$removal"} --words "$lm_words"
  # shellcheck disable=SC2046,SC2086
  OMP_NUM_THREADS=1 python "$root/tools/measure/tune_language_model.py" "$exported" "$model" \
    --dev "data/dev/$list" --test $(paths_of "$test_sets" "$list") --chunkings $streamed \
    --weights $lm_weights --bonuses $word_bonuses --unknown_word_penalty "$unknown_word_penalty" \
    --output "$dir/language_model.json"
}
