"""Rules for the sections of WeNet's configuration that describe the encoder and its chunks."""

from __future__ import annotations

from typing import Any

from wenet_fusion.migration.rules import Context, Finding, Rule, always, none, same, whole
from wenet_fusion.model.layers.activation import ACTIVATIONS

_CONFORMER = "conformer"
ONE_DROPOUT = "ours: one probability for the encoder and one for the decoders, applied after each branch"
_OTHER_ENCODER = "a setting of an encoder that we do not have"


def _encoder(value: Any, context: Context) -> Finding:
    fusion = context.options.encoder == "fusionformer"
    extra = (
        "as FusionFormer: BatchNorm after every linear layer, ReLU; without --encoder fusionformer the Conformer stays"
        if fusion
        else "--encoder fusionformer writes our own, which is faster at inference"
    )
    if value == _CONFORMER:
        return Finding("differs" if fusion else "same", (("model.encoder.layer", "conformer"),), extra)
    return Finding(
        "none",
        (("model.encoder.layer", "conformer"),),
        f"no {value} here; a Conformer of this width and depth; {extra}",
    )


def _unless_fusionformer(key: str, rule: Rule) -> Rule:
    """Return a rule that keeps our default, which is FusionFormer's, if the user wants a FusionFormer."""

    def chosen(value: Any, context: Context) -> Finding:
        if context.options.encoder == "fusionformer":
            return Finding("differs", (), f"{key} stays FusionFormer's")
        return rule(value, context)

    return chosen


def _activation(value: Any, context: Context) -> Finding:
    if value in ACTIVATIONS:
        settings = (("model.encoder.activation", value), ("model.encoder.conv_gate", "glu"))
        return Finding("same", settings, "WeNet's convolution branch has a GLU")
    return Finding("none", (("model.encoder.activation", "swish"),), f"ours: {', '.join(ACTIVATIONS)}")


def _norm(value: Any, context: Context) -> Finding:
    settings = (("model.encoder.norm", "layer"),)
    if value == "layer_norm":
        return Finding("same", settings)
    return Finding("differs", settings, "norm: layer puts a LayerNorm into the convolution branch, too")


def _positions(value: Any, context: Context) -> Finding:
    if value == "rel_pos":
        return Finding("same", (("model.encoder.positions", "rel_pos"),))
    return Finding(
        "none", (("model.encoder.positions", "rel_pos"),), "ours: relative positions, or a bias per distance"
    )


def _input_layer(value: Any, context: Context) -> Finding:
    width = whole(context.file.get("encoder_conf.output_size", 256))
    fusion = context.options.encoder == "fusionformer"
    settings = () if fusion else (("model.encoder.subsampling_channels", width),)
    if value == "conv2d":
        return Finding("differs", settings, "the same factor 4, but causal, with zeros before the first frame")
    return Finding("none", settings, "our subsampling is always by 4: frames of 40 ms")


def _kernel(value: Any, context: Context) -> Finding:
    settings = (("model.encoder.conv_kernel", whole(value)),)
    if context.file.get("encoder_conf.causal", False) is True:
        return Finding("same", settings)
    return Finding("differs", settings, "ours is causal: all frames of the kernel but one lie in the past")


def _causal(value: Any, context: Context) -> Finding:
    if value is True:
        return Finding("same", (), "always so here")
    return Finding("differs", (), "our convolutions are always causal, so that every model can be streamed")


def _dynamic_chunk(value: Any, context: Context) -> Finding:
    key = "training.chunking.full_context_probability"
    static = context.file.get("encoder_conf.static_chunk_size", 0)
    if value is True:
        sizes = (("training.chunking.sizes", [8, 16]), (key, 0.5))
        remark = (
            "WeNet draws 1 to 25 frames or, for half of the batches, the whole utterance; list the chunk sizes that "
            "you will serve"
        )
        return Finding("differs", sizes, remark)
    if isinstance(static, int) and static > 0:
        return Finding("same", ((key, 0.0),), "see static_chunk_size")
    return Finding("same", ((key, 1.0),), "offline only; lower it to about 0.3 for a model that streams as well")


def _static_chunk(value: Any, context: Context) -> Finding:
    if isinstance(value, int) and value > 0 and context.file.get("encoder_conf.use_dynamic_chunk") is not True:
        return Finding("same", (("training.chunking.sizes", [value]),))
    return Finding("same", (), "no static chunk")


