"""Draw the histograms of a data list."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from wenet_fusion.evaluation.data_check import round_edges
from wenet_fusion.evaluation.data_report import Distribution
from wenet_fusion.evaluation.plotting import import_pyplot

_BINS = 50


def draw_distributions(distributions: Sequence[Distribution], path: Path) -> None:
    """Draw a histogram for each distribution, side by side in one picture.

    Args:
        distributions: the values to draw.
        path: picture to write.

    Raises:
        ValueError: matplotlib is not installed.
    """
    pyplot = import_pyplot("--png")
    figure, axes = pyplot.subplots(
        1, len(distributions), figsize=(4.6 * len(distributions), 3.4), squeeze=False, layout="constrained"
    )
    for axis, distribution in zip(axes[0], distributions):
        values = distribution.values
        low, middle, high = (float(value) for value in (values.min(), np.median(values), values.max()))
        centred = 0.5 * np.issubdtype(values.dtype, np.integer)  # bars of whole numbers stand above their ticks
        axis.hist(values, bins=round_edges(values, _BINS) - centred, color="#2a6fbb")
        axis.set_yscale("log", nonpositive="clip")  # shows the few longest utterances, which need the most memory
        axis.set_ylim(bottom=0.5)
        axis.yaxis.set_major_formatter("{x:,g}")
        axis.axvline(middle, color="#444444", linewidth=1, linestyle="--")
        axis.set_title(f"{distribution.name}: {low:.3g} to {high:.3g}, median {middle:.3g} (dashed)", fontsize=10)
        axis.set_xlabel(distribution.unit)
        axis.set_ylabel("utterances (logarithmic)")
    figure.savefig(path, dpi=130)
    pyplot.close(figure)
