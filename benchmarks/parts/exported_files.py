"""A random model, exported to files in several formats and precisions, for the benchmarks of the runtime."""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
from parts.encoder_variants import (
    EncoderVariant,
    onnx_variant,
    quantise,
    static_onnx_encoder,
    torch_variant,
    tuned_encoder,
    write_graph,
)
from wenet_fusion_runtime import AcousticModel, load_model
from wenet_fusion_runtime.model.metadata import ONNX, TORCHSCRIPT

from wenet_fusion.export.flow import export_model
from wenet_fusion.export.kernels.onnx_int8 import DOMAIN
from wenet_fusion.export.kernels.torch_kernels import QUANTIZED_ENGINES, Precision
from wenet_fusion.export.target import ExportOptions
from wenet_fusion.export.targets.onnx_archive import build_members, one_chunk_model, pack
from wenet_fusion.export.targets.torchscript import script
from wenet_fusion.export.tracing import describe_state
from wenet_fusion.trained_model import FileForm, TrainedModel, fused_model, meta_record

PRECISIONS: tuple[Precision, ...] = ("float32", "float16-packed", "int8")


class ExportedFile(NamedTuple):
    """An exported file, loaded by the runtime, and its encoder alone."""

    name: str  # engine and precision
    path: Path
    model: AcousticModel
    encoder: EncoderVariant


def build(trained: TrainedModel, noise: np.ndarray, folder: Path, seed: int) -> list[ExportedFile]:
    """Export a model to TorchScript and to onnxruntime, in three precisions each; int8 is calibrated on `noise`."""
    graph = folder / "encoder.onnx"
    write_graph(fused_model(trained).encoder, graph)
    int8 = quantise(graph, folder / "encoder.int8.onnx", "int8")
    found = []
    for precision in PRECISIONS:
        name, path = f"TorchScript {precision}", folder / f"{precision}.zip"
        write_script(trained, precision, noise, path)
        encoder = torch_variant(name, "float", tuned_encoder(trained, precision, seed), frozen=precision != "float32")
        found.append(ExportedFile(name, path, load_model(path), encoder))
    for name, exact in (("onnxruntime float32", graph), ("onnxruntime int8-dynamic", int8)):
        path = folder / f"{exact.stem}.archive"
        export_model(trained, path, ExportOptions("onnx", "int8-dynamic" if exact is int8 else "float32"))
        found.append(ExportedFile(name, path, load_model(path), onnx_variant(name, "float", exact)))
    static, path = folder / "encoder.static.onnx", folder / "int8.archive"
    write_graph(static_onnx_encoder(trained, seed), static, [DOMAIN])
    write_int8_archive(trained, noise, path)
    model = load_model(path, backend="onnxruntime")
    found.append(ExportedFile("onnxruntime int8", path, model, onnx_variant("onnxruntime int8", "float", static)))
    return found


def write_int8_archive(trained: TrainedModel, noise: np.ndarray, path: Path) -> None:
    """Write an ONNX archive in int8 with constant scales as export does, but without verification."""
    model = one_chunk_model(trained, "int8", [noise])
    record = {**meta_record(trained, {}, FileForm(ONNX, "int8", "onnxruntime")), "state": describe_state(model)}
    pack(build_members(model, "int8"), record, path)


def write_script(trained: TrainedModel, precision: Precision, noise: np.ndarray, path: Path) -> None:
    """Write a TorchScript file as export does, but without verification: a random model has no useful error rate."""
    record = meta_record(trained, {}, FileForm(TORCHSCRIPT, precision, QUANTIZED_ENGINES[precision]))
    scripted = script(trained, precision, [noise])
    path.write_bytes(scripted.save_to_buffer(_extra_files={"meta.json": json.dumps(record, ensure_ascii=False)}))
