"""The TorchScript file that our runtime and WeNet's libtorch runtime run."""

import io
import json
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from wenet_fusion_runtime.model.acoustic_model import AcousticModel
from wenet_fusion_runtime.model.metadata import TORCHSCRIPT, VOCABULARY_SIZE
from wenet_fusion_runtime.model.model_file import META, load_model
from wenet_fusion_runtime.model.torch_backend import TorchBackend

from wenet_fusion.export.kernels.calibration import calibration
from wenet_fusion.export.kernels.torch_kernels import QUANTIZED_ENGINES, pack_kernels
from wenet_fusion.export.speech import Speech
from wenet_fusion.export.target import Findings, Target
from wenet_fusion.export.verification import Pair
from wenet_fusion.export.wenet_methods import WENET_METHODS, WenetModel
from wenet_fusion.model.operators import COSTLY_ACTIVATIONS, NORM_OPERATORS, operators
from wenet_fusion.trained_model import FileForm, TrainedModel, folded, meta_record

METHODS = ["init_state", "step", "rescore", "concat_states", "split_state", VOCABULARY_SIZE, *WENET_METHODS]


class TorchScript(Target):
    """One TorchScript file with meta.json inside, for our runtime and WeNet's libtorch runtime.

    >>> TorchScript.name, TorchScript.precisions
    ('torchscript', ('float32', 'float16-packed', 'int8', 'int8-dynamic'))
    """

    name, purpose = "torchscript", "for our runtime and WeNet's libtorch runtime"
    precisions = tuple(QUANTIZED_ENGINES)
    norms, costly_activations = NORM_OPERATORS, COSTLY_ACTIVATIONS
    for_our_runtime = True

    def build(self, speech: Sequence[np.ndarray]) -> None:
        """Script the fused model; see `script`."""
        self.scripted = script(self.trained, self.precision, speech)

    def write(self, path: Path, precision: str, found: Findings | None) -> None:
        """Write the file."""
        save(self.scripted, self.metadata(found), path)

    def load(self, path: Path, precision: str, speech: Sequence[Speech]) -> Pair:
        """Load the file with our runtime."""
        return Pair(self.reference(), load_model(path))

    def operators(self, path: Path, precision: str, exported: AcousticModel) -> Counter[str]:
        """Count the operators of the step's graph."""
        return operators(step_graph(exported))

    def metadata(self, found: Findings | None) -> dict[str, Any]:
        """Return the contents of meta.json."""
        form = FileForm(TORCHSCRIPT, self.precision, QUANTIZED_ENGINES[self.precision])
        delay = found.delay.emission_delay if found and found.delay else None
        return meta_record(self.trained, found.summary() if found else {}, form, delay)


def script(
    trained: TrainedModel, precision: str = "float32", speech: Sequence[np.ndarray] = ()
) -> torch.jit.ScriptModule:
    """Return the fused model as TorchScript.

    Args:
        trained: the checkpoint.
        precision: see `pack_kernels`.
        speech: utterances (n,) at the model's rate, to calibrate "int8".

    Raises:
        ValueError: see `pack_kernels` and `calibration`.
    """
    chunkings = trained.config.training.chunking.served()
    run = calibration(speech, chunkings) if precision == "int8" else None
    model = pack_kernels(WenetModel(folded(trained)).eval(), precision, run)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        scripted = torch.jit.script(model)
        # Freezing inlines the module, which saves calls in each step, but then .to() does not move weights to a GPU.
        return scripted if precision == "float32" else torch.jit.freeze(scripted, preserved_attrs=METHODS)


def step_graph(model: AcousticModel) -> torch.Graph:
    """Return the inlined TorchScript graph of the step of a loaded file.

    Raises:
        TypeError: the model does not run on torch.
    """
    if not isinstance(model.backend, TorchBackend):
        raise TypeError("only a TorchScript file has a TorchScript graph")
    return model.backend.module.step.inlined_graph


def reloaded(scripted: torch.jit.ScriptModule) -> torch.jit.ScriptModule:
    """Return a copy as loaded from a file: it shares no methods with other models, so its graphs show all operators."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return torch.jit.load(io.BytesIO(scripted.save_to_buffer()))


def save(scripted: torch.jit.ScriptModule, record: dict[str, Any], path: Path) -> None:
    """Write a TorchScript file with meta.json inside.

    The file is put together in memory, because torch's own writer ends the process when a disk is full.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        content = scripted.save_to_buffer(_extra_files={META: json.dumps(record, ensure_ascii=False)})
    path.write_bytes(content)
