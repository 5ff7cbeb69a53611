"""Score the results of an evaluation, write them to files, and read them back.

A result folder holds `results.json` (settings and the table), `utterances.jsonl` (every utterance in every condition),
`report.html`, `report.md` and, for each condition, a folder with `text`, `tokens` (ids) and `wer` (aligned in the
format of WeNet's compute-wer).
"""

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from wenet_fusion_runtime.files import parse_json, read_lines, write_text

from wenet_fusion.evaluation.options import PLAIN
from wenet_fusion.evaluation.report.content import ConditionErrors, Fact, Report, Table, report_title
from wenet_fusion.evaluation.report.write import write_report
from wenet_fusion.scoring.emission_delays import DelayPercentiles
from wenet_fusion.scoring.error_rate import Interval, Scoring, score
from wenet_fusion.scoring.transcripts import Counting, counted

_RESULTS, _UTTERANCES = "results.json", "utterances.jsonl"


class Found(NamedTuple):
    """Tokens and texts of all utterances under one condition."""

    mode: str
    variant: str
    chunking: str  # label
    tokens: dict[str, list[int]]  # ids by key
    texts: dict[str, str]  # by key
    encoder_seconds: float  # computing time of the encoder
    search_seconds: float  # computing time of the search
    delay: DelayPercentiles | None = None  # emission delay of words; None: not measured


@dataclass(frozen=True)
class Evaluation:
    """References and hypotheses of an evaluation, and facts about the run.

    `references` and the texts of every condition have the same keys, in the order of the list.

    >>> found = [Found("ctc_greedy_search", PLAIN, "full", {"u": [3]}, {"u": "one"}, 0.25, 0.25)]
    >>> evaluation = Evaluation("avg.pt", "data.list", Counting(), 1.0, {"u": "one two"}, found, [], [])
    >>> [(item.row.wer, item.row.real_time_factor) for item in scored(evaluation)]
    [(0.5, 0.5)]
    """

    checkpoint: str
    data: str
    counting: Counting
    audio_seconds: float
    references: dict[str, str]
    found: list[Found]
    skipped: list[str]  # unusable utterances with their reasons
    facts: list[Fact]  # settings, commit, hardware


@dataclass(frozen=True)
class LengthRow:
    """Deletions in references of `shortest` to `longest` words.

    >>> LengthRow(shortest=2, longest=3, utterances=10, words=25, deletions=1).deletions
    1
    """

    shortest: int
    longest: int
    utterances: int
    words: int
    deletions: int


@dataclass(frozen=True)
class Row:
    """One row of the result table, in the form that results.json stores.

    >>> [field.name for field in dataclasses.fields(Row)][:4]
    ['mode', 'variant', 'chunking', 'wer']
    """

    mode: str
    variant: str
    chunking: str
    wer: float | None  # error rate as a fraction, in the unit of `Counting`; None: there are no reference words
    interval: Interval | None  # 95 % confidence interval
    insertions_per_hour: float | None  # words inserted per hour of audio; None: there are reference words
    substitutions: int
    deletions: int
    insertions: int
    words: int
    utterances: int
    utterances_wrong: int
    utterances_empty: int  # utterances with reference words but no text, e.g. rejected by a grammar
    deletions_by_length: list[LengthRow]
    encoder_seconds: float
    search_seconds: float
    real_time_factor: float
    emission_delay_ms: DelayPercentiles | None = None


class Scored(NamedTuple):
    """A condition with its errors and its row of the result table."""

    found: Found
    scoring: Scoring
    row: Row


def scored(evaluation: Evaluation) -> list[Scored]:
    """Score every condition against the references."""
    result = []
    for found in evaluation.found:
        scoring = score(evaluation.references, found.texts, evaluation.counting)
        total, seconds = scoring.total, found.encoder_seconds + found.search_seconds
        row = Row(
            mode=found.mode,
            variant=found.variant,
            chunking=found.chunking,
            wer=total.rate if total.reference else None,
            interval=scoring.interval(),
            insertions_per_hour=scoring.insertions_per_hour(evaluation.audio_seconds),
            substitutions=total.substitutions,
            deletions=total.deletions,
            insertions=total.insertions,
            words=total.reference,
            utterances=len(scoring.utterances),
            utterances_wrong=scoring.utterances_wrong,
            utterances_empty=scoring.utterances_empty,
            deletions_by_length=[
                LengthRow(shortest, longest, utterances, counts.reference, counts.deletions)
                for shortest, longest, utterances, counts in scoring.by_length()
            ],
            encoder_seconds=found.encoder_seconds,
            search_seconds=found.search_seconds,
            real_time_factor=seconds / evaluation.audio_seconds,
            emission_delay_ms=found.delay,
        )
        result.append(Scored(found, scoring, row))
    return result


