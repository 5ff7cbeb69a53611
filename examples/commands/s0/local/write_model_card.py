"""Stream test sets through an exported model, and write a model card in Markdown with the error rates.

For sets whose transcripts have no words (silence, noise, music, other languages), the card has insertions per hour
instead of an error rate. Transcripts of other systems (see `transcribe_reference.py`) become columns of the same table.
"""

from __future__ import annotations

import argparse
import math
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm
from wenet_fusion_runtime import DecodingOptions, Recognizer, load_language_model, read_grammar
from wenet_fusion_runtime.console import run_main
from wenet_fusion_runtime.files import read_lines, write_text
from wenet_fusion_runtime.stream.decoding_options import LANGUAGE_MODEL_WEIGHTS

from wenet_fusion.data.lists.kaldi import read_table
from wenet_fusion.data.lists.manifest import scan_manifest
from wenet_fusion.data.sources import Utterance, read_samples
from wenet_fusion.evaluation.report.markdown import markdown_table
from wenet_fusion.scoring.error_rate import Scoring, score


class Measured(NamedTuple):
    """The errors of one set, or of one group of its speakers."""

    name: str
    speakers: int  # 0: unknown
    scoring: Scoring
    seconds: float


def stream_set(recognizer: Recognizer, utterances: Sequence[Utterance], chunk: int, title: str) -> dict[str, str]:
    """Return the streamed text of each utterance.

    Args:
        recognizer: the model with its decoding options.
        utterances: the set.
        chunk: frames per chunk.
        title: title of the progress bar.
    Raises:
        OSError, ValueError: a recording is missing or damaged.
    """
    rate, texts = recognizer.model.meta.sample_rate, {}
    for each in tqdm(utterances, desc=title, unit="utterance", disable=None):
        with recognizer.create_stream(chunk=chunk) as stream:
            stream.accept_waveform(read_samples(each, rate), rate)
        texts[each.key] = stream.text
    return texts


def measure(
    name: str, utterances: Sequence[Utterance], texts: Mapping[str, str], speakers: Mapping[str, str]
) -> Measured:
    """Score the texts of a set."""
    references = {each.key: each.text for each in utterances}
    found = {key: text for key, text in texts.items() if key in references}
    seconds = sum(each.seconds for each in utterances)
    count = len({speakers[key] for key in references if key in speakers})
    return Measured(name, count, score(references, found), seconds)


def groups_of(folder: Path, utterances: Sequence[Utterance]) -> dict[str, list[Utterance]]:
    """Return the utterances by group of speakers; an empty dictionary if the set has no file utt2group."""
    path = folder / "utt2group"
    table, groups = read_table(path) if path.exists() else {}, dict[str, list[Utterance]]()
    for each in utterances:
        if each.key in table:
            groups.setdefault(table[each.key], []).append(each)
    return dict(sorted(groups.items()))


def errors_text(measured: Measured) -> str:
    """Return the error rate with its interval; for a set without words, insertions per hour.

    >>> errors_text(Measured("digits", 1, score({"a": "one two"}, {"a": "one"}), 2.0))
    '50.0 % (50.0 to 50.0)'
    >>> errors_text(Measured("noise", 1, score({"a": ""}, {"a": "one"}), 1800.0))
    '2.0 words per hour'
    """
    interval = measured.scoring.interval()
    if interval is None:
        per_hour = measured.scoring.insertions_per_hour(measured.seconds)
        return "unknown" if per_hour is None else f"{per_hour:.1f} words per hour"
    low, high = (100 * bound for bound in interval)
    return f"{100 * measured.scoring.total.rate:.1f} % ({low:.1f} to {high:.1f})"


def measure_all(options: argparse.Namespace, others: Mapping[str, Path]) -> list[list[str]]:
    """Return a row of the card's table for each set, each group of speakers and each grammar."""
    plain = DecodingOptions(beam_size=options.beam_size, confidence_threshold=options.confidence_threshold)
    if options.language_model is not None:
        loaded = load_language_model(options.language_model)
        weights = {name: getattr(options, name) for name in LANGUAGE_MODEL_WEIGHTS}
        plain = replace(plain, language_model=loaded, **weights)
    grammars = dict(pair.split("=", 1) for pair in options.grammars)
    recognizer, rows = Recognizer(options.model, plain), []
    for name in options.sets:
        folder = options.data / name
        utterances, problems = scan_manifest(folder / "data.list")
        if problems:
            raise ValueError(f"{folder / 'data.list'}: {problems[0]}")
        speakers = read_table(folder / "utt2spk") if (folder / "utt2spk").exists() else {}
        found = {"": stream_set(recognizer, utterances, options.chunk, name)}
        found |= {system: read_table(path / name) for system, path in others.items() if (path / name).exists()}
        parts = {name: utterances} | {f"{name}: {group}": part for group, part in groups_of(folder, utterances).items()}
        for title, part in parts.items():
            measured = {system: measure(title, part, texts, speakers) for system, texts in found.items()}
            rows.append(_row(measured, others))
        if name in grammars:
            forced = DecodingOptions(
                grammar=read_grammar(grammars[name]), beam_size=options.beam_size,
                grammar_threshold=math.inf, token_threshold=math.inf,
            )  # fmt: skip
            texts = stream_set(Recognizer(options.model, forced), utterances, options.chunk, f"{name} in a grammar")
            rows.append(_row({"": measure(f"{name}, within a grammar", utterances, texts, speakers)}, others))
    return rows


