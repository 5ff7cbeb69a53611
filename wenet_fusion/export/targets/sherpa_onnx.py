"""Writes one ONNX graph that sherpa-onnx streams as a WeNet CTC model, verified. Knows not the package sherpa_onnx."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

from wenet_fusion_runtime.files import replacing, write_text
from wenet_fusion_runtime.search.modes import GREEDY
from wenet_fusion_runtime.stream.decoding_options import DecodingOptions

from wenet_fusion.export.acceptance import Accepted, ExportOptions, accept, refuse_operators
from wenet_fusion.export.emulator import pair
from wenet_fusion.export.speech import Speech
from wenet_fusion.export.targets.onnx_graph import NORMS_AND_COSTLY_ACTIVATIONS, operators, quantise_dynamic
from wenet_fusion.export.targets.wenet_graphs import EncoderWithCtc, MaskedEncoder, describe, wenet_model, write_encoder
from wenet_fusion.export.targets.wenet_onnx import (
    ForeignExport,
    check_front_end,
    check_precision,
    chunking_remarks,
    mel_remarks,
    unit_table,
)
from wenet_fusion.model.chunking import FULL_CONTEXT, Chunking, chunking_label
from wenet_fusion.trained_model import TrainedModel

INPUTS = ("x", "offset", "required_cache_size", "attn_cache", "conv_cache", "attn_mask")
OUTPUTS = ("log_probs", "next_att_cache", "next_conv_cache")
TOKENS = "tokens.txt"
HIGH_FREQ = -400.0  # Hz from the Nyquist frequency: where sherpa-onnx ends its mel filters unless told otherwise


def export_sherpa_onnx(
    trained: TrainedModel,
    path: Path,
    chunking: Chunking,
    speech: Sequence[Speech] = (),
    options: ExportOptions = ExportOptions(),
) -> ForeignExport:
    """Exports a trained model, without its attention decoders, for sherpa-onnx's streaming recogniser.

    The graph is driven as sherpa-onnx drives it and compared with the model in memory on generated audio and on
    `speech` before it takes its place.

    Args:
        trained: the checkpoint.
        path: of the graph; tokens.txt is written beside it.
        chunking: sherpa-onnx must be told it. The graph itself serves other sizes too.
        speech: utterances to verify on beside the generated audio, and to judge int8 by.
        options: "int8-dynamic" gives other scores than the checkpoint. Its error rate is that of greedy search, which
            is sherpa-onnx's, over the features that the model computes.

    Raises:
        ImportError: onnx or onnxruntime is not installed.
        ValueError: sherpa-onnx cannot run such a model, the graph does not reproduce it, or int8 costs too much;
            nothing is kept then.
    """
    check_precision(options.precision, path)
    check_front_end(trained, path)
    if chunking.left < 1 or chunking.size >= FULL_CONTEXT.size:
        raise ValueError(
            f"{path} is not written: sherpa-onnx needs a chunk size and a left context of at least 1 chunk, "
            f"such as {trained.config.training.chunking.served()[-1].size}/4, not {chunking_label(chunking)}"
        )
    model = wenet_model(trained)
    metadata = describe(model, trained, chunking)
    metadata |= {"model_type": "wenet_ctc", "version": "1", "model_author": "wenet_fusion", "comment": "streaming"}
    tokens = path.with_name(TOKENS)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as part, tempfile.TemporaryDirectory() as folder:
        exact = part if options.precision == "float32" else Path(folder) / "float32.onnx"
        write_encoder(EncoderWithCtc(MaskedEncoder(model)), INPUTS, OUTPUTS, (1,), exact, metadata)
        refuse_operators(operators(exact), NORMS_AND_COSTLY_ACTIVATIONS, trained, path)
        accepted = _accept(trained, path, chunking, exact, speech, ExportOptions())
        if exact != part:
            quantise_dynamic(exact, part)
            accepted = _accept(trained, path, chunking, part, speech, options)
        write_text(tokens, unit_table(trained.tokenizer))  # before the model: it is of no use without
    remedy = (
        "; the program sherpa-onnx takes the flags below, the Python package's from_wenet_ctc has no such argument, or "
        f"train with model.frontend.high_freq: {HIGH_FREQ:g}"
    )
    remarks = mel_remarks(trained, "sherpa-onnx by default", HIGH_FREQ, remedy) + chunking_remarks(trained, chunking)
    command = sherpa_command(trained, path, tokens, chunking)
    return ForeignExport((path, tokens), metadata, accepted, command, tuple(remarks))


def _accept(
    trained: TrainedModel, path: Path, chunking: Chunking, graph: Path, speech: Sequence[Speech], options: ExportOptions
) -> Accepted:
    compared = pair(trained, chunking, [graph], speech)
    return accept(path, *compared, speech, options, DecodingOptions(mode=GREEDY), batches=False)


def sherpa_command(trained: TrainedModel, path: Path, tokens: Path, chunking: Chunking) -> str:
    """How to start sherpa-onnx: it takes neither the chunking nor the front-end from the file."""
    frontend = trained.config.model.frontend
    return (
        f"sherpa-onnx --wenet-ctc-model={path} --tokens={tokens} "
        f"--wenet-ctc-chunk-size={chunking.size} --wenet-ctc-num-left-chunks={chunking.left} "
        f"--sample-rate={frontend.sample_rate} --feat-dim={frontend.num_mel_bins} "
        f"--low-freq={frontend.low_freq:g} --high-freq={frontend.high_freq:g} AUDIO.wav"
    )
