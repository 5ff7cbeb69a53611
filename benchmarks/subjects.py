"""Exported files of one random model, loaded as the runtime loads them, and their encoders alone. Times nothing."""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
from forms import Form, onnx_form, quantise, torch_form, tuned_encoder, write_graph
from wenet_fusion_runtime import AcousticModel, load_model
from wenet_fusion_runtime.meta import TORCHSCRIPT

from wenet_fusion.deployment import FileForm, fused_model, meta_record
from wenet_fusion.export.acceptance import ExportOptions
from wenet_fusion.export.onnx_archive import export_onnx_archive
from wenet_fusion.export.torch_engine import ENGINES, Precision
from wenet_fusion.export.torchscript import script
from wenet_fusion.recipe import TrainedModel

PRECISIONS: tuple[Precision, ...] = ("float32", "float16-packed", "int8")


class Subject(NamedTuple):
    name: str  # the engine and precision
    path: Path
    model: AcousticModel
    encoder: Form


def build(trained: TrainedModel, noise: np.ndarray, folder: Path, seed: int) -> list[Subject]:
    """TorchScript in three precisions and onnxruntime in two; int8 with constant scales is calibrated on `noise`."""
    graph = folder / "encoder.onnx"
    write_graph(fused_model(trained).encoder, graph)
    int8 = quantise(graph, folder / "encoder.int8.onnx", "int8")
    found = []
    for precision in PRECISIONS:
        name, path = f"TorchScript {precision}", folder / f"{precision}.zip"
        write_script(trained, precision, noise, path)
        encoder = torch_form(name, "float", tuned_encoder(trained, precision, seed), frozen=precision != "float32")
        found.append(Subject(name, path, load_model(path), encoder))
    for name, exact in (("onnxruntime float32", graph), ("onnxruntime int8-dynamic", int8)):
        path = folder / f"{exact.stem}.archive"
        export_onnx_archive(trained, path, (), ExportOptions("int8-dynamic" if exact is int8 else "float32"))
        found.append(Subject(name, path, load_model(path), onnx_form(name, "float", exact)))
    return found


def write_script(trained: TrainedModel, precision: Precision, noise: np.ndarray, path: Path) -> None:
    """Like the export, but neither verified nor judged: a model that has learned nothing has no error rate."""
    record = meta_record(trained, {}, FileForm(TORCHSCRIPT, precision, ENGINES[precision]))
    scripted = script(trained, precision, [noise])
    path.write_bytes(scripted.save_to_buffer(_extra_files={"meta.json": json.dumps(record, ensure_ascii=False)}))
