"""Import matplotlib, which is optional, to draw pictures into files."""

from types import ModuleType


def import_pyplot(option: str) -> ModuleType:
    """Return matplotlib.pyplot for writing files, without a display.

    Args:
        option: the option that names the picture, for the message.

    Raises:
        ValueError: matplotlib is not installed.
    """
    try:
        import matplotlib
    except ImportError:
        raise ValueError(f"drawing needs matplotlib: pip install matplotlib, or leave out {option}") from None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot
