"""Writes encoder.onnx, ctc.onnx and decoder.onnx for WeNet's onnxruntime runtime, verified. Knows no TorchScript."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from wenet_fusion_runtime.files import replacing_set, write_text
from wenet_fusion_runtime.results.vocabulary import RESERVED, WORD_START

from wenet_fusion.export.acceptance import Accepted, ExportOptions, accept, refuse_operators
from wenet_fusion.export.emulator import pair
from wenet_fusion.export.speech import Speech
from wenet_fusion.export.targets.onnx_graph import NORMS_AND_COSTLY_ACTIVATIONS, operators, quantise_dynamic
from wenet_fusion.export.targets.wenet_graphs import (
    GrowingEncoder,
    MaskedEncoder,
    describe,
    wenet_model,
    write_ctc,
    write_decoder,
    write_encoder,
)
from wenet_fusion.model.chunking import FULL_CONTEXT, Chunking, chunking_label
from wenet_fusion.model.wenet import WenetModel
from wenet_fusion.text.tokenizer import Tokenizer
from wenet_fusion.text.vocabulary_file import format_vocabulary
from wenet_fusion.trained_model import TrainedModel

Precision = Literal["float32", "int8-dynamic"]
GRAPHS = ("encoder", "ctc", "decoder")
INPUTS = ("chunk", "offset", "required_cache_size", "att_cache", "cnn_cache", "att_mask")
OUTPUTS = ("output", "r_att_cache", "r_cnn_cache")
UNITS = "units.txt"
LOW_FREQ = 20.0  # Hz; both runtimes begin their mel filters here
SMALLEST_CHUNK = 2  # encoder frames; WeNet's runtime passes over windows of 4 feature frames and less


@dataclass(frozen=True)
class ForeignExport:
    """What was written for another project's runtime."""

    files: tuple[Path, ...]
    metadata: dict[str, str]  # of the encoder's graph
    accepted: Accepted  # of the precision that was asked for
    command: str  # runs the files
    remarks: tuple[str, ...]  # where that runtime departs from what the model was trained with


def export_wenet_onnx(
    trained: TrainedModel,
    directory: Path,
    chunking: Chunking,
    speech: Sequence[Speech] = (),
    options: ExportOptions = ExportOptions(),
) -> ForeignExport:
    """Exports a trained model into a folder that WeNet's `decoder_main --onnx_dir` takes.

    All files are written into a temporary folder, driven there as the C++ runtime drives them and compared with the
    model in memory on generated audio and on `speech`; only then do they take their places, together.

    Args:
        trained: the checkpoint.
        directory: gets encoder.onnx, ctc.onnx, decoder.onnx and units.txt; other files in it stay.
        chunking: the runtime must be started with it. A negative left context keeps all that was heard; full context
            becomes WeNet's chunk size -1, which waits for the end of the audio.
        speech: utterances to verify on beside the generated audio, and to judge int8 by.
        options: "int8-dynamic" writes encoder.quant.onnx and so on beside the others. Its error rate is that of beam
            search and attention rescoring under the model's weights, over the features that the model computes.

    Raises:
        ImportError: onnx or onnxruntime is not installed.
        ValueError: the runtime cannot run such a model, a graph does not reproduce it, or int8 costs too much; nothing
            is kept then.
    """
    check_precision(options.precision, directory)
    check_front_end(trained, directory)
    if trained.model.decoder is None:
        raise ValueError(
            f"{directory} is not written: WeNet's onnxruntime runtime needs decoder.onnx, and {trained.path} has no "
            "attention decoder; export TorchScript for WeNet's libtorch runtime, or for sherpa-onnx"
        )
    if chunking.size < SMALLEST_CHUNK:
        raise ValueError(
            f"{directory} is not written: WeNet's runtime passes over chunks of {chunking.size} frame; "
            f"use a chunk size of {SMALLEST_CHUNK} or more"
        )
    model = wenet_model(trained)
    metadata = describe(model, trained, chunking) | {"output_dir": directory.name}
    exact, quantised = ([f"{name}{suffix}" for name in GRAPHS] for suffix in (".onnx", ".quant.onnx"))
    written = exact if options.precision == "float32" else [*exact, *quantised]
    with replacing_set(directory, [*exact, *quantised, UNITS]) as part:
        _write_graphs(model, [part / name for name in exact], chunking, metadata)
        refuse_operators(operators(part / exact[0]), NORMS_AND_COSTLY_ACTIVATIONS, trained, directory)
        accepted = _accept(trained, directory, chunking, [part / name for name in exact], speech, ExportOptions())
        if written != exact:
            for source, target in zip(exact, quantised):
                quantise_dynamic(part / source, part / target)
            accepted = _accept(trained, directory, chunking, [part / name for name in quantised], speech, options)
        write_text(part / UNITS, unit_table(trained.tokenizer))
    remarks = mel_remarks(trained, "WeNet's runtime", 0.0, "") + chunking_remarks(trained, chunking)
    if written != exact:
        remarks.append(
            f"WeNet opens fixed names, so this runs the float32 files; copy {', '.join(quantised)} to a folder of their "
            f"own as {', '.join(exact)} to run int8"
        )
    command = wenet_command(trained, directory, metadata)
    files = tuple(directory / name for name in (*written, UNITS))
    return ForeignExport(files, metadata, accepted, command, tuple(remarks))


