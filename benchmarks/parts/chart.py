"""Draw the bar chart of the encoder benchmark."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from parts.candidates import CONFORMER, LINEAR, OURS, Candidate
from parts.timing import Timing

sys.path.append(str(Path(__file__).resolve().parents[2] / "tools" / "measure"))  # for the common style of all pictures
from pictures import BLUE, GRID, PALE_BLUE, PALE_INK, load_pyplot

COLOURS = {CONFORMER: PALE_INK, OURS: BLUE, LINEAR: PALE_BLUE}


def draw(panels: Mapping[str, Mapping[str, Timing]], candidates: Sequence[Candidate], path: Path) -> None:
    """Draw a panel for each chunking, with a bar for each candidate. Raises OSError without matplotlib."""
    plt = load_pyplot()
    shown = [candidate for candidate in candidates if candidate.model in COLOURS]
    shown.sort(key=lambda candidate: (candidate.variant.kind, list(COLOURS).index(candidate.model)))
    size = (5.5 * len(panels), 0.28 * len(shown) + 1.2)
    figure, axes = plt.subplots(1, len(panels), figsize=size, sharey=True, squeeze=False)
    for axis, (title, times) in zip(axes[0], panels.items()):
        timings = [times[candidate.name] for candidate in shown]
        medians = [timing.median for timing in timings]
        spread = [[t.median - t.low for t in timings], [t.high - t.median for t in timings]]
        colours = [COLOURS[candidate.model] for candidate in shown]
        axis.barh(range(len(shown)), medians, color=colours, xerr=spread, error_kw={"lw": 0.8, "ecolor": PALE_INK})
        for row, timing in enumerate(timings):
            axis.text(timing.high, row, f" {timing.median:.1f}", va="center", fontsize=8)
        axis.set(title=title, xlabel="ms per step (median, quartiles)", xlim=(0, 1.12 * max(t.high for t in timings)))
        axis.grid(axis="x", color=GRID)
        axis.set_yticks(range(len(shown)), [f"{candidate.variant.name}" for candidate in shown], fontsize=8)
        axis.invert_yaxis()
    handles = [plt.Rectangle((0, 0), 1, 1, color=colour) for colour in COLOURS.values()]
    axes[0][-1].legend(handles, list(COLOURS), loc="lower right")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    plt.close(figure)
