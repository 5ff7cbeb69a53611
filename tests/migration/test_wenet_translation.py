"""WeNet's training YAML becomes a configuration of ours: every key of its recipes is explained, the result trains."""

from pathlib import Path

import pytest
import yaml
from support.model.tones import RATE, ToneRun
from support.recipes.recipe_clone import ROOT
from support.recipes.scripts import run

from wenet_fusion.config import ConfigError
from wenet_fusion.migration.rules import MigrationOptions
from wenet_fusion.migration.translation import DEFAULTS, RULES, Translation, table_of, translate
from wenet_fusion.migration.wenet_file import read_wenet
from wenet_fusion.recipe import read_recipe

# The keys of WeNet's recipes, as they stand in its repository.
U2PP = """
encoder: conformer
encoder_conf:
  {output_size: 256, attention_heads: 4, linear_units: 2048, num_blocks: 12, dropout_rate: 0.15,
   positional_dropout_rate: 0.1, attention_dropout_rate: 0.1, input_layer: conv2d, normalize_before: true,
   cnn_module_kernel: 8, use_cnn_module: True, activation_type: swish, pos_enc_layer_type: rel_pos,
   selfattention_layer_type: rel_selfattn, causal: true, use_dynamic_chunk: true, cnn_module_norm: layer_norm,
   use_dynamic_left_chunk: false}
decoder: bitransformer
decoder_conf:
  {attention_heads: 8, linear_units: 1024, num_blocks: 3, r_num_blocks: 2, dropout_rate: 0.2,
   positional_dropout_rate: 0.1, self_attention_dropout_rate: 0.1, src_attention_dropout_rate: 0.1}
model_conf: {ctc_weight: 0.4, lsm_weight: 0.05, length_normalized_loss: false, reverse_weight: 0.2}
dataset_conf:
  filter_conf: {max_length: 40960, min_length: 0, token_max_length: 200, token_min_length: 1}
  resample_conf: {resample_rate: 8000}
  speed_perturb: true
  fbank_conf: {num_mel_bins: 40, frame_shift: 10, frame_length: 20, dither: 1.0}
  spec_aug: true
  spec_aug_conf: {num_t_mask: 3, num_f_mask: 1, max_t: 40, max_f: 7}
  spec_sub: true
  spec_sub_conf: {num_t_sub: 3, max_t: 30}
  spec_trim: false
  spec_trim_conf: {max_t: 50}
  shuffle: true
  shuffle_conf: {shuffle_size: 1500}
  sort: true
  sort_conf: {sort_size: 500}
  batch_conf: {batch_type: static, batch_size: 16}
grad_clip: 5
accum_grad: 2
max_epoch: 360
log_interval: 100
optim: adam
optim_conf: {lr: 8.e-4}
scheduler: warmuplr
scheduler_conf: {warmup_steps: 25000}
"""
V3 = """
tokenizer: bpe
tokenizer_conf:
  symbol_table_path: data/units.txt
  split_with_space: false
  bpe_path: data/bpe.model
  non_lang_syms_path: null
  is_multilingual: false
  num_languages: 1
  special_tokens: {<blank>: 0, <unk>: 1, <sos>: 2, <eos>: 2}
ctc: ctc
ctc_conf: {ctc_blank_id: 0}
cmvn: global_cmvn
cmvn_conf: {cmvn_file: data/train/global_cmvn, is_json_cmvn: true}
model: asr_model
dataset: asr
"""
# Changes to U2PP + V3, per recipe.
RECIPES = yaml.safe_load((ROOT / "tests/support/recipes/wenet_recipes.yaml").read_text(encoding="utf-8"))


def merged(text: str, changes: dict) -> str:
    """Return YAML with other values; `warmup_steps: null` takes it out."""
    tree = yaml.safe_load(text)

    def change(place: dict, given: dict) -> None:
        for key, value in given.items():
            if isinstance(value, dict) and isinstance(place.get(key), dict) and key != "special_tokens":
                change(place[key], value)
            elif value is None and key == "warmup_steps":
                place.pop(key, None)
            else:
                place[key] = value

    change(tree, changes)
    return yaml.safe_dump(tree, sort_keys=False)


def translated(tmp_path: Path, text: str, *overrides: str, **options: object) -> Translation:
    path = tmp_path / "train.yaml"
    path.write_text(text)
    file = read_wenet(path)
    assert file is not None
    return translate(file, MigrationOptions(**options), overrides)


def test_values_arrive_under_our_keys(tmp_path: Path) -> None:
    recipe = translated(tmp_path, U2PP + V3, utterances=1000, num_gpus=2).recipe
    encoder, decoder, training = recipe.model.encoder, recipe.model.decoder, recipe.training
    assert (encoder.dim, encoder.heads, encoder.feed_forward, encoder.layers, encoder.dropout) == (
        256,
        4,
        2048,
        12,
        0.15,
    )
    assert (encoder.conv_kernel, encoder.subsampling_channels) == (8, 256)
    assert (encoder.norm, encoder.activation, encoder.conv_gate, encoder.positions) == (
        "layer",
        "swish",
        "glu",
        "rel_pos",
    )
    assert (decoder.layers, decoder.reverse_layers, decoder.heads, decoder.feed_forward, decoder.dropout) == (
        3,
        2,
        8,
        1024,
        0.2,
    )
    loss = recipe.model.loss
    assert (loss.ctc_weight, loss.label_smoothing, loss.reverse_weight) == (0.4, 0.05, 0.2)
    frontend = recipe.model.frontend
    assert (frontend.sample_rate, frontend.num_mel_bins, frontend.hop_ms, frontend.window_ms) == (8000, 40, 10, 20)
    masks = recipe.data.spec_augment
    assert (masks.num_time_masks, masks.num_freq_masks, masks.max_time_frames, masks.max_freq_bins) == (3, 1, 40, 7)
    assert (masks.substitution.num_spans, masks.substitution.max_frames, masks.trim.max_frames) == (3, 30, 0)
    assert recipe.data.augmentation.speed_factors == (0.9, 1.0, 1.1)
    filters = recipe.data.filters
    assert (filters.longest_seconds, filters.shortest_seconds, filters.longest_tokens) == (409.6, 0, 200)
    assert recipe.data.augmentation.dither == 1.0 and recipe.data.sequential.shuffle_buffer == 1500
    assert recipe.data.cmvn == "data/train/global_cmvn"
    tokenizer = recipe.tokenizer
    assert (tokenizer.kind, tokenizer.units, tokenizer.bpe_model) == ("bpe", "data/units.txt", "data/bpe.model")
    optim = training.optim
    assert (optim.learning_rate, optim.warmup_steps, optim.decay, optim.clip_norm) == (8e-4, 25000, "inverse_sqrt", 5)
    assert (optim.beta_1, optim.beta_2, optim.weight_decay) == (0.9, 0.999, 0.0), "the defaults of WeNet's Adam"
    assert (training.accumulate, training.max_batch_rows) == (2, 16)
    assert training.max_steps == 360 * 16, "360 epochs of 1000 utterances in batches of 16 * 2 GPUs * 2"
    assert training.chunking.full_context_probability == 0.5


@pytest.mark.parametrize("name", RECIPES)
def test_every_key_of_wenets_recipes_has_a_finding(name: str, tmp_path: Path) -> None:
    translation = translated(tmp_path, merged(U2PP + V3, RECIPES[name]))
    assert [row.setting.written for row in translation.rows if row.finding.outcome == "unknown"] == []
    for row in translation.rows:
        if row.finding.outcome in ("differs", "none"):
            assert row.finding.remark, f"{row.setting.written}: says what differs, or why there is none"
    ours = tmp_path / "ours.yaml"
    ours.write_text(translation.yaml("train.yaml"))
    assert read_recipe(ours, []) == translation.recipe


