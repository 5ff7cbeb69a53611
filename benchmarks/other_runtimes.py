#!/usr/bin/env python3
"""Measure the word error rates of a checkpoint in WeNet's runtimes and in sherpa-onnx, with their own features.

The checkpoint is exported for each runtime, and recorded speech is decoded as the runtime's C++ code does it. The
results show how many errors the other front-ends and the missing right padding add, and which silence around the
recordings and which setting of the mel filters avoid these errors.

WeNet's runtimes are emulated (tests/support/model/wenet_runtime.py) with Kaldi's features and our beam search;
sherpa-onnx is the real package. Writes other_runtimes.md and other_runtimes.json.
"""

import argparse
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from parts.benchmark_report import this_run, write_report
from parts.runtime_drivers import OnnxAsrModel, OurRuntime, SherpaRuntime, Silence, Texts, TorchAsrModel, WenetRuntime
from tqdm import tqdm
from wenet_fusion_runtime.console import run_main
from wenet_fusion_runtime.model.model_file import load_model

from wenet_fusion.evaluation.report.markdown import markdown_table
from wenet_fusion.export.flow import export_model
from wenet_fusion.export.speech import Speech, read_speech
from wenet_fusion.export.target import ExportOptions
from wenet_fusion.model.chunking import Chunking, chunking_label, parse_chunking
from wenet_fusion.scoring.error_rate import ErrorCounts, score
from wenet_fusion.trained_model import TrainedModel, load_trained

KEEP_ALL = -1  # the whole left context: WeNet's default for num_left_chunks
SHERPA_PADDING_SECONDS = 0.8  # right padding that sherpa-onnx's own programs add
Decode = Callable[[Speech], Texts]


class Case(NamedTuple):
    runtime: str
    audio: str  # changes of the audio or the features: silence around the audio, mel filters
    decode: Decode


class Outcome(NamedTuple):
    runtime: str
    audio: str
    greedy: float
    rescored: float | None  # None: the runtime has no rescoring
    errors: str  # substitutions, deletions and insertions of greedy search
    other_text: int  # number of utterances whose greedy text differs from our runtime's


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help="checkpoint of the model")
    parser.add_argument("--data", type=Path, required=True, help="data.list to decode")
    parser.add_argument("--num_utterances", type=int, default=1_000_000, help="utterances to use (default: all)")
    parser.add_argument("--chunking", type=parse_chunking, metavar="SIZE/LEFT", help="chunking (default: the model's)")
    parser.add_argument("--output", type=Path, required=True, help="folder for the table and the numbers")
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    trained = load_trained(args.checkpoint)
    chunking = args.chunking or trained.config.training.chunking.served()[-1]
    speech = read_speech(args.data, trained.config.model.frontend.sample_rate, args.num_utterances)
    with tempfile.TemporaryDirectory() as folder:
        outcomes = measure(cases(trained, chunking, Path(folder)), speech)
    run = this_run(0, os.getloadavg()[0])
    words = sum(len(utterance.text.split()) for utterance in speech)
    title = (
        f"Word error rate in percent, {words} words in {len(speech)} utterances, chunking {chunking_label(chunking)}."
    )
    text = "\n\n".join(["\n".join(run.lines()), title, outcome_table(outcomes)])
    print(text)
    record = {"run": run, "outcomes": [outcome._asdict() for outcome in outcomes]}
    write_report(args.output, "other_runtimes", text, record)
    return 0


def cases(trained: TrainedModel, chunking: Chunking, folder: Path) -> list[Case]:
    """Export the checkpoint to `folder`, and return the cases. The first one is our runtime, the reference."""
    frontend, fbank = trained.config.model.frontend, trained.model.fbank
    script, graphs = folder / "final.zip", folder / "wenet"
    export_model(trained, script)
    export_model(trained, graphs, ExportOptions("wenet-onnx", "int8-dynamic", chunking))
    model, bins = load_model(script), frontend.num_mel_bins
    overlap = fbank.window_samples - fbank.hop_samples
    padded = Silence(0, frontend.right_padding_samples)
    padded_both = Silence(overlap, frontend.right_padding_samples)
    found = [Case("ours, TorchScript", "unchanged", OurRuntime(model, chunking).decode)]
    runtimes = {
        "WeNet, libtorch": WenetRuntime(TorchAsrModel(script, *chunking), model, bins),
        "WeNet, onnxruntime": WenetRuntime(OnnxAsrModel(graphs), model, bins),
        "WeNet, onnxruntime int8-dynamic": WenetRuntime(OnnxAsrModel(graphs, ".quant.onnx"), model, bins),
    }
    for name, runtime in runtimes.items():
        found += [
            Case(name, "unchanged", runtime.decoder_with(Silence(0, 0))),
            Case(name, "right padding", runtime.decoder_with(padded)),
            Case(name, "right padding, overlap in front", runtime.decoder_with(padded_both)),
        ]
    with_full_context = WenetRuntime(TorchAsrModel(script, chunking.size, KEEP_ALL), model, bins)
    found.append(Case("WeNet, libtorch, num_left_chunks -1", "right padding", with_full_context.decoder_with(padded)))
    padded = Silence(0, int(SHERPA_PADDING_SECONDS * frontend.sample_rate))
    padded_both = Silence(overlap // 2, padded.after)
    for precision in ("float32", "int8-dynamic"):
        path = folder / precision / "model.onnx"
        export_model(trained, path, ExportOptions("sherpa-onnx", precision, chunking))
        plain = SherpaRuntime(path, trained, chunking, high_freq=None)
        with_mel_range = SherpaRuntime(path, trained, chunking, high_freq=frontend.high_freq)
        name = f"sherpa-onnx, {precision}"
        found += [
            Case(name, "unchanged", plain.decoder_with(Silence(0, 0))),
            Case(name, "right padding", plain.decoder_with(padded)),
            Case(name, "right padding, the model's mel filters", with_mel_range.decoder_with(padded)),
            Case(
                name,
                "right padding, the model's mel filters, half the overlap in front",
                with_mel_range.decoder_with(padded_both),
            ),
        ]
    return found


def measure(found: Sequence[Case], speech: Sequence[Speech]) -> list[Outcome]:
    references = {utterance.key: utterance.text for utterance in speech}
    expected: dict[str, str] = {}
    outcomes = []
    for case in found:
        progress = tqdm(speech, desc=f"{case.runtime}, {case.audio}", unit="utt", leave=False, disable=None)
        texts = {utterance.key: case.decode(utterance) for utterance in progress}
        greedy = {key: text.greedy for key, text in texts.items()}
        expected = expected or greedy
        total = score(references, greedy).total
        has_decoder = all(text.rescored is not None for text in texts.values())
        rescored = score(references, {key: text.rescored or "" for key, text in texts.items()}).total.rate
        other = sum(text != expected[key] for key, text in greedy.items())
        outcomes.append(
            Outcome(case.runtime, case.audio, total.rate, rescored if has_decoder else None, edits(total), other)
        )
    return outcomes


def edits(counts: ErrorCounts) -> str:
    return f"{counts.substitutions} / {counts.deletions} / {counts.insertions}"


def outcome_table(outcomes: Sequence[Outcome]) -> str:
    head = ["runtime", "audio", "greedy", "sub / del / ins", "rescored", "utterances whose text differs from ours"]
    rows = [
        [item.runtime, item.audio, f"{100 * item.greedy:.2f}", item.errors,
         "-" if item.rescored is None else f"{100 * item.rescored:.2f}", str(item.other_text)]
        for item in outcomes
    ]  # fmt: skip
    return markdown_table(head, rows)


if __name__ == "__main__":
    run_main(main)
