"""Check the outputs of a model's graphs against its metadata, and name the file in the errors.

Shapes: B rows, T encoder frames, D encoder width, K best tokens of a frame, H hypotheses.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from wenet_fusion_runtime.console import is_out_of_memory, visible
from wenet_fusion_runtime.model.metadata import KINDS, Meta

MEMORY = "the model in memory"  # named in messages as the source of a model that was not loaded from a file
_REASON = 200  # characters of a backend's message
_IN_SCRIPT = "The following operation failed in the TorchScript interpreter."  # torch's last line names the cause


class ModelFault(ValueError):
    """The model does not run as its metadata promise; the audio, the options and the client are not the cause.

    >>> str(ModelFault("final.zip: the model's output is not a number; use another"))
    "final.zip: the model's output is not a number; use another"
    """


class Mismatch(Exception):
    """An output of a model differs from what its metadata promise; `Conformance.calling` makes it a `ModelFault`.

    Args:
        what: name of the output.
        found: what the model returned.
        expected: what the metadata promise.

    >>> str(Mismatch("encoder_out", (1, 16), (1, 4)))
    'encoder_out is (1, 16), expected (1, 4)'
    """

    def __init__(self, what: str, found: object, expected: object) -> None:
        super().__init__(f"{what} is {found}, expected {expected}")


class Conformance:
    """Checks the outputs of one model.

    Args:
        meta: metadata of the model.
        source: the exported file; None for a module in memory, whose exceptions are not converted.

    >>> judge = Conformance(meta=None, source="final.zip")
    >>> with judge.calling():
    ...     raise RuntimeError("the input tensor cannot be reshaped")
    Traceback (most recent call last):
    wenet_fusion_runtime.model.conformance.ModelFault: final.zip: the model does not run as its meta.json describes \
it (the input tensor cannot be reshaped); export the model again
    """

    def __init__(self, meta: Meta, source: str | None) -> None:
        self._meta, self._source = meta, source

    @contextmanager
    def calling(self) -> Iterator[None]:
        """Turn exceptions of the model's graphs, and each `Mismatch`, into a `ModelFault` that names the file.

        Exceptions that the file does not cause pass unchanged: a ValueError (a wrong argument), an ImportError (a
        missing package), and a lack of memory.
        """
        try:
            yield
        except Exception as error:  # torch's and onnxruntime's errors have no common base class
            is_mismatch = isinstance(error, Mismatch)
            is_not_from_file = isinstance(error, (ValueError, ImportError)) or is_out_of_memory(error)
            if not is_mismatch and (self._source is None or is_not_from_file):
                raise
            is_own = self._meta is None or self._meta.kind in KINDS
            contract = "as its meta.json describes it" if is_own else "as WeNet's runtimes run it"
            name, reason = self._source or MEMORY, _reason(error)
            raise ModelFault(f"{name}: the model does not run {contract} ({reason}); export the model again") from error

    def check_step(self, scores: Sequence[np.ndarray], samples: int, ends: np.ndarray) -> None:
        """Check the scores of one block.

        Args:
            scores: the fields of `StepScores`.
            samples: number of samples of the block, a multiple of `frame_samples`.
            ends: (B,) number of valid samples of each row.
        Raises:
            Mismatch: a type, a shape, a number of frames or a token is not what the metadata promise.
            ModelFault: the scores of a valid frame are not a number.
        """
        encoder_out, lengths, log_probs, ids, blank = scores
        rows, frames = len(ends), samples // self._meta.frame_samples
        tops, size = ids.shape[-1] if ids.ndim == 3 else 1, len(self._meta.vocabulary)
        width = encoder_out.shape[-1] if encoder_out.ndim == 3 else 1
        for name, array, kind, shape in (
            ("encoder_out", encoder_out, "float", (rows, frames, width)),
            ("lengths", lengths, "int", (rows,)),
            ("log_probs", log_probs, "float", (rows, frames, tops)),
            ("ids", ids, "int", (rows, frames, tops)),
            ("blank", blank, "float", (rows, frames)),
        ):
            _check_array(name, array, kind, shape)
        expected = -(-ends // self._meta.frame_samples)
        if (lengths != expected).any():
            raise Mismatch("lengths", lengths.tolist(), expected.tolist())
        if not 1 <= tops <= size or ids.min() < 0 or ids.max() >= size:
            raise Mismatch("ids", f"{ids.min(initial=0)} to {ids.max(initial=0)}", f"tokens of the {size} units")
        wrong = np.isnan(blank) | np.isnan(log_probs).any(2)
        if wrong.any() and wrong[np.arange(frames) < lengths[:, None]].any():
            raise self._not_a_number()

    def check_rescoring(self, scores: np.ndarray, hypotheses: int) -> None:
        """Check the decoders' scores (H, 2); see `check_step`."""
        _check_array("scores", scores, "float", (hypotheses, 2))
        if np.isnan(scores).any():
            raise self._not_a_number()

    def _not_a_number(self) -> ModelFault:
        return ModelFault(
            f"{self._source or MEMORY}: the model's output is not a number: its training diverged, or the file is "
            "damaged; use another"
        )


def check_state(after: Sequence[np.ndarray], before: Sequence[np.ndarray]) -> None:
    """Check that a step has kept the types and shapes of the state.

    Raises:
        Mismatch: a type or a shape differs.
    """
    for index, (new, old) in enumerate(zip(after, before)):
        if new.dtype != old.dtype or new.shape != old.shape:
            raise Mismatch(f"state_{index}", f"{new.dtype} {new.shape}", f"{old.dtype} {old.shape}")


def _check_array(name: str, array: np.ndarray, kind: str, shape: tuple[int, ...]) -> None:
    if array.shape != shape or array.dtype.kind != kind[0]:
        raise Mismatch(name, f"{array.dtype} {array.shape}", f"{kind} {shape}")


def _reason(error: Exception) -> str:
    """Return the line of an exception's message that names the cause."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return visible(lines[-1 if lines[0] == _IN_SCRIPT else 0], _REASON)
