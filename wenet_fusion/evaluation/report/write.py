"""Writes a report in the format that its file's name asks for."""

from pathlib import Path

from wenet_fusion_runtime.files import write_text

from wenet_fusion.evaluation.report.content import Report
from wenet_fusion.evaluation.report.html import page
from wenet_fusion.evaluation.report.markdown import markdown

_WRITERS = {".html": page, ".md": markdown}


def check_report_path(path: Path) -> None:
    """Raises ValueError if the name ends in nothing that a report can be."""
    if path.suffix not in _WRITERS:
        raise ValueError(f"{path}: a report is a file named *{' or *'.join(_WRITERS)}")


def write_report(report: Report, path: Path) -> None:
    """Replaces `path`. Raises ValueError as `check_report_path`, and OSError."""
    check_report_path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, _WRITERS[path.suffix](report))