def write_results(evaluation: Evaluation, conditions: list[Scored], result_dir: Path) -> None:
    """Write results.json, utterances.jsonl and the folder of each condition; each file is replaced atomically."""
    for found, scoring, _ in conditions:
        directory = result_dir / condition_folder(found.mode, found.chunking, found.variant)
        directory.mkdir(parents=True, exist_ok=True)
        write_text(directory / "text", "".join(f"{key} {text}".rstrip() + "\n" for key, text in found.texts.items()))
        write_text(
            directory / "tokens", "".join(" ".join([key, *map(str, ids)]) + "\n" for key, ids in found.tokens.items())
        )
        report = scoring.report(noun=evaluation.counting.noun, seconds=evaluation.audio_seconds)
        write_text(directory / "wer", report)
    write_text(result_dir / _UTTERANCES, "".join(_utterance_lines(evaluation, conditions)))
    content = {
        "checkpoint": evaluation.checkpoint,
        "data": evaluation.data,
        "counting": dataclasses.asdict(evaluation.counting),
        "audio_seconds": evaluation.audio_seconds,
        "facts": {fact.name: fact.value for fact in evaluation.facts},
        "rows": [_record(condition.row) for condition in conditions],
        "skipped": evaluation.skipped,
    }
    write_text(result_dir / _RESULTS, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def _record(row: Row) -> dict[str, Any]:
    delay = row.emission_delay_ms
    return dataclasses.asdict(row) | {"emission_delay_ms": None if delay is None else delay._asdict()}


def condition_folder(mode: str, chunking: str, variant: str = PLAIN) -> str:
    """Return the name of a condition's folder."""
    name = f"{mode}.{chunking.replace('/', '-')}"
    return name if variant == PLAIN else f"{name}.{variant.replace(' ', '_')}"


def _utterance_lines(evaluation: Evaluation, conditions: list[Scored]) -> Iterator[str]:
    for found, scoring, _ in conditions:
        for key, _, counts in scoring.utterances:
            record = {
                "key": key, "mode": found.mode, "variant": found.variant, "chunking": found.chunking,
                "reference": evaluation.references[key], "hypothesis": found.texts[key], "tokens": found.tokens[key],
                "errors": counts.errors, "substitutions": counts.substitutions, "deletions": counts.deletions,
                "insertions": counts.insertions, "words": counts.reference,
            }  # fmt: skip
            yield json.dumps(record, ensure_ascii=False) + "\n"


def read_results(result_dir: Path) -> Evaluation:
    """Read the results that `write_results` wrote.

    Raises:
        OSError: the folder holds no results.
        ValueError: the results are damaged.
    """
    try:
        content = parse_json((result_dir / _RESULTS).read_text(encoding="utf-8"))
        references: dict[str, str] = {}
        found = {
            (row["mode"], row["variant"], row["chunking"]): Found(
                row["mode"],
                row["variant"],
                row["chunking"],
                {},
                {},
                row["encoder_seconds"],
                row["search_seconds"],
                DelayPercentiles(**delay) if (delay := row.get("emission_delay_ms")) else None,
            )
            for row in content["rows"]
        }
        for line in map(parse_json, read_lines(result_dir / _UTTERANCES)):
            condition = found[line["mode"], line["variant"], line["chunking"]]
            references[line["key"]] = line["reference"]
            condition.texts[line["key"]], condition.tokens[line["key"]] = line["hypothesis"], line["tokens"]
        facts = [Fact(name, value) for name, value in content["facts"].items()]
        return Evaluation(
            content["checkpoint"], content["data"], Counting(**content["counting"]), content["audio_seconds"],
            references, list(found.values()), content["skipped"], facts,
        )  # fmt: skip
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{result_dir}: its results are damaged ({error!r}); evaluate again") from error


def condition_errors(conditions: list[Scored]) -> tuple[ConditionErrors, ...]:
    """Return scored conditions in the form that a report shows."""
    return tuple(
        ConditionErrors(
            _search_name(found),
            found.chunking,
            scoring,
            row.interval,
            row.real_time_factor,
            "" if found.delay is None else found.delay.text(),
            row.insertions_per_hour,
        )
        for found, scoring, row in conditions
    )


def write_reports(
    evaluation: Evaluation, conditions: list[Scored], result_dir: Path, tables: tuple[Table, ...] = ()
) -> list[Path]:
    """Write report.html and report.md, and return their paths.

    Args:
        evaluation: references and hypotheses.
        conditions: the scored conditions of the evaluation.
        result_dir: folder to write to.
        tables: further tables to show, such as measurements of streaming.
    """
    total = conditions[0].scoring.total
    minutes = evaluation.audio_seconds / 60
    length = f"{minutes:.1f} minutes" if minutes < 120 else f"{minutes / 60:.1f} hours"
    about = (
        f"{evaluation.checkpoint} on {evaluation.data}: {len(evaluation.references):,} utterances, {length},"
        f" {counted(total.reference, evaluation.counting.noun)}"
    )
    title = report_title(evaluation.counting, total, Path(evaluation.checkpoint).name)
    facts, skipped = tuple(evaluation.facts), tuple(evaluation.skipped)
    report = Report(title, about, evaluation.counting, condition_errors(conditions), facts, skipped, tables)
    paths = [result_dir / "report.html", result_dir / "report.md"]
    for path in paths:
        write_report(report, path)
    return paths


def _search_name(found: Found) -> str:
    return found.mode if found.variant == PLAIN else f"{found.mode} + {found.variant}"
