"""Rules for the sections of WeNet's configuration that describe decoders, losses and the vocabulary."""

from __future__ import annotations

from typing import Any

from wenet_fusion.migration.encoder_rules import ONE_DROPOUT
from wenet_fusion.migration.rules import Context, Finding, always, none, number, same, whole

DEFAULT_UNITS = "data/dict/lang_char.txt"  # in WeNet's recipes before there was a section tokenizer_conf

_OTHER_DECODER = "our decoders are Transformers with LayerNorm and ReLU"


def _decoder(value: Any, context: Context) -> Finding:
    if value == "bitransformer":
        return Finding("same")
    one_way = (("model.decoder.reverse_layers", 0), ("model.rescoring.reverse_weight", 0.0))
    if value == "transformer":
        return Finding("same", one_way, "left-to-right only")
    return Finding("none", one_way, f"no {value} here; a Transformer decoder of this depth")


def _reverse_layers(value: Any, context: Context) -> Finding:
    if context.file.get("decoder") != "bitransformer":
        return Finding("same", (), "left-to-right only")
    return Finding("same", (("model.decoder.reverse_layers", whole(value)),))


def _reverse_weight(value: Any, context: Context) -> Finding:
    two_way = context.file.get("decoder") == "bitransformer" and context.file.get("decoder_conf.r_num_blocks", 0)
    return Finding("same", (("model.loss.reverse_weight", value if two_way else 0.0),))


DECODER = {
    "decoder": _decoder,
    "decoder_conf.num_blocks": same("model.decoder.layers", whole),
    "decoder_conf.r_num_blocks": _reverse_layers,
    "decoder_conf.attention_heads": same("model.decoder.heads", whole),
    "decoder_conf.linear_units": same("model.decoder.feed_forward", whole),
    "decoder_conf.dropout_rate": same("model.decoder.dropout"),
    "decoder_conf.positional_dropout_rate": none(ONE_DROPOUT),
    "decoder_conf.self_attention_dropout_rate": none(ONE_DROPOUT),
    "decoder_conf.src_attention_dropout_rate": none(ONE_DROPOUT),
    "decoder_conf.normalize_before": always(True, "our decoder's norms stand before the blocks"),
    "decoder_conf.input_layer": always("embed", _OTHER_DECODER),
    "decoder_conf.use_output_layer": always(True, "our decoders always have one"),
    "decoder_conf.src_attention": always(True, "our decoders always attend to the encoder"),
    "decoder_conf.activation_type": always("relu", _OTHER_DECODER),
    "decoder_conf.gradient_checkpointing": none("not needed: the encoder takes most of the memory"),
    "decoder_conf.tie_word_embedding": always(False, "embedding and output layer of our decoders are two matrices"),
    "decoder_conf.use_sdpa": none("not needed"),
    **{
        f"decoder_conf.{name}": none(_OTHER_DECODER)
        for name in (
            "key_bias query_bias value_bias src_key_bias src_query_bias src_value_bias mlp_type mlp_bias "
            "layer_norm_type norm_eps n_kv_head head_dim att_layer_num kernel_size sanm_shfit"
        ).split()
    },
}


def _tokenizer(value: Any, context: Context) -> Finding:
    if value in ("char", "bpe"):
        return Finding("same", (("tokenizer.kind", value),))
    return Finding("none", (("tokenizer.kind", "char"),), f"no {value} tokenizer here: char (also words) or bpe")


def _units(value: Any, context: Context) -> Finding:
    if isinstance(value, str) and value != DEFAULT_UNITS:
        return Finding("same", (("tokenizer.units", value),))
    if value == DEFAULT_UNITS and context.file.get("tokenizer") is not None:
        return Finding("same", (("tokenizer.units", value),))
    remark = "the file does not name it (train.py --symbol_table): give tokenizer.units=FILE after the path"
    return Finding("differs", (("tokenizer.units", DEFAULT_UNITS),), remark)


def _split_with_space(value: Any, context: Context) -> Finding:
    if context.file.get("tokenizer") == "bpe":
        return Finding("same", (), "belongs to kind: char")
    return Finding("same", (("tokenizer.split_with_space", value),))


def _bpe_path(value: Any, context: Context) -> Finding:
    if context.file.get("tokenizer") != "bpe":
        return Finding("same", (), "belongs to kind: bpe")
    return Finding("same", (("tokenizer.bpe_model", value),))


