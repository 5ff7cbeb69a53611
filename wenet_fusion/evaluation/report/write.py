"""Write a report in the format that the suffix of its file names."""

from pathlib import Path

from wenet_fusion_runtime.files import write_text

from wenet_fusion.evaluation.report.content import Report
from wenet_fusion.evaluation.report.html import page
from wenet_fusion.evaluation.report.markdown import markdown

_WRITERS = {".html": page, ".md": markdown}


def check_report_path(path: Path) -> None:
    """Check the suffix of a report's path.

    Raises:
        ValueError: the suffix is neither .html nor .md.
    """
    if path.suffix not in _WRITERS:
        raise ValueError(f"{path}: a report is a file named *{' or *'.join(_WRITERS)}")


def write_report(report: Report, path: Path) -> None:
    """Write a report to `path`, which is replaced atomically.

    Raises:
        ValueError: the suffix is neither .html nor .md.
        OSError: the file cannot be written.
    """
    check_report_path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, _WRITERS[path.suffix](report))
