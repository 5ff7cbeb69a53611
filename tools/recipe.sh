# Sourced by recipes after tools/parse_options.sh: the options, settings and order of the stages that all recipes share.
# tools/recipe_stages.sh does the work of stages 1 to 8.
# shellcheck shell=bash disable=SC2154  # variables of the recipe
#
#   1 mean and variance of the features   2 vocabulary   3 data lists   4 training   5 averaging and evaluation
#   6 export   7 streaming, pictures and summary    8 language model
#
# A recipe prepares its corpus in stages -1 and 0, which make data/{train,dev,test}/{wav.scp,text} (Kaldi's format;
# optional: segments, reco2file_and_channel, words.ctm with the times of the words, and a set data/silence without
# speech). `test_sets` may name several test sets: stages 5 and 8 measure all of them, stage 7 streams the first. With
# --data_type lhotse or sequential a set may be a list instead: see tools/data_sets.sh.
#
# A recipe sets `here` (its folder) and its options, calls `enter_recipe`, and sets `corpus_stages`, the names of stages
# -1 and 0. `corpus_files` may name further files that stage 0 makes. It defines these functions and calls `run_recipe`:
#   corpus_settings N   print everything that the outcome of stage N (-1 or 0) depends on, as one line
#   prepare_corpus N    do the work of stage N
#   summarise           print the summary at the end of stage 7; optional
# See examples/template/s0/run.sh.

# Variables of the shared stages. A recipe that sets one beforehand changes its default and makes it an option.
: "${stage:=0}" "${stop_stage:=8}" "${force:=false}" "${units:=bpe}" "${vocab_size:=500}" "${data_type:=raw}"
: "${special_tokens:=refuse}" "${train_config:=conf/train.yaml}" "${overrides:=}" "${num_workers:=1}" "${average_num:=3}" "${seed:=0}" "${dir:=}"
: "${checkpoint:=}" "${num_gpus:=1}" "${num_nodes:=1}" "${HOST_NODE_ADDR:=localhost:0}" "${job_id:=2023}" "${num_utts_per_shard:=500}"
: "${decode_modes:=ctc_greedy_search ctc_prefix_beam_search attention attention_rescoring}"
: "${test_sets:=test}" "${error_unit:=word}" "${targets:=}" "${export_utterances:=100}"
: "${lm_words:=spaces}" "${lm_text:=}" "${lm_arpa:=}" "${unknown_word_penalty:=0}"
: "${chunkings:=full 16/4 8/8}" "${lm_order:=3}" "${lm_prune:=0}" "${lm_weights:=0.2 0.5 1}" "${word_bonuses:=0 1 2}"
list=data.list

# shellcheck source=tools/recipe_stages.sh
. "${BASH_SOURCE[0]%/*}/recipe_stages.sh"

fail() {
  echo "error: $*" >&2
  exit 1
}

