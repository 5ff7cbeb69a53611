"""Writes the exported TorchScript file: fuse, script, save, verify what was saved, then keep it."""

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from wenet_fusion.deployment import acoustic_model, fused_model, meta_record
from wenet_fusion.export.verification import Verification, verify
from wenet_fusion.files import replacing
from wenet_fusion.models.exported import ExportedModel
from wenet_fusion.models.operators import COSTLY_ACTIVATIONS, NORM_OPERATORS, matching, operators
from wenet_fusion.recipe import TrainedModel
from wenet_fusion_runtime.meta import parse_meta
from wenet_fusion_runtime.model_file import load_model


def export_torchscript(trained: TrainedModel, path: Path, speech: Sequence[np.ndarray] = ()) -> dict[str, Any]:
    """Exports a trained model with all its norms folded.

    The file is first written beside `path`, loaded again as the runtime will load it, and compared with the model in
    memory on generated audio and on `speech`. Then it is written with the numbers found, and these bytes too are loaded
    and compared, on the generated audio; only then do they take their place.

    Args:
        trained: the checkpoint.
        path: where the file goes.
        speech: utterances, float32 mono at the model's rate, to verify on beside the generated audio.

    Returns:
        The contents of the file's meta.json.

    Raises:
        ValueError: if a norm op is left or the file does not reproduce the model; nothing is kept then.
    """
    scripted = script(trained)
    counts = operators(scripted.step.inlined_graph)
    left = matching(counts, NORM_OPERATORS + COSTLY_ACTIVATIONS)
    if left:
        raise ValueError(f"{path} is not written: the exported step still runs {left}; every norm must be in a LinearNorm or ConvNorm")

    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as part:
        _save(scripted, meta_record(trained, {}), part)
        reference = acoustic_model(trained)
        checked: Verification = verify(reference, load_model(part), speech)
        checked.raise_if_different(path)
        record = meta_record(trained, {**checked.summary(), "norm_operators": 0, "operators": dict(sorted(counts.items()))})
        _save(scripted, record, part)
        written = load_model(part)
        if written.meta != parse_meta(record, str(path)):
            raise ValueError(f"{path} is not kept: its meta.json is not what was written; check the disk and export again")
        verify(reference, written, ()).raise_if_different(path)
    return record


def script(trained: TrainedModel) -> torch.jit.ScriptModule:
    """The fused model as TorchScript."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return torch.jit.script(ExportedModel(fused_model(trained)).eval())


def _save(scripted: torch.jit.ScriptModule, record: dict[str, Any], path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(scripted, str(path), _extra_files={"meta.json": json.dumps(record, ensure_ascii=False)})
