"""Load matplotlib and set the common style of all pictures."""

from types import ModuleType

INK, PALE_INK, GRID = "#1f3347", "#5b6b7f", "#dbe2e9"
BLUE, PALE_BLUE, YELLOW, RED = "#33658a", "#8fc1e3", "#f0a202", "#d9542b"


def load_pyplot() -> ModuleType:
    """Return matplotlib.pyplot for writing files, without a display. Raises OSError if matplotlib is not installed."""
    try:
        import matplotlib
    except ImportError as error:
        raise OSError("pictures need matplotlib; run: pip install -c constraints.txt -e '.[recipes]'") from error
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.rcParams.update(
        {
            "figure.dpi": 150,
            "figure.constrained_layout.use": True,
            "axes.edgecolor": PALE_INK,
            "axes.labelcolor": INK,
            "axes.spines.right": False,
            "axes.spines.top": False,
            "axes.axisbelow": True,
            "axes.titleweight": "bold",
            "axes.titlesize": 11,
            "grid.color": GRID,
            "legend.frameon": False,
            "legend.fontsize": 9,
            "text.color": INK,
            "xtick.color": PALE_INK,
            "ytick.color": PALE_INK,
        }
    )
    return plt
