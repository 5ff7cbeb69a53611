"""Inspect a model: which input frames influence which outputs, latency, operators."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from wenet_fusion_runtime.model.acoustic_model import AcousticModel

from wenet_fusion.evaluation.plotting import import_pyplot
from wenet_fusion.model.chunking import Chunking, chunking_label
from wenet_fusion.model.operators import COSTLY_ACTIVATIONS, NORM_OPERATORS, matching
from wenet_fusion.trained_model import latency

# An input frame influences an output if changing the frame changes the output by more than this share of the largest
# value; rounding changes it by less.
RELATIVE_THRESHOLD = 1e-5
GROUP_ATTENTION = 1 << 22  # most attention weights in a batch, per head and layer


@dataclass(frozen=True)
class Influence:
    """Which input frames influence which output frames.

    >>> Influence(Chunking(2, 0), np.array([[True, True], [False, True]])).context()
    (1, 0)
    """

    chunking: Chunking
    reaches_TT: np.ndarray  # bool; [i, t]: input frame i (its samples) influences output frame t

    def context(self) -> tuple[int, int]:
        """Return the largest number of frames that an output looks back, and the largest that it looks ahead."""
        inputs, outputs = np.nonzero(self.reaches_TT)
        return int((outputs - inputs).max()), int((inputs - outputs).max())


def influence(model: AcousticModel, chunking: Chunking, frames: int) -> Influence:
    """Measure which input frames influence which outputs, by changing inputs and comparing outputs.

    All rows of a batch hold the same noise, but in each row except the last a different frame is replaced. Outputs that
    differ from those of the last row depend on the replaced frame. This requires that a row's outputs do not depend on
    the other rows, which tests check. Batches are small, so that memory grows at most with the square of `frames`.

    Args:
        model: any model.
        chunking: chunk size and left context.
        frames: T, number of encoder frames.

    Raises:
        ValueError: `frames` is less than 1, or the model is int8, whose rounding hides small influences.
    """
    if frames < 1:
        raise ValueError(f"the number of frames to measure must be at least 1, found {frames}")
    if model.meta.precision.startswith("int8"):
        raise ValueError(
            f"influence cannot be measured in {model.meta.precision}: inspect the checkpoint, or a float32 export"
        )
    rng = np.random.default_rng(0)
    samples_per_frame = model.meta.frame_samples
    noise = 0.1 * rng.standard_normal(frames * samples_per_frame).astype(np.float32)
    group = max(1, GROUP_ATTENTION // frames**2)
    reaches = []
    for start in range(0, frames, group):
        replaced = range(start, min(start + group, frames))
        rows = np.repeat(noise[None], len(replaced) + 1, axis=0)
        for row, i in enumerate(replaced):
            rows[row, i * samples_per_frame : (i + 1) * samples_per_frame] = 0.1 * rng.standard_normal(
                samples_per_frame
            )
        state = model.init_state(len(rows), chunking.size, chunking.left)
        scores, _ = model.step(rows, [len(noise)] * len(rows), chunking.size, chunking.left, state)
        out = scores.encoder_out
        reaches.append(np.abs(out[:-1] - out[-1]).max(axis=2) > RELATIVE_THRESHOLD * np.abs(out[-1]).max())
    return Influence(chunking, np.concatenate(reaches))


def describe(model: AcousticModel, operators: dict[str, int], chunkings: list[Chunking], frames: int) -> str:
    """Return a text about a model: sample rate, frame, operators, and the latency and context of each chunking.

    Args:
        model: any model.
        operators: number of each operator in the model's step.
        chunkings: chunkings whose context is measured.
        frames: number of encoder frames for the measurement.
    """
    meta = model.meta
    frame_ms = 1000 * meta.frame_seconds
    norms, activations = matching(operators, NORM_OPERATORS), matching(operators, COSTLY_ACTIVATIONS)
    lines = [
        f"sample rate {meta.sample_rate} Hz, encoder frame {frame_ms:.0f} ms, {len(meta.vocabulary.tokens)} tokens, "
        f"precision {meta.precision}",
        f"operators in the step: {sum(operators.values())}, normalisation: {norms or 'none'}, sigmoid/SiLU/GLU/tanh: "
        f"{activations or 'none'}",
    ]
    if chunkings:
        lines += ["", f"context measured on {frames} frames of noise:"]
        lines.append(f"{'chunking':>9} {'latency: longest, mean':>24} {'sees back':>12} {'sees ahead':>12}")
    for chunking in chunkings:
        back, ahead = influence(model, chunking, frames).context()
        # An unlimited chunk ends with the audio, so it has no fixed latency.
        unlimited = chunking.size > frames
        wait = latency(meta.frame_seconds, chunking)
        waits = "whole utterance" if unlimited else f"{wait['longest_wait_ms']:.0f} ms, {wait['mean_wait_ms']:.0f} ms"
        sees = [_reach(context, frames, frame_ms) for context in (back, ahead)]
        lines.append(f"{chunking_label(chunking):>9} {waits:>24} {sees[0]:>12} {sees[1]:>12}")
    return "\n".join(lines)


def _reach(context: int, frames: int, frame_ms: float) -> str:
    """Return a context as text, marked with >= if it spans all measured frames and may be longer."""
    return f"{'>= ' if context == frames - 1 else ''}{context * frame_ms:.0f} ms"


def draw_influence(influences: list[Influence], frame_seconds: float, path: Path) -> None:
    """Draw a panel for each chunking: columns are outputs, rows are inputs, filled where the input has an influence.

    Args:
        influences: one per chunking.
        frame_seconds: duration of an encoder frame.
        path: picture to write.

    Raises:
        ValueError: matplotlib is not installed.
    """
    pyplot = import_pyplot("--output")
    from matplotlib.colors import ListedColormap

    colours = ListedColormap(["white", "#2a6fbb"])
    figure, axes = pyplot.subplots(
        1, len(influences), figsize=(4.6 * len(influences), 4.9), squeeze=False, layout="constrained"
    )
    for axis, measured in zip(axes[0], influences):
        frames = len(measured.reaches_TT)
        axis.imshow(measured.reaches_TT, cmap=colours, interpolation="nearest", vmin=0, vmax=1)
        axis.plot([-0.5, frames - 0.5], [-0.5, frames - 0.5], color="#d1495b", linewidth=1.2, label="now")
        for edge in range(measured.chunking.size, frames, measured.chunking.size):
            axis.axvline(edge - 0.5, color="0.75", linewidth=0.8)
            axis.axhline(edge - 0.5, color="0.75", linewidth=0.8)
        back, ahead = measured.context()
        axis.set_title(f"chunking {chunking_label(measured.chunking)}: {back} frames back, {ahead} ahead", fontsize=10)
        axis.set_xlabel(f"output frame ({1000 * frame_seconds:.0f} ms each)")
        axis.set_ylabel("input frame that reaches it")
        axis.legend(loc="upper right", frameon=True, fontsize=8)
    figure.savefig(path, dpi=130)
    pyplot.close(figure)