def _left_chunks(value: Any, context: Context) -> Finding:
    if context.file.get("encoder_conf.use_dynamic_chunk", False) is not True:
        return Finding("same", (), "no chunks are trained")
    if value is True:
        frames = [16, 32, 64, 128]
        return Finding("differs", (("training.chunking.left_context_frames", frames),), "batches draw one of these")
    remark = "WeNet's chunks see all earlier frames; ours the last 64 (2.6 s), which bounds the cache of a stream"
    return Finding("differs", (("training.chunking.left_context_frames", [64]),), remark)


ENCODER = {
    "encoder": _encoder,
    "encoder_conf.output_size": same("model.encoder.dim", whole),
    "encoder_conf.attention_heads": same("model.encoder.heads", whole),
    "encoder_conf.linear_units": same("model.encoder.feed_forward", whole),
    "encoder_conf.num_blocks": same("model.encoder.layers", whole),
    "encoder_conf.dropout_rate": same("model.encoder.dropout"),
    "encoder_conf.positional_dropout_rate": none(ONE_DROPOUT),
    "encoder_conf.attention_dropout_rate": none(ONE_DROPOUT),
    "encoder_conf.feed_forward_dropout_rate": none(ONE_DROPOUT),
    "encoder_conf.input_dropout_rate": none(ONE_DROPOUT),
    "encoder_conf.input_layer": _input_layer,
    "encoder_conf.normalize_before": always(True, "our norms stand before the branches, or inside them (norm: fusion)"),
    "encoder_conf.cnn_module_kernel": _kernel,
    "encoder_conf.causal": _causal,
    "encoder_conf.use_cnn_module": always(True, "our layers always have a convolution branch"),
    "encoder_conf.macaron_style": always(True, "our layers always have two feed-forward branches"),
    "encoder_conf.activation_type": _unless_fusionformer("activation", _activation),
    "encoder_conf.cnn_module_norm": _unless_fusionformer("norm", _norm),
    "encoder_conf.cnn_norm_type": _unless_fusionformer("norm", _norm),
    "encoder_conf.pos_enc_layer_type": _unless_fusionformer("positions", _positions),
    "encoder_conf.selfattention_layer_type": always(
        ("rel_selfattn", "selfattn"), "our attention is multi-head attention with relative positions"
    ),
    "encoder_conf.attention_layer_type": always("rel_selfattn", "our attention has relative positions"),
    "encoder_conf.use_dynamic_chunk": _dynamic_chunk,
    "encoder_conf.static_chunk_size": _static_chunk,
    "encoder_conf.use_dynamic_left_chunk": _left_chunks,
    "encoder_conf.gradient_checkpointing": same("training.checkpoint_activations"),
    "encoder_conf.use_sdpa": none("not needed: our attention picks its kernel itself"),
    "encoder_conf.layer_norm_type": always("layer_norm", "norm: layer is a LayerNorm"),
    "encoder_conf.norm_eps": always((1e-5, "1e-5"), "ours is 1e-5"),
    "encoder_conf.key_bias": none("our projections have a bias, unless a BatchNorm follows"),
    "encoder_conf.query_bias": none("our projections have a bias, unless a BatchNorm follows"),
    "encoder_conf.value_bias": none("our projections have a bias, unless a BatchNorm follows"),
    **{
        f"encoder_conf.{name}": none(_OTHER_ENCODER)
        for name in (  # Squeezeformer, Branchformer, Efficient Conformer, ChunkFormer, SANM, layers of experts
            "reduce_idx recover_idx time_reduction_layer_type feed_forward_expansion_factor do_rel_shift "
            "adaptive_scale cgmlp_linear_units cgmlp_conv_kernel use_linear_after_conv gate_activation "
            "merge_conv_kernel merge_method cgmlp_weight attn_branch_drop_rate stochastic_depth_rate use_attn "
            "use_cgmlp efficient_conf dynamic_conv dynamic_chunk_sizes dynamic_left_context_sizes "
            "dynamic_right_context_sizes kernel_size sanm_shfit mlp_type mlp_bias n_expert n_expert_activated "
            "n_kv_head head_dim conv_bias conv_norm_eps conv_inner_factor final_norm"
        ).split()
    },
}

# WeNet's values for settings that a file omits.
ENCODER_DEFAULTS: dict[str, Any] = {
    "encoder_conf.input_layer": "conv2d",
    "encoder_conf.num_blocks": 6,
    "encoder_conf.dropout_rate": 0.1,
    "encoder_conf.cnn_module_kernel": 15,
    "encoder_conf.causal": False,
    "encoder_conf.activation_type": "swish",
    "encoder_conf.cnn_module_norm": "batch_norm",
    "encoder_conf.pos_enc_layer_type": "rel_pos",
    "encoder_conf.use_dynamic_chunk": False,
    "encoder_conf.use_dynamic_left_chunk": False,
}