def finding(translation: Translation, written: str):
    (row,) = [row for row in translation.rows if row.setting.written == written]
    return row.finding


def test_translations_that_depend_on_several_keys(tmp_path: Path) -> None:
    def of(name: str, **options: object) -> Translation:
        return translated(tmp_path, merged(U2PP + V3, RECIPES[name]), **options)

    offline = of("aishell conformer, offline").recipe
    assert offline.training.chunking.full_context_probability == 1.0
    assert (offline.model.decoder.reverse_layers, offline.model.loss.reverse_weight) == (0, 0.0)
    large = of("wenetspeech u2++ conformer", hours=10_000, num_gpus=8)
    assert large.recipe.training.max_batch_seconds == 360.0
    assert large.recipe.training.max_steps == 360 * 6250, "36,000,000 s in 360 s * 8 GPUs * 2"
    assert large.recipe.training.validate_interval_steps == large.recipe.training.save_interval_steps == 1000
    assert large.recipe.data.filters.most_characters_per_second == 50, "the characters of pieces are unknown"
    assert large.recipe.training.checkpoint_activations
    chars = merged(U2PP + V3, RECIPES["wenetspeech u2++ conformer"] | {"tokenizer": "char"})
    assert translated(tmp_path, chars).recipe.data.filters.most_characters_per_second == 25
    assert large.recipe.data.spec_augment.trim.max_frames == 50
    squeezed = of("librispeech u2++ squeezeformer")
    assert finding(squeezed, "encoder").outcome == finding(squeezed, "encoder_conf.reduce_idx").outcome == "none"
    assert squeezed.recipe.training.optim.warmup_steps == 200 and squeezed.recipe.training.optim.weight_decay == 4e-5
    optim = squeezed.recipe.training.optim
    assert (optim.decay, optim.decay_steps, squeezed.recipe.training.max_steps) == ("wsd", 500, 1000)
    assert of("aishell u2++ rnnt").recipe.model.loss.ctc_weight == 0.4, "0.4 of 0.4 + 0.6"
    assert of("written by train.py").recipe.training.precision == "bfloat16"
    assert of("written by train.py").recipe.data.cmvn == "data/cmvn"
    early = of("aishell2, first version").recipe
    assert early.model.frontend.num_mel_bins == 80 and early.training.max_batch_rows == 32
    no_masks = translated(tmp_path, merged(U2PP + V3, {"dataset_conf": {"spec_aug": False}})).recipe
    assert no_masks.data.spec_augment.num_time_masks == no_masks.data.spec_augment.num_freq_masks == 0


def test_the_fusionformer_of_the_same_size(tmp_path: Path) -> None:
    recipe = translated(tmp_path, U2PP + V3, encoder="fusionformer").recipe
    assert recipe.model.encoder.fusible and recipe.model.encoder.dim == 256
    assert not translated(tmp_path, U2PP + V3).recipe.model.encoder.fusible


def test_keys_that_are_left_out_have_wenets_defaults(tmp_path: Path) -> None:
    recipe = translated(tmp_path, "encoder: conformer\nmodel_conf: {ctc_weight: 0.3}\n").recipe
    assert (recipe.model.encoder.layers, recipe.model.encoder.conv_kernel) == (6, 15)
    assert recipe.data.filters.longest_seconds == 102.4
    assert recipe.training.optim.clip_norm == 50 and recipe.data.augmentation.speed_factors == (1.0,)
    assert recipe.training.chunking.full_context_probability == 1.0, "WeNet trains offline models by default"
    assert set(DEFAULTS) <= set(RULES)