def _row(measured: Mapping[str, Measured], others: Mapping[str, Path]) -> list[str]:
    own = measured[""]
    cells = [errors_text(measured[system]) if system in measured else "" for system in others]
    count = f"{len(own.scoring.utterances):,}"
    return [
        own.name,
        f"{own.speakers:,}" if own.speakers else "",
        count,
        f"{own.scoring.total.reference:,}",
        errors_text(own),
        *cells,
    ]


def _decoding(options: argparse.Namespace) -> str:
    text = ""
    if options.language_model is not None:
        text = (
            f", with its language model (weight {options.lm_weight:g}, word bonus {options.word_bonus:g}, penalty for "
            f"unknown words {options.unknown_word_penalty:g})"
        )
    if options.confidence_threshold > 0:
        text += f"; the text of a segment is rejected if its confidence is below {options.confidence_threshold:g}"
    return text


def card(options: argparse.Namespace, rows: Sequence[Sequence[str]], others: Mapping[str, Path]) -> str:
    """Return the model card."""
    header = ["set", "speakers", "utterances", "words", "this model", *others]
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    size = options.model.stat().st_size / 1e6
    about = "".join(f"{line}\n" for line in read_lines(options.about)) if options.about else ""
    return (
        f"# {options.title}\n\n{about}\n## Errors\n\n"
        f"{options.model.name} ({size:.1f} MB), streamed in chunks of {options.chunk} frames"
        f"{_decoding(options)}. Word error rates have 95 % intervals by a "
        "bootstrap over utterances.\n\n"
        f"{markdown_table(header, rows)}\n\nMade at commit {commit or 'unknown'} by `local/write_model_card.py`.\n"
    )


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="example: python local/write_model_card.py exp/int8.zip --sets digits words --output exp/card.md",
    )
    parser.add_argument("model", type=Path, help="exported file")
    parser.add_argument(
        "--sets", nargs="+", required=True, metavar="NAME", help="folders of --data, each with data.list"
    )
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of the sets (default: %(default)s)")
    parser.add_argument("--chunk", type=int, default=16, help="frames per chunk (default: %(default)s)")
    parser.add_argument("--language_model", type=Path, metavar="FILE", help="word n-gram model")
    parser.add_argument(
        "--lm_weight", type=float, default=0.5, help="weight of the language model (default: %(default)s)"
    )
    parser.add_argument("--word_bonus", type=float, default=0.0, help="nats added per word (default: %(default)s)")
    parser.add_argument(
        "--unknown_word_penalty",
        type=float,
        default=0.0,
        help="nats subtracted per unknown word (default: %(default)s)",
    )
    parser.add_argument(
        "--beam_size", type=int, metavar="N", help="number of hypotheses in the beam (default: the search mode's)"
    )
    parser.add_argument(
        "--confidence_threshold", type=float, default=0.0, metavar="P",
        help="reject the text of a segment if its confidence is lower (default: %(default)g)",
    )  # fmt: skip
    parser.add_argument(
        "--grammars",
        nargs="*",
        default=[],
        metavar="SET=FILE",
        help="measure the set with this grammar too, without rejecting texts",
    )
    parser.add_argument(
        "--others",
        nargs="*",
        default=[],
        metavar="SYSTEM=FOLDER",
        help="FOLDER/SET holds the transcripts of a set by SYSTEM",
    )
    parser.add_argument("--title", default="Speech recognition model", help="first heading (default: %(default)s)")
    parser.add_argument(
        "--about", type=Path, help="Markdown file on data, licences and limits, to insert before the table"
    )
    parser.add_argument("--output", type=Path, required=True, help="Markdown file to write")
    options = parser.parse_args(argv)
    for name in ("grammars", "others"):
        for pair in getattr(options, name):
            left, equals, path = pair.partition("=")
            if not equals or not Path(path).exists() or (name == "grammars" and left not in options.sets):
                raise ValueError(
                    f"--{name} {pair}: is not NAME=PATH with an existing path"
                    + " and a name of --sets" * (name == "grammars")
                )
    others = {name: Path(path) for name, path in (pair.split("=", 1) for pair in options.others)}
    write_text(options.output, card(options, measure_all(options, others), others))
    print(f"{options.output}: {len(options.sets)} sets")
    return 0


if __name__ == "__main__":
    run_main(main)