# Print a path that is relative to the caller's folder as an absolute path, because the recipe changes its folder.
from_caller() {
  case $1 in
    "" | /*) echo "$1" ;;
    *) echo "$caller/$1" ;;
  esac
}

# Check the options, enter the recipe's folder and set up its environment.
enter_recipe() {
  local name
  [[ $stage =~ ^-?[0-9]+$ && $stop_stage =~ ^-?[0-9]+$ ]] || fail "--stage and --stop_stage are numbers from -1 to 8"
  [[ $units =~ ^(words|char|bpe)$ ]] || fail "--units $units is not words, char or bpe"
  [[ $data_type =~ ^(raw|shard|sequential|lhotse)$ ]] || fail "--data_type $data_type is not raw, shard, sequential or lhotse"
  [[ $special_tokens =~ ^(refuse|remove|keep|spell)$ ]] || fail "--special_tokens $special_tokens is not refuse, remove, keep or spell"
  [[ $error_unit =~ ^(word|char|mixed)$ ]] || fail "--error_unit $error_unit is not word, char or mixed"
  for name in seed vocab_size num_workers average_num lm_order num_gpus num_nodes job_id num_utts_per_shard export_utterances; do
    [[ ${!name} =~ ^[0-9]+$ ]] || fail "--$name ${!name} is not a number"
  done
  [[ $lm_prune =~ ^0(\ +[0-9]+)*$ ]] || fail "--lm_prune '$lm_prune' is not a list of counts that begins with 0, such as '0 0 1'"
  # shellcheck disable=SC2086
  [ "$(wc -w <<<"$lm_prune")" -le "$lm_order" ] && sort -nc <(printf '%s\n' $lm_prune) 2>/dev/null \
    || fail "--lm_prune '$lm_prune': give at most --lm_order ($lm_order) counts, none smaller than the one before"
  choose_launchers
  caller=$PWD
  checkpoint=$(from_caller "$checkpoint")
  [ -z "$checkpoint" ] || [ -f "$checkpoint" ] || fail "--checkpoint $checkpoint: no such file"
  [ -n "$test_sets" ] || fail "--test_sets is empty: name a set to evaluate"
  test_set=${test_sets%% *}
  lm_text=$(from_caller "$lm_text")
  lm_arpa=$(from_caller "$lm_arpa")
  cd "$here" || exit 1
  [ -f "$train_config" ] || [ ! -f "$caller/$train_config" ] || train_config=$caller/$train_config
  [ -f "$train_config" ] || fail "--train_config $train_config: no such file in $here or $caller"
  : "${dir:=exp/fusionformer_${units}_seed$seed}"
  averaged=$dir/avg_$average_num.pt
  exported=$dir/final.zip
  results=$dir/results
  [ "$data_type" != lhotse ] || list=cuts.jsonl.gz # lhotse detects a file's format by its name
  # shellcheck source=/dev/null
  . ./path.sh
  # shellcheck source=tools/stages.sh
  . "$root/tools/stages.sh"
  # shellcheck source=tools/data_sets.sh
  . "$root/tools/data_sets.sh"
  stage_options=$given_options
  tokenizer=("tokenizer.units=data/lang/units.txt")
  case $units in
    words) tokenizer+=("tokenizer.kind=char" "tokenizer.split_with_space=true") ;;
    char) tokenizer+=("tokenizer.kind=char" "tokenizer.split_with_space=false") ;;
    bpe) tokenizer+=("tokenizer.kind=bpe" "tokenizer.split_with_space=false" "tokenizer.bpe_model=data/lang/bpe.model") ;;
  esac
  tokenizer+=("tokenizer.special_tokens=$special_tokens")
  # Runs with different seeds and vocabularies share data/: a second run would change it while the first one trains.
  mkdir -p data
  exec 8>data/.lock
  # The hosts of one training only read data/, so they hold the lock together.
  local kind=-x
  [ "$num_nodes" -le 1 ] || [ "$stage" -lt 4 ] || kind=-s
  if command -v flock >/dev/null && ! flock -n $kind 8; then
    fail "another run of this recipe uses $PWD/data; wait for it, or use another clone"
  fi
}

# Set launcher, the command that runs wenet-fusion on this host, and train_launcher, which trains on all hosts.
choose_launchers() {
  local ranks=(python -m torch.distributed.run --nproc_per_node "$num_gpus" --rdzv_backend c10d)
  if [ "$num_gpus" -lt 1 ] || [ "$num_nodes" -lt 1 ]; then fail "--num_gpus and --num_nodes must be at least 1"; fi
  launcher=(wenet-fusion)
  [ "$num_gpus" = 1 ] || launcher=("${ranks[@]}" --rdzv_endpoint localhost:0 -m wenet_fusion.cli)
  train_launcher=("${launcher[@]}")
  [ "$num_nodes" = 1 ] && return
  [[ $HOST_NODE_ADDR =~ :[1-9][0-9]*$ ]] \
    || fail "--HOST_NODE_ADDR $HOST_NODE_ADDR: with --num_nodes $num_nodes give HOST:PORT of the first host, such as node1:29400"
  train_launcher=("${ranks[@]}" --nnodes "$num_nodes" --rdzv_endpoint "$HOST_NODE_ADDR" --rdzv_id "$job_id"
    -m wenet_fusion.cli)
}

stage_stamp() {
  if [ "$1" -le 3 ]; then echo "data/.stage$1"; else echo "$dir/.stage$1"; fi
}

# Print the lines of the configuration and the overrides on which the features depend.
frontend() {
  awk '
    /^ *frontend:/ { match($0, /^ */); depth = RLENGTH; inside = 1; print; next }
    inside { match($0, /^ */); if (NF && RLENGTH <= depth) exit; print }' "$train_config"
  tr ' ' '\n' <<<"$overrides" | grep '^model\.frontend' || true
}