def test_unknown_keys_are_named_with_their_line(tmp_path: Path) -> None:
    text = "encoder: conformer\nencoder_conf:\n  output_sise: 256\ngrad_clip: 5\nvery_new: {a: 1}\n"
    translation = translated(tmp_path, text)
    unknown = [row for row in translation.rows if row.finding.outcome == "unknown"]
    assert [(row.setting.where, row.setting.written) for row in unknown] == [
        (f"{tmp_path}/train.yaml:3", "encoder_conf.output_sise"),
        (f"{tmp_path}/train.yaml:5", "very_new.a"),
    ]
    assert unknown[0].finding.remark == "did you mean encoder_conf.output_size?"
    (line,) = [line for line in table_of(translation.rows).splitlines() if "output_sise" in line]
    assert line.startswith("3 ") and "unknown" in line
    assert translation.summary() == "4 settings: 2 same, 0 differs, 0 no counterpart, 2 unknown"


@pytest.mark.parametrize(
    "text, message",
    [
        ("encoder_conf: {output_size: wide}", ":1: encoder_conf.output_size: model.encoder.dim: expected a whole"),
        ("encoder_conf: {}\ngrad_clip: -1", ":2: grad_clip: training.optim.clip_norm: -1.0 must be above 0"),
        ("encoder_conf: {}\nmax_epoch: many\n", ":2: max_epoch: expected a number, found 'many'"),
        ("optim: adam\noptim_conf: {betas: 0.9}", ":2: optim_conf.betas: expected two numbers, found 0.9"),
        ("optim: adam\noptim: adamw", ":2: optim: given twice, first in line 1"),
        ("encoder_conf: {", ":1: not valid YAML"),
    ],
)  # fmt: skip
def test_broken_files_end_with_the_line(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        translated(tmp_path, text, utterances=100)
    assert any(message in problem for problem in caught.value.problems), caught.value.problems


def test_the_command_translates_and_the_result_trains(tone_run: ToneRun, tmp_path: Path, capsys) -> None:
    changes = {
        "encoder_conf": {"output_size": 16, "linear_units": 16, "num_blocks": 1, "attention_heads": 2},
        "decoder_conf": {"linear_units": 16, "num_blocks": 1, "r_num_blocks": 1, "attention_heads": 2},
        "tokenizer": "char",
        "tokenizer_conf": {"symbol_table_path": tone_run.recipe.tokenizer.units, "split_with_space": True},
        "cmvn": None,
        "cmvn_conf": {"cmvn_file": None},
        "dataset_conf": {"resample_conf": {"resample_rate": RATE}},
    }
    wenet, ours = tmp_path / "wenet.yaml", tmp_path / "ours.yaml"
    wenet.write_text(merged(U2PP + V3, changes))
    assert run("check", "config", wenet, "--output", ours, "training.max_steps=2", "training.num_workers=0") == 0
    out = capsys.readouterr().out
    assert "model.encoder.dim: 16" in out and " 0 unknown" in out and f"{ours}: our configuration" in out
    assert ours.read_text().startswith(f"# Translated from {wenet} by wenet-fusion check config.\n")
    assert run("check", "config", ours) == 0
    assert capsys.readouterr().out == f"{ours}: a valid configuration of wenet-fusion; nothing to translate\n"
    lists = ("--train_data", tone_run.train_list, "--cv_data", tone_run.dev_list)
    assert run("train", "--config", ours, *lists, "--model_dir", tmp_path / "exp", "--device", "cpu") == 0
    assert "trained to step 2" in capsys.readouterr().out


def test_files_that_the_command_refuses(tmp_path: Path) -> None:
    wenet = tmp_path / "wenet.yaml"
    wenet.write_text(U2PP)
    with pytest.raises(ValueError, match="is the file to translate: give another name"):
        run("check", "config", wenet, "--output", wenet)
    assert wenet.read_text() == U2PP
    wrong = tmp_path / "ours.yaml"
    wrong.write_text("tokenizer: {units: u.txt}\ntraining: {max_stepps: 3}\n")
    with pytest.raises(ConfigError, match=r"ours.yaml:2: training.max_stepps: unknown key; did you mean max_steps\?"):
        run("check", "config", wrong)
    with pytest.raises(OSError, match="absent.yaml"):
        run("check", "config", tmp_path / "absent.yaml")