def _marks(value: Any, context: Context) -> Finding:
    if value in (None, ""):
        return Finding("same", (), "no marks")
    remark = "marks are recognised by their brackets (<..>, [..], {..}); marks in the vocabulary are tokens"
    return Finding("differs", (("tokenizer.special_tokens", "keep"),), remark)


def _special_tokens(value: Any, context: Context) -> Finding:
    expected = {"<blank>": 0, "<unk>": 1, "<sos>": 2, "<eos>": 2}
    if value == expected or value == {**expected, "<sos/eos>": 2}:
        return Finding("same", (), "the first three lines of units.txt")
    remark = "ours are 0, 1 and 2 (<sos/eos>): write units.txt again with tools/data/make_vocabulary.py"
    return Finding("differs", (), remark)


def _ctc_weight(value: Any, context: Context) -> Finding:
    attention = context.file.get("model_conf.attention_weight")
    if attention is None:
        return Finding("same", (("model.loss.ctc_weight", value),))
    share = number(value) / max(number(value) + number(attention), 1e-9)
    remark = "the transducer's weight is divided between CTC and attention in their ratio"
    return Finding("differs", (("model.loss.ctc_weight", round(share, 4)),), remark)


MODEL = {
    "model": lambda value, context: (
        Finding("same", (), "CTC and attention decoders")
        if value in ("asr_model", "asrmodel")
        else Finding("none", (), f"no {value} here; a model with CTC and attention decoders is trained")
    ),
    "model_conf.ctc_weight": _ctc_weight,
    "model_conf.lsm_weight": same("model.loss.label_smoothing"),
    "model_conf.reverse_weight": _reverse_weight,
    "model_conf.length_normalized_loss": always(False, "our losses are per utterance"),
    "model_conf.apply_non_blank_embedding": always(False, "the decoders attend to all frames"),
    "model_conf.ignore_id": none("not needed: padding is masked by lengths"),
    "ctc": always("ctc", "our CTC head is a linear layer"),
    "ctc_conf.ctc_blank_id": always(0, "ours is 0: write units.txt again with tools/data/make_vocabulary.py"),
    "cmvn": lambda value, context: (
        Finding("same", (), "see cmvn_file")
        if value in ("global_cmvn", None)
        else Finding("none", (), "ours: global mean and variance, or none")
    ),
    "cmvn_conf.cmvn_file": same("data.cmvn", lambda value: value or ""),
    "cmvn_conf.is_json_cmvn": always(
        (True, None), "we read the JSON form only: write it with tools/data/compute_cmvn_stats.py"
    ),
    "tokenizer": _tokenizer,
    "tokenizer_conf.symbol_table_path": _units,
    "tokenizer_conf.split_with_space": _split_with_space,
    "tokenizer_conf.bpe_path": _bpe_path,
    "tokenizer_conf.non_lang_syms_path": _marks,
    "tokenizer_conf.is_multilingual": always(False, "one vocabulary for all languages"),
    "tokenizer_conf.num_languages": always(1, "one vocabulary for all languages"),
    "tokenizer_conf.special_tokens": _special_tokens,
    "tokenizer_conf.seg_dict_path": none("a file of Paraformer's tokenizer"),
    **{
        f"model_conf.{name}": none(reason)
        for names, reason in (
            (
                "transducer_weight attention_weight simple_loss_scale warmup_steps lm_only_scale am_only_scale",
                "no RNN-T here",
            ),
            ("sampling_ratio add_eos", "no Paraformer here"),
            ("ctl_weight logit_temp n_negatives", "no contrastive loss here"),
        )
        for name in names.split()
    },
}

# Whole sections without a counterpart.
SECTIONS_WITHOUT = {
    "predictor": "a predictor of RNN-T or Paraformer",
    "predictor_conf": "a predictor of RNN-T or Paraformer",
    "joint": "a joint network of RNN-T",
    "joint_conf": "a joint network of RNN-T",
    "lfmmi_dir": "no LF-MMI here",
    "ipu_conf": "no IPU here",
    "lora_conf": "no LoRA here",
    "use_lora": "no LoRA here",
}

# WeNet's values for settings that a file omits.
MODEL_DEFAULTS: dict[str, Any] = {
    "decoder": "bitransformer",
    "decoder_conf.num_blocks": 6,
    "decoder_conf.r_num_blocks": 0,
    "model_conf.ctc_weight": 0.5,
    "model_conf.lsm_weight": 0.0,
    "model_conf.reverse_weight": 0.0,
    "tokenizer_conf.symbol_table_path": DEFAULT_UNITS,
}
