"""Writes one ONNX graph that sherpa-onnx streams as a WeNet CTC model, verified. Knows not the package sherpa_onnx."""

import tempfile
from pathlib import Path

from wenet_fusion.chunking import FULL_CONTEXT, Chunking
from wenet_fusion.export.onnx_graph import quantise_dynamic
from wenet_fusion.export.wenet_drive import compare_sherpa
from wenet_fusion.export.wenet_graphs import EncoderWithCtc, MaskedEncoder, describe, wenet_model, write_encoder
from wenet_fusion.export.wenet_onnx import (
    ForeignExport, Precision, check_front_end, check_precision, chunking_remarks, mel_remarks, unit_table,
)
from wenet_fusion.files import replacing, write_text
from wenet_fusion.recipe import TrainedModel

INPUTS = ("x", "offset", "required_cache_size", "attn_cache", "conv_cache", "attn_mask")
OUTPUTS = ("log_probs", "next_att_cache", "next_conv_cache")
TOKENS = "tokens.txt"
HIGH_FREQ = -400.0  # Hz from the Nyquist frequency: where sherpa-onnx ends its mel filters unless told otherwise


def export_sherpa_onnx(
    trained: TrainedModel, path: Path, chunking: Chunking, precision: Precision = "float32"
) -> ForeignExport:
    """Exports a trained model, without its attention decoders, for sherpa-onnx's streaming recogniser.

    The graph is driven as sherpa-onnx drives it and compared with the model in memory before it takes its place.

    Args:
        trained: the checkpoint.
        path: of the graph; tokens.txt is written beside it.
        chunking: sherpa-onnx must be told it. The graph itself serves other sizes too.
        precision: "int8" gives other scores than the checkpoint; error rates must judge it.

    Raises:
        ImportError: onnx or onnxruntime is not installed.
        ValueError: sherpa-onnx cannot run such a model, or the graph does not reproduce it; nothing is kept then.
    """
    check_precision(precision, path)
    check_front_end(trained, path)
    if chunking.left < 1 or chunking.size >= FULL_CONTEXT.size:
        raise ValueError(
            f"{path} is not written: sherpa-onnx needs a chunk size and a left context of at least 1 chunk, "
            f"such as {trained.config.training.chunking.served()[-1].size}/4, not {chunking.size}/{chunking.left}"
        )
    model = wenet_model(trained)
    metadata = describe(model, trained, chunking)
    metadata |= {"model_type": "wenet_ctc", "version": "1", "model_author": "wenet_fusion", "comment": "streaming"}
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as part, tempfile.TemporaryDirectory() as folder:
        exact = part if precision == "float32" else Path(folder) / "float32.onnx"
        write_encoder(EncoderWithCtc(MaskedEncoder(model)), INPUTS, OUTPUTS, (1,), exact, metadata)
        checked = compare_sherpa(trained, chunking, exact, "float32")
        checked.raise_if_different(path)
        if precision == "int8":
            quantise_dynamic(exact, part)
            checked = compare_sherpa(trained, chunking, part, precision)
            checked.raise_if_different(path)
    tokens = path.with_name(TOKENS)
    write_text(tokens, unit_table(trained.tokenizer))
    remedy = "; the program sherpa-onnx takes the flags above, the Python package's from_wenet_ctc has no such argument"
    remarks = mel_remarks(trained, "sherpa-onnx by default", HIGH_FREQ, remedy) + chunking_remarks(trained, chunking)
    command = sherpa_command(trained, path, tokens, chunking)
    return ForeignExport((path, tokens), metadata, checked, command, tuple(remarks))


def sherpa_command(trained: TrainedModel, path: Path, tokens: Path, chunking: Chunking) -> str:
    """How to start sherpa-onnx: it takes neither the chunking nor the front-end from the file."""
    frontend = trained.config.model.frontend
    return (
        f"sherpa-onnx --wenet-ctc-model={path} --tokens={tokens} "
        f"--wenet-ctc-chunk-size={chunking.size} --wenet-ctc-num-left-chunks={chunking.left} "
        f"--sample-rate={frontend.sample_rate} --feat-dim={frontend.num_mel_bins} "
        f"--low-freq={frontend.low_freq:g} --high-freq={frontend.high_freq:g} AUDIO.wav"
    )
