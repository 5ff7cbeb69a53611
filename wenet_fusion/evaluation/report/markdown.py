"""Reports and tables as Markdown."""

from collections.abc import Sequence

from wenet_fusion_runtime.files import list_problems
from wenet_fusion_runtime.results.display_width import display_width

from wenet_fusion.evaluation.report.content import (
    COMMONEST,
    Cell,
    Gap,
    Report,
    ShownUtterance,
    Table,
    detail_tables,
    error_kind,
    error_text,
    rate_table,
    worst_utterances,
)
from wenet_fusion.scoring.error_rate import pad

_LINE_WIDTH = 100  # width of lines of aligned words, in columns


def markdown(report: Report) -> str:
    """Return a report as Markdown, with the worst utterances of the best condition."""
    lines = [f"# {report.title}", "", report.about, ""]
    for table in (rate_table(report), *detail_tables(report)):
        lines += [f"## {table.title}", "", *table_lines(table), ""]
    best = report.best
    lines += [f"## Worst utterances of {best.name}" if len(report.conditions) > 1 else "## Worst utterances", ""]
    errors = [f"{error_text(pair)} ({count})" for pair, count in best.scoring.commonest(COMMONEST)]
    lines += [f"Most frequent errors: {', '.join(errors)}." if errors else "No utterance is wrong.", ""]
    for utterance in worst_utterances(best):
        lines += ["```", f"{utterance.key}: {utterance.counts.summary()}", *_aligned_lines(utterance), "```"]
    if report.problems:
        lines += ["", f"## Problems: {len(report.problems)}", "", "```", list_problems(report.problems), "```"]
    lines += ["", "## How", "", *(f"- {fact.name}: {fact.value}" for fact in report.facts)]
    return "\n".join(lines) + "\n"


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    r"""Return a Markdown table without a final newline: the first column names the rows, the others are numbers.

    >>> print(markdown_table(["search", "WER"], [["greedy|fast", "1.50"]]))
    | search | WER |
    |---|--:|
    | greedy\|fast | 1.50 |
    """
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |" for cells in (header, *rows)]
    return "\n".join([lines[0], "|---|" + "--:|" * (len(header) - 1), *lines[1:]])


def table_lines(table: Table) -> list[str]:
    """Return the lines of a table, followed by its explanation."""
    lines = markdown_table(table.header, [list(map(_cell, row)) for row in table.rows]).splitlines()
    return [*lines, "", table.explanation] if table.explanation else lines


def _cell(cell: Cell) -> str:
    text = f"**{cell.text}**" if cell.strong else cell.text
    return f"{text} ({cell.note})" if cell.note else text


def _aligned_lines(utterance: ShownUtterance) -> list[str]:
    """Return the reference above the hypothesis, with errors marked below, wrapped to lines of bounded width."""
    marks = {"": "", "substituted": "S", "deleted": "D", "inserted": "I"}
    columns = []
    for piece in utterance.pieces:
        if isinstance(piece, Gap):
            columns.append((f"... {piece.words} ...", "", ""))
        else:
            columns.append((piece.reference or "", piece.hypothesis or "", marks[error_kind(piece)]))
    lines: list[str] = []
    while columns:
        used = taken = 0
        while taken < len(columns) and (not taken or used + max(map(display_width, columns[taken])) < _LINE_WIDTH):
            used += max(map(display_width, columns[taken])) + 1
            taken += 1
        widths = [max(map(display_width, column)) for column in columns[:taken]]
        for name, row in zip(("lab: ", "rec: ", "     "), zip(*columns[:taken])):
            lines.append(f"{name}{' '.join(map(pad, row, widths))}".rstrip())
        columns = columns[taken:]
    return lines
