"""Error rates by group of utterances, such as speaker, accent or corpus."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from wenet_fusion.data.lists.kaldi import read_table
from wenet_fusion.evaluation.report.content import (
    Cell,
    ConditionErrors,
    Table,
    insertions_text,
    interval_text,
    percent,
)
from wenet_fusion.scoring.error_rate import LEVEL, Scoring
from wenet_fusion.scoring.transcripts import counted


def read_groups(path: Path, keys: Sequence[str]) -> dict[str, str]:
    """Read lines "key group", such as Kaldi's utt2spk.

    Args:
        path: the file; it may have further keys.
        keys: utterances that need a group.
    Raises:
        OSError: the file cannot be read.
        ValueError: a key is missing in the file or occurs twice.
    """
    groups = read_table(path)
    if missing := [key for key in keys if not groups.get(key)]:
        raise ValueError(
            f"{path}: {len(missing)} of {len(keys)} utterances have no group, such as {missing[0]}; add lines 'key "
            "group'"
        )
    return groups


def group_table(conditions: Sequence[ConditionErrors], groups: Mapping[str, str], noun: str = "words") -> Table:
    """Return error rates, or insertions if a group has no reference words: a row per condition, a column per group.

    Args:
        conditions: conditions of an evaluation.
        groups: name of the group of each utterance, by key.
        noun: name of the unit of the errors, see `Counting.noun`.
    """
    utterances = conditions[0].scoring.utterances
    names = sorted({groups[utterance.key] for utterance in utterances})
    rows = []
    for condition in conditions:
        parts = [_part(condition.scoring, groups, name) for name in names]
        rows.append((Cell(condition.name), *(_cell(part, noun) for part in parts)))
    sizes = [_part(conditions[0].scoring, groups, name).total.reference for name in names]
    header = ("error rate, %", *(f"{name} ({counted(size, noun)})" for name, size in zip(names, sizes)))
    explanation = f"Each rate has its {100 * LEVEL:.0f} % confidence interval, by bootstrap over utterances."
    if 0 in sizes:
        explanation += " A group whose references are all empty has no rate; its insertions are counted."
    return Table("Error rates by group", header, tuple(rows), explanation)


def _cell(part: Scoring, noun: str) -> Cell:
    if part.total.reference:
        return Cell(percent(part.total.rate), interval_text(part.interval()))
    return Cell(insertions_text(part.total, noun))


def _part(scoring: Scoring, groups: Mapping[str, str], name: str) -> Scoring:
    return scoring.part(key for key in groups if groups[key] == name)
