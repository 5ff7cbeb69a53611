"""Draw the histograms of a data list."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from wenet_fusion.data.data_report import Distribution


def draw_distributions(distributions: Sequence[Distribution], path: Path) -> None:
    """Draw one histogram per property.

    Args:
        distributions: the properties.
        path: the picture to write.

    Raises:
        ValueError: matplotlib is not installed.
    """
    try:
        import matplotlib
    except ImportError:
        raise ValueError("drawing needs matplotlib: pip install matplotlib, or leave out --png") from None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(
        1, len(distributions), figsize=(4.6 * len(distributions), 3.4), squeeze=False, layout="constrained"
    )
    for axis, distribution in zip(axes[0], distributions):
        axis.hist(distribution.values, bins=50, color="#2a6fbb")
        axis.set_title(distribution.name, fontsize=10)
        axis.set_xlabel(distribution.unit)
        axis.set_ylabel("utterances")
    figure.savefig(path, dpi=130)
    pyplot.close(figure)
