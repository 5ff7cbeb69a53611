"""The base class of export targets, and the options and results of an export."""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
from wenet_fusion_runtime.files import replacing
from wenet_fusion_runtime.model.acoustic_model import AcousticModel
from wenet_fusion_runtime.model.metadata import parse_meta
from wenet_fusion_runtime.stream.decoding_options import DecodingOptions

from wenet_fusion.export.emission_delay import MeasuredDelay
from wenet_fusion.export.speech import ErrorChange, Speech
from wenet_fusion.export.verification import Pair, Verification
from wenet_fusion.model.chunking import Chunking
from wenet_fusion.trained_model import TrainedModel, acoustic_model


@dataclass(frozen=True)
class ExportOptions:
    """The format and precision of an export, and the limit on errors that int8 may add.

    Args:
        target: a name in `wenet_fusion.export.flow.TARGETS`.
        precision: a precision that the target supports.
        chunking: chunking of the file, for targets with `one_chunking`; None: the model's largest chunk size.
        max_wer_increase: largest increase of the word error rate that int8 may cause, as a fraction.
        measure_errors: with speech, measure error rates also for float files; for int8 they are always measured.

    >>> ExportOptions("onnx", "int8").max_wer_increase
    0.005
    """

    target: str = "torchscript"
    precision: str = "float32"
    chunking: Chunking | None = None
    max_wer_increase: float = 0.005
    measure_errors: bool = False


class Findings(NamedTuple):
    """Results of verifying written files."""

    verification: Verification
    operators: Counter[str]  # operators of one step, and how often each occurs
    norm_operators: int
    errors: ErrorChange | None  # for int8, and for others on request; None without speech
    delay_measured: bool  # the speech had word timestamps
    delay: MeasuredDelay | None  # None: not measured, or no word was recognised correctly

    def summary(self) -> dict[str, Any]:
        """Return the section `verification` of meta.json."""
        found = self.verification.summary()
        found |= {"operators": dict(sorted(self.operators.items())), "norm_operators": self.norm_operators}
        if self.errors is not None:
            found["errors"] = self.errors.summary()
        if self.delay_measured:
            found["word_times"] = self.delay and self.delay.summary()
        return found


@dataclass(frozen=True)
class Exported:
    """Exported files and the results of their verification.

    Args:
        files: the files, the most important one first.
        metadata: contents of meta.json; for other projects' files, the metadata of the encoder's graph.
        findings: results of the verification.
        command: command that runs the files in another project's runtime; may be empty.
        remarks: differences between the runtime and the training, and the cost of the activation.

    >>> Exported.__dataclass_fields__["command"].default
    ''
    """

    files: tuple[Path, ...]
    metadata: dict[str, Any]
    findings: Findings
    command: str = ""
    remarks: tuple[str, ...] = ()


class Target(ABC):
    """Files for one runtime. To add a target, subclass this and add the class to `TARGETS` in flow.py.

    The flow calls `check` and `build`, then `write`, `load` and `operators` for each of `stages`. If the target
    `holds_findings`, the flow calls `write` and `load` again, then `reads_back`. Last, it calls `finish`.

    Args:
        trained: the checkpoint.
        destination: the file, or for some targets the folder, to write.
        options: what to export.

    >>> Target.precisions
    ('float32',)
    """

    name: ClassVar[str]
    purpose: ClassVar[str]  # the runtimes that read the files, for the help of --format
    precisions: ClassVar[tuple[str, ...]] = ("float32",)
    norms: ClassVar[tuple[str, ...]]  # parts of operator names that a folded encoder must not contain
    costly_activations: ClassVar[tuple[str, ...]]
    one_chunking: ClassVar[bool] = False  # the file holds one chunking, which --chunking chooses
    holds_findings: ClassVar[bool] = True  # meta.json holds the results of verification, so the file is written twice
    for_our_runtime: ClassVar[bool] = False  # our runtime reads the file, which can hold the emission delay
    batches: ClassVar[bool] = True  # the runtime steps several streams as one batch
    decoding: ClassVar[DecodingOptions] = DecodingOptions()  # decoding options for measuring error rates

    def __init__(self, trained: TrainedModel, destination: Path, options: ExportOptions):
        self.trained, self.destination, self.precision = trained, destination, options.precision
        self.chunking = options.chunking or trained.config.training.chunking.served()[-1]

    def check(self) -> None:
        """Refuse models that the runtime cannot run, and destinations that hold something else, before any work.

        Raises:
            ValueError: with the reason and a remedy.
        """
        if self.destination.is_dir():
            raise ValueError(f"{self.destination} is a directory: name a file in it")

    @abstractmethod
    def build(self, speech: Sequence[np.ndarray]) -> None:
        """Build the graphs in memory.

        Args:
            speech: utterances (n,) at the model's rate, to calibrate int8; empty for other precisions.

        Raises:
            ImportError: a package is not installed.
            ValueError: the precision does not suit the model, or needs speech.
        """

    def replacing(self) -> AbstractContextManager[Path]:
        """Return a context with a temporary path, which replaces the destination unless the context raises."""
        self.destination.parent.mkdir(parents=True, exist_ok=True)
        return replacing(self.destination)

    def stages(self) -> tuple[str, ...]:
        """Return the precisions to write and verify, in order."""
        return (self.precision,)

    @abstractmethod
    def write(self, path: Path, precision: str, found: Findings | None) -> None:
        """Write the files to a temporary path, with the results of verification if there are any yet."""

    @abstractmethod
    def load(self, path: Path, precision: str, speech: Sequence[Speech]) -> Pair:
        """Load the written files as the runtime does, and the checkpoint, to compare them on generated audio and on
        `speech`.
        """

    @abstractmethod
    def operators(self, path: Path, precision: str, exported: AcousticModel) -> Counter[str]:
        """Count the operators of a step; `exported` is what `load` returned."""

    @abstractmethod
    def metadata(self, found: Findings | None) -> dict[str, Any]:
        """Return the contents of meta.json, or the metadata of a graph."""

    def reads_back(self, exported: AcousticModel, found: Findings) -> bool:
        """Return whether a loaded file has the metadata that was written."""
        return exported.meta == parse_meta(self.metadata(found), str(self.destination))

    def finish(self, path: Path) -> None:  # noqa: B027
        """Write further files, e.g. a vocabulary, before the verified ones at `path` are renamed; by default none."""

    def files(self) -> tuple[Path, ...]:
        """Return the written files, the most important one first."""
        return (self.destination,)

    def command(self) -> str:
        """Return the command that runs the files in another project's runtime; empty for our runtime."""
        return ""

    def remarks(self) -> list[str]:
        """Return the differences between the runtime and the training, a sentence for each."""
        return []

    def reference(self) -> AcousticModel:
        """Return the checkpoint in memory, which the files must equal."""
        return acoustic_model(self.trained)
