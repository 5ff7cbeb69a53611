"""Decides whether an exported file is kept: no norm is left, it equals the checkpoint, int8 costs little. Knows no format."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Optional

from wenet_fusion_runtime.model.acoustic_model import AcousticModel
from wenet_fusion_runtime.stream.decoding_options import DecodingOptions

from wenet_fusion.export.speech import ErrorChange, Speech, halves, measure_errors
from wenet_fusion.export.verification import Verification, tolerance, verify
from wenet_fusion.model.operators import matching
from wenet_fusion.trained_model import TrainedModel

MAX_VERIFIED = 8  # utterances that are compared frame by frame


class ExportOptions(NamedTuple):
    precision: str = "float32"
    max_wer_increase: float = 0.005  # what int8 may cost, as a fraction of the words of the speech it is judged by


class Accepted(NamedTuple):
    """What was found out about a file that may be kept."""

    verification: Verification
    errors: Optional[ErrorChange]  # of int8, if there was speech to judge it by

    def summary(self) -> dict[str, Any]:
        """As it stands in meta.json."""
        found = self.verification.summary()
        return found if self.errors is None else {**found, "errors": self.errors.summary()}


def refuse_operators(counts: Mapping[str, int], patterns: Sequence[str], trained: TrainedModel, path: Path) -> None:
    """Raises ValueError if a step runs operators that no fused encoder has; comparisons that cannot be fused may."""
    left = matching(counts, patterns)
    if left and trained.config.model.encoder.fusible:
        raise ValueError(
            f"{path} is not kept: its step still runs {left}; every norm must be in a LinearNorm or ConvNorm"
        )


def accept(
    path: Path,
    reference: AcousticModel,
    written: AcousticModel,
    speech: Sequence[Speech],
    options: ExportOptions,
    decoding: DecodingOptions = DecodingOptions(),
    batches: bool = True,
) -> Accepted:
    """Compares a file with its checkpoint on generated audio and on `speech`, and judges int8 by the latter.

    Args:
        path: names the file in messages.
        reference: the checkpoint in memory.
        written: what was written, as its runtime runs it.
        speech: may be empty.
        decoding: how the error rates of int8 are measured.
        batches: see `verify`.

    Raises:
        ValueError: if it differs by more than its precision explains, or costs more than the options allow.
    """
    samples = [utterance.samples for utterance in speech[:MAX_VERIFIED]]
    verification = verify(reference, written, samples, tolerance(options.precision), batches)
    verification.raise_if_different(path)
    if not (speech and options.precision.startswith("int8")):
        return Accepted(verification, None)
    _, judged = halves(speech, options.precision)
    errors = measure_errors(reference, written, judged, decoding)
    errors.raise_above(options.max_wer_increase, path)
    return Accepted(verification, errors)
