"""Writes the exported TorchScript file: fuse, tune, script, save, verify what was saved, then keep it."""

import io
import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from wenet_fusion_runtime.files import replacing
from wenet_fusion_runtime.model.acoustic_model import AcousticModel
from wenet_fusion_runtime.model.metadata import TORCHSCRIPT, parse_meta
from wenet_fusion_runtime.model.model_file import load_model
from wenet_fusion_runtime.model.torch_backend import TorchBackend

from wenet_fusion.export.acceptance import ExportOptions, accept, refuse_operators
from wenet_fusion.export.emission_delay import measure_emission_delay
from wenet_fusion.export.kernels.calibration import calibration
from wenet_fusion.export.kernels.torch_kernels import QUANTIZED_ENGINES, Precision, pack_kernels
from wenet_fusion.export.speech import Speech, halves
from wenet_fusion.export.verification import tolerance, verify
from wenet_fusion.model.operators import COSTLY_ACTIVATIONS, NORM_OPERATORS, matching, operators
from wenet_fusion.model.wenet import WENET_METHODS, WenetModel
from wenet_fusion.trained_model import FileForm, TrainedModel, acoustic_model, fused_model, meta_record

METHODS = ["init_state", "step", "rescore", "concat_states", "split_state", *WENET_METHODS]


def export_torchscript(
    trained: TrainedModel, path: Path, speech: Sequence[Speech] = (), options: ExportOptions = ExportOptions()
) -> dict[str, Any]:
    """Exports a trained model with all its norms folded, for our runtime and for WeNet's libtorch runtime.

    The file is first written beside `path`, loaded again as the runtime will load it, and compared with the model in
    memory on generated audio and on `speech`. Then it is written with the numbers found, and these bytes too are loaded
    and compared, on the generated audio; only then do they take their place.

    Args:
        trained: the checkpoint.
        path: where the file goes.
        speech: utterances to verify on beside the generated audio; int8 is calibrated on every other one and judged by
            the rest. Those whose words are dated show how far emitted words lie from spoken ones.
        options: precision, and what it may cost.

    Returns:
        The contents of the file's meta.json.

    Raises:
        ValueError: if a norm op is left, the file does not reproduce the model or int8 costs too much; nothing is kept.
    """
    calibration_set, _ = halves(speech, options.precision)
    scripted = script(trained, options.precision, [utterance.samples for utterance in calibration_set])
    form = FileForm(TORCHSCRIPT, options.precision, QUANTIZED_ENGINES[options.precision])
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as part:
        _save(scripted, meta_record(trained, {}, form), part)
        reference, written = acoustic_model(trained), load_model(part)
        counts = operators(step_graph(written))
        refuse_operators(counts, NORM_OPERATORS + COSTLY_ACTIVATIONS, trained, path)
        accepted = accept(path, reference, written, speech, options)
        numbers = {
            **accepted.summary(),
            "operators": dict(sorted(counts.items())),
            "norm_operators": sum(matching(counts, NORM_OPERATORS).values()),
        }
        delay = None
        if any(utterance.spoken for utterance in speech):
            measured = measure_emission_delay(written, speech)
            delay, numbers["word_times"] = measured and measured.emission_delay, measured and measured.summary()
        record = meta_record(trained, numbers, form, delay)
        _save(scripted, record, part)
        written = load_model(part)
        if written.meta != parse_meta(record, str(path)):
            raise ValueError(
                f"{path} is not kept: its meta.json is not what was written; check the disk and export again"
            )
        verify(reference, written, (), tolerance(options.precision)).raise_if_different(path)
    return record


def script(
    trained: TrainedModel, precision: Precision = "float32", speech: Sequence[np.ndarray] = ()
) -> torch.jit.ScriptModule:
    """The fused model as TorchScript; `speech` calibrates int8.

    Raises:
        ValueError: see `pack_kernels` and `calibration`.
    """
    chunkings = trained.config.training.chunking.served()
    run = calibration(speech, chunkings) if precision == "int8" else None
    model = pack_kernels(fused_model(trained, WenetModel), precision, run)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        scripted = torch.jit.script(model)
        # Frozen modules are inlined, which spares a step its calls; but no .to() moves their weights to a GPU.
        return scripted if precision == "float32" else torch.jit.freeze(scripted, preserved_attrs=METHODS)


def reloaded(scripted: torch.jit.ScriptModule) -> torch.jit.ScriptModule:
    """The module as its file would give it: with methods that no other module shares, so that graphs show all they run."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return torch.jit.load(io.BytesIO(scripted.save_to_buffer()))


def step_graph(model: AcousticModel) -> torch.Graph:
    """Return the inlined TorchScript graph of the step of a loaded file.

    Raises:
        TypeError: the model does not run on torch.
    """
    if not isinstance(model.backend, TorchBackend):
        raise TypeError("only a TorchScript file has a TorchScript graph")
    return model.backend.module.step.inlined_graph


def _save(scripted: torch.jit.ScriptModule, record: dict[str, Any], path: Path) -> None:
    """By way of the memory: torch's own writer ends the process when a disk is full."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        content = scripted.save_to_buffer(_extra_files={"meta.json": json.dumps(record, ensure_ascii=False)})
    path.write_bytes(content)
