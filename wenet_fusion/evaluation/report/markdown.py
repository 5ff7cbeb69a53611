"""A report as Markdown. Computes nothing."""

from wenet_fusion_runtime.files import list_problems

from wenet_fusion.evaluation.report.content import (
    COMMONEST,
    Aligned,
    Cell,
    Gap,
    Report,
    Table,
    count_table,
    deletion_table,
    error_kind,
    error_text,
    rate_table,
    worst_utterances,
)
from wenet_fusion.text.error_rate import display_width, pad

_LINE_WIDTH = 100  # of aligned words


def markdown(report: Report) -> str:
    """The whole report; of the worst utterances those of the best condition."""
    lines = [f"# {report.title}", "", report.about, ""]
    for table in (rate_table(report), count_table(report), deletion_table(report), report.streams):
        if table is not None:
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


def table_lines(table: Table) -> list[str]:
    rule = "|---|" + "--:|" * (len(table.header) - 1)
    lines = ["| " + " | ".join(map(_escaped, table.header)) + " |", rule]
    lines += ["| " + " | ".join(map(_cell, row)) + " |" for row in table.rows]
    return [*lines, "", table.explanation] if table.explanation else lines


def _cell(cell: Cell) -> str:
    text = _escaped(cell.text)
    text = f"**{text}**" if cell.strong else text
    return f"{text} ({_escaped(cell.note)})" if cell.note else text


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")


def _aligned_lines(utterance: Aligned) -> list[str]:
    """References above hypotheses, errors marked below, in lines of bounded width."""
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