def _write_graphs(model: WenetModel, paths: Sequence[Path], chunking: Chunking, metadata: dict[str, str]) -> None:
    encoder, ctc, decoder = paths
    # WeNet's runtime passes a mask only if the left context is limited and not zero.
    if chunking.left > 0:
        write_encoder(MaskedEncoder(model), INPUTS, OUTPUTS, (), encoder, metadata)
    else:
        write_encoder(GrowingEncoder(model), INPUTS[:5], OUTPUTS, (), encoder, metadata)
    write_ctc(model, ctc, metadata)
    write_decoder(model, decoder, metadata)


def _accept(
    trained: TrainedModel,
    directory: Path,
    chunking: Chunking,
    graphs: Sequence[Path],
    speech: Sequence[Speech],
    options: ExportOptions,
) -> Accepted:
    compared = pair(trained, chunking, graphs, speech)
    return accept(directory, *compared, speech, options, batches=False)


def wenet_command(trained: TrainedModel, directory: Path, metadata: dict[str, str]) -> str:
    """How to start the runtime: its defaults are not the model's values."""
    frontend, rescoring = trained.config.model.frontend, trained.config.model.rescoring
    reverse_weight = rescoring.reverse_weight if trained.model.reverse_decoder is not None else 0.0
    return (
        f"decoder_main --onnx_dir {directory} --unit_path {directory / UNITS} "
        f"--chunk_size {metadata['chunk_size']} --num_left_chunks {metadata['left_chunks']} "
        f"--num_bins {frontend.num_mel_bins} --sample_rate {frontend.sample_rate} "
        f"--ctc_weight {rescoring.ctc_weight:g} --reverse_weight {reverse_weight:g} --wav_path AUDIO.wav"
    )


def unit_table(tokenizer: Tokenizer) -> str:
    """units.txt for runtimes that join units without spaces and show U+2581 as one: words begin with it."""
    tokens = tokenizer.vocabulary.tokens
    if tokenizer.join == "words":
        words = (WORD_START + token for token in tokens[len(RESERVED) :])
        tokens = (*tokens[: len(RESERVED)], *words)
    return format_vocabulary(tokens)


def check_precision(precision: str, path: Path) -> None:
    """Raises ValueError for an unknown one."""
    known = get_args(Precision)
    if precision not in known:
        raise ValueError(f"{path} is not written: such a graph's precision is {' or '.join(known)}, not {precision}")


def check_front_end(trained: TrainedModel, path: Path) -> None:
    """Raises ValueError if the model wants features that neither runtime can compute."""
    frontend = trained.config.model.frontend
    if (frontend.window_ms, frontend.hop_ms) != (25.0, 10.0):
        raise ValueError(
            f"{path} is not written: WeNet's and sherpa-onnx's runtimes compute features over 25 ms every 10 ms, "
            f"{trained.path} was trained with window_ms: {frontend.window_ms:g} and hop_ms: {frontend.hop_ms:g}"
        )


def mel_remarks(trained: TrainedModel, runtime: str, high_freq: float, remedy: str) -> list[str]:
    """What to say if a runtime's mel filters end elsewhere than the model's; high_freq as in `FrontendConfig`."""
    frontend = trained.config.model.frontend
    nyquist = frontend.sample_rate / 2
    model_high = frontend.high_freq if frontend.high_freq > 0 else nyquist + frontend.high_freq
    if (frontend.low_freq, model_high) == (LOW_FREQ, nyquist + high_freq):
        return []
    return [
        f"{runtime} lays its mel filters over {LOW_FREQ:g}-{nyquist + high_freq:g} Hz, the model learned with "
        f"{frontend.low_freq:g}-{model_high:g} Hz: expect more errors{remedy}"
    ]


def chunking_remarks(trained: TrainedModel, chunking: Chunking) -> list[str]:
    """What to say if training never drew this chunking."""
    known = trained.config.training.chunking.trained()
    if chunking in known or chunking.size >= FULL_CONTEXT.size:
        return []
    label = chunking_label(chunking) if chunking.left >= 0 else f"{chunking.size} frames and all that was heard"
    return [f"the model was not trained for {label}; it knows {', '.join(map(chunking_label, known))}"]
