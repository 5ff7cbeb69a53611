"""The command `info`."""

from __future__ import annotations

import argparse
from typing import Any

from wenet_fusion_runtime.cli.command import Commands, add_command
from wenet_fusion_runtime.files import file_sha256
from wenet_fusion_runtime.model.backends import describe_backend
from wenet_fusion_runtime.model.metadata import ANY, KINDS, ONNX, TORCHSCRIPT, Meta
from wenet_fusion_runtime.model.model_file import read_meta
from wenet_fusion_runtime.model.wenet.wenet_files import SCRIPTED, model_paths
from wenet_fusion_runtime.results.timestamps import EmissionDelay

_PROGRAM = "a program (TorchScript): load only files that you trust, and pin them with --require_sha256"
_DATA = "data (ONNX graphs)"
_KINDS = {TORCHSCRIPT: "TorchScript of wenet-fusion export", ONNX: "ONNX archive of wenet-fusion export"}
MAX_ENTRIES = 8  # largest table that is printed, in entries; of a larger table, only the number of entries is printed


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    info = add_command(
        commands,
        "info",
        _info,
        "Describe a model file: kind, size, chunks, latency and more. The TorchScript and ONNX files of wenet-fusion "
        "export for this runtime are described without torch and onnxruntime. A model in WeNet's or sherpa-onnx's "
        "format is loaded; if it is TorchScript, loading it runs the program in the file.",
        ["final.zip", "exp/u2pp_conformer --units data/dict/lang_char.txt"],
    )
    info.set_defaults(card=None)  # path of the model card; set for an installed model only


def _info(options: argparse.Namespace) -> int:
    meta, paths = read_meta(options.model, options.units), model_paths(options.model)
    decoders = ["left-to-right"] * meta.decoder + ["right-to-left"] * meta.reverse_decoder
    chunks = ", ".join(f"{size}/{left} ({1000 * size * meta.frame_seconds:.0f} ms)" for size, left in meta.chunkings)
    if meta.chunk_rule == ANY:
        chunks += ", any other"
    is_program = meta.kind in (TORCHSCRIPT, SCRIPTED)
    weights = f"ctc_weight {meta.ctc_weight:g}, reverse_weight {meta.reverse_weight:g}"
    lines = [
        ("model", " ".join(map(str, paths))),
        *([] if options.card is None else [("model card", str(options.card))]),
        ("kind", _KINDS.get(meta.kind, meta.kind)),
        ("size", f"{sum(path.stat().st_size for path in paths) / 1e6:.1f} MB"),
        ("SHA-256", file_sha256(*paths)),
        ("contains", _PROGRAM if is_program else _DATA),
        ("runs on", describe_backend(paths[0], meta, options.backend)),
        ("sample rate", f"{meta.sample_rate} Hz"),
        ("encoder frame", f"{1000 * meta.frame_seconds:g} ms"),
        ("chunk/left", f"{chunks}; default {meta.default_chunk}/{meta.default_left} (encoder frames/chunks)"),
        ("look-ahead", f"{1000 * meta.lookahead_samples / meta.sample_rate:g} ms of audio beyond a chunk"),
        ("right padding", f"{1000 * meta.right_padding_samples / meta.sample_rate:g} ms"),
        ("vocabulary", f"{len(meta.vocabulary)} tokens, text joined from {meta.vocabulary.join}"),
        ("attention decoders", ", ".join(decoders) or "none"),
        ("rescoring", weights if meta.decoder else "none"),
        ("timestamps", _timestamps(meta)),
        ("precision", meta.precision),
    ]
    for title, fields in (
        ("latency", meta.latency),
        ("verification", meta.verification),
        ("written with", meta.versions),
    ):
        for index, (key, value) in enumerate(fields.items()):
            lines.append((title if index == 0 else "", f"{key}: {_shown(value)}"))
    lines += [("limits" if index == 0 else "", limit) for index, limit in enumerate(meta.limits)]
    for title, value in lines:
        print(f"{title:<19} {value}")
    return 0


def _shown(value: Any) -> str:
    """Return a value of the metadata as text, numbers with four digits."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return ", ".join(map(_shown, value))
    if not isinstance(value, dict):
        return str(value)
    if len(value) > MAX_ENTRIES:
        return f"{len(value)} entries"
    parts = [
        f"{name} ({_shown(each)})" if isinstance(each, dict) else f"{name} {_shown(each)}"
        for name, each in value.items()
    ]
    return ", ".join(parts)


def _timestamps(meta: Meta) -> str:
    start, end = meta.emission_delay
    if meta.emission_delay == EmissionDelay():
        remedy = "; export with --ctm corrects them for emission delay" if meta.kind in KINDS else ""
        return f"of the emitting frames{remedy}"
    return f"corrected for emission delay: starts by {start:+.3f} s, ends by {end:+.3f} s"
