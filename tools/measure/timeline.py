"""Draw when each word of a recording was spoken, and when it was displayed."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from pictures import GRID, INK, PALE_BLUE, PALE_INK, RED, load_pyplot
from wenet_fusion_runtime import Word


class Timeline(NamedTuple):
    """The words of one recording; `shown`: from when each spoken word stays displayed, None if it is not recognised."""

    key: str
    spoken: tuple[Word, ...]
    shown: tuple[float | None, ...]


def draw_timeline(
    line: Timeline, samples: np.ndarray, sample_rate: int, chunk_seconds: float, chunking: str, path: Path
) -> None:
    """Write a picture of the waveform with its words, and below it a row for each word, from its start to its display.

    Raises:
        OSError: matplotlib is missing, or the picture cannot be written.
    """
    plt = load_pyplot()
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    seconds = len(samples) / sample_rate
    grid = np.arange(0, seconds + chunk_seconds, chunk_seconds)
    count = len(line.spoken)
    figure, (wave, rows) = plt.subplots(
        2, 1, sharex=True, figsize=(11, 2.6 + 0.36 * count),
        gridspec_kw={"height_ratios": [1.7, 0.36 * count + 0.5], "hspace": 0.02},
    )  # fmt: skip
    for axes in (wave, rows):
        for number, start in enumerate(grid[:-1]):
            axes.axvspan(start, start + chunk_seconds, color="#f2f5f8" if number % 2 else "white", lw=0, zorder=0)
        axes.vlines(grid, 0, 1, transform=axes.get_xaxis_transform(), color=GRID, lw=1.0, zorder=0.5)
        axes.spines["left"].set_visible(False)
        axes.set_yticks([])

    peak = float(np.abs(samples).max(initial=1e-6))
    wave.plot(np.arange(len(samples)) / sample_rate, samples / peak, color=PALE_INK, lw=0.5, zorder=3)
    wave.set_ylim(-1.1, 1.55)
    wave.tick_params(bottom=False)
    wave.spines["bottom"].set_visible(False)
    ended_at = None
    for row, (word, shown) in enumerate(zip(line.spoken, line.shown)):
        wave.axvspan(
            word.start_seconds, word.end_seconds, ymin=0.02, ymax=0.8, color=PALE_BLUE, alpha=0.45, lw=0, zorder=2
        )
        wave.text(
            (word.start_seconds + word.end_seconds) / 2, 1.2, word.text, ha="center", va="center", fontsize=9, color=INK
        )
        rows.barh(
            row, word.end_seconds - word.start_seconds, left=word.start_seconds, height=0.56, color=PALE_BLUE, zorder=2
        )
        if shown is None:
            rows.text(
                word.end_seconds + 0.04, row, "not recognised", va="center", fontsize=8.5, color=RED, weight="bold"
            )
            continue
        at_end = shown >= seconds
        ended_at = seconds if at_end else ended_at
        rows.plot([word.end_seconds, shown], [row, row], color=RED, lw=1.4, zorder=2.5)
        face = "white" if at_end else RED
        rows.plot(shown, row, "o", ms=7, color=RED, mfc=face, mew=1.6, zorder=4, clip_on=False)
        rows.annotate(
            f"{word.text}  {shown - word.end_seconds:+.2f} s", (max(shown, word.end_seconds), row),
            xytext=(8, 0), textcoords="offset points", va="center", fontsize=8.5, color=INK,
        )  # fmt: skip
    rows.set_ylim(count - 0.4, -0.6)
    rows.set_xlim(0, grid[-1] + 0.12 * grid[-1])
    rows.set_xlabel("seconds of audio")
    handles = [
        Patch(color=PALE_BLUE, label="spoken"),
        Line2D(
            [], [], color=RED, marker="o", ms=7, lw=1.4, label="final on the display (seconds after the word's end)"
        ),
    ]
    if ended_at is not None:
        hollow = Line2D([], [], ls="", color=RED, marker="o", mfc="white", mew=1.6, ms=7, label="shown at the end")
        handles.append(hollow)
    handles.append(Line2D([], [], color=GRID, lw=1.2, label="end of a chunk"))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    wave.set_title(f"{line.key}: spoken and shown, chunks of {chunk_seconds:.2f} s ({chunking})", loc="left")
    figure.savefig(path)
    plt.close(figure)