stage_settings() {
  local special='' shards='' start='' sets='' unit='' formats='' language=''
  [ -z "$checkpoint" ] || start=" checkpoint=$(fingerprint "$checkpoint")"
  if [[ $data_type =~ ^(shard|sequential)$ ]] && [ "$num_utts_per_shard" != 500 ]; then shards=" utterances=$num_utts_per_shard"; fi
  [ "$special_tokens" = refuse ] || special=" special_tokens=$special_tokens"
  [ "$test_sets" = test ] || sets=" test_sets=$test_sets"
  [ "$error_unit" = word ] || unit=" error_unit=$error_unit"
  [ -z "$targets" ] || formats=" targets=$targets utterances=$export_utterances"
  [ "$lm_words" = spaces ] || language=" words=$lm_words"
  [ "$unknown_word_penalty" = 0 ] || language+=" unknown=$unknown_word_penalty"
  [ -z "$lm_text$lm_arpa" ] || language+=" from=$(fingerprint "${lm_arpa:-$lm_text}")"
  case $1 in
    -1 | 0) corpus_settings "$1" ;;
    1) echo "$(stage_settings 0) frontend=$(frontend | cksum | tr ' ' '-')" ;;
    2) echo "$(stage_settings 0) units=$units vocab_size=$vocab_size$special" ;;
    3) echo "$(stage_settings 0) data_type=$data_type$shards$special$sets" ;;
    4) echo "$(stage_settings 0) config=$(fingerprint "$train_config") overrides=$overrides" \
      "cmvn=$(fingerprint data/train/global_cmvn) units=$units-$(fingerprint data/lang/units.txt)$special$start" ;;
    5) echo "average_num=$average_num decode_modes=$decode_modes chunkings=$chunkings" \
      "training=$(fingerprint "$dir/.stage4")$sets$unit" ;;
    6) echo "checkpoint=$(fingerprint "$averaged") times=$(fingerprint data/dev/words.ctm)$formats" ;;
    7) echo "model=$(fingerprint "$exported") results=$(fingerprint "$results/results.json") chunkings=$chunkings" ;;
    8) echo "model=$(fingerprint "$exported") text=$(fingerprint data/train/text) chunkings=$chunkings" \
      "lm_order=$lm_order lm_prune=$lm_prune lm_weights=$lm_weights word_bonuses=$word_bonuses$sets$language" ;;
  esac
}

# Run the stages from --stage to --stop_stage.
run_recipe() {
  local number
  local work=(features_stage vocabulary_stage lists_stage training_stage evaluation_stage export_stage
    streaming_stage language_model_stage)
  # shellcheck disable=SC2034  # read by stages.sh
  stage_names=("${corpus_stages[@]}" "mean and variance of the features" "vocabulary" "data lists" "training"
    "averaging and evaluation" "export" "streaming, pictures and summary" "language model")
  for number in -1 0 1 2 3 4 5 6 7 8; do
    stage_wanted "$number" || continue
    begin_stage "$number" || continue
    if [ "$number" -le 0 ]; then prepare_corpus "$number"; else "${work[number - 1]}"; fi
    end_stage "$number"
  done
  if [ -f "$exported" ]; then
    echo "
Text from a file of your own:
  ${VIRTUAL_ENV:+. $VIRTUAL_ENV/bin/activate; }wenet-fusion-runtime transcribe $PWD/$exported RECORDING"
  fi
  printf '\nstages took %d s; the environment took %d s\n' "$recipe_seconds" "$env_seconds"
}
