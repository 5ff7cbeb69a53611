#!/usr/bin/env python3
"""Choose the weight and the word bonus of a language model on a dev set, and measure them on test sets.

The exported model runs once per utterance and chunking; the search then runs on its scores for each weight and bonus.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path

from measure_streaming import streamed_chunking
from skipped_recordings import all_problems, report_skipped
from wenet_fusion_runtime import AcousticModel, DecodingOptions, load_language_model, load_model
from wenet_fusion_runtime.console import HelpFormatter, run_main
from wenet_fusion_runtime.files import write_text
from wenet_fusion_runtime.search.modes import PREFIX_BEAM, SEARCH_MODES

from wenet_fusion.data.lists.manifest import Utterance, scan_manifest
from wenet_fusion.evaluation.decode_list import Condition, decode_list
from wenet_fusion.evaluation.options import EvaluationOptions, Variant
from wenet_fusion.evaluation.report.markdown import markdown_table
from wenet_fusion.model.chunking import Chunking, chunking_label
from wenet_fusion.scoring.error_rate import ErrorCounts, score
from wenet_fusion.scoring.transcripts import Counting


@dataclass(frozen=True)
class Tuned:
    """The results for one test set and chunking; `without` means without language model.

    Error rates are fractions; None: the test set has no words, and the insertions are the result.
    """

    chunking: str
    lm_weight: float  # weight with the fewest errors on the dev set
    word_bonus: float
    dev_without: float
    dev_with: float
    test_without: float | None
    test_with: float | None
    insertions_without: int  # in the test set
    insertions_with: int
    test: str  # data.list of the test set


def decode(
    model: AcousticModel,
    utterances: Sequence[Utterance],
    chunking: Chunking,
    variants: Sequence[DecodingOptions],
    skipped: dict[str, str],
) -> list[ErrorCounts]:
    """Return the word errors with each of `variants`; add the reason for each unreadable recording to `skipped`."""
    mode, label = str(variants[0].mode), chunking_label(chunking)
    named = tuple(Variant(str(number), options) for number, options in enumerate(variants))
    found = decode_list(model, utterances, EvaluationOptions((mode,), (chunking,), named), title=f"decode {label}")
    skipped.update(found.unreadable)
    references = {item.key: item.text for item in utterances if item.key not in found.unreadable}
    ways = [Condition(mode, variant.name, label) for variant in named]
    # Each Chinese or Japanese character counts as a word.
    texts = [found.texts(way, model.meta.vocabulary) for way in ways]
    return [score(references, decoded, Counting("mixed")).total for decoded in texts]


def tune(
    model: AcousticModel, dev: Sequence[Utterance], tests: Mapping[str, Sequence[Utterance]], chunking: Chunking,
    variants: Sequence[DecodingOptions], skipped: dict[str, str],
) -> list[Tuned]:  # fmt: skip
    """Choose weight and bonus on `dev`, and measure them on each of `tests` (name of the list -> utterances).

    The first of `variants` has no language model; the others are candidates, of which the first one with the fewest
    errors is chosen.

    Raises:
        ValueError: no utterance of `dev` has words.
    """
    without, *fused = decode(model, dev, chunking, variants, skipped)
    if not without.reference:
        raise ValueError("no utterance of --dev has words, so no weight can be chosen: give a list with transcripts")
    best = min(range(len(fused)), key=lambda index: fused[index].errors)
    chosen = variants[1 + best]
    found = []
    for name, test in tests.items():
        test_without, test_with = decode(model, test, chunking, [variants[0], chosen], skipped)
        found.append(
            Tuned(
                chunking_label(chunking), chosen.lm_weight, chosen.word_bonus,
                without.rate, fused[best].rate, _rate(test_without), _rate(test_with),
                test_without.insertions, test_with.insertions, name,
            )
        )  # fmt: skip
    return found


def _rate(counts: ErrorCounts) -> float | None:
    return counts.rate if counts.reference else None


def table(rows: Sequence[Tuned]) -> str:
    """Return the results as a Markdown table; several test sets add a column with their names."""
    several = len({row.test for row in rows}) > 1
    header = ["word error rate, %", "dev, no LM", "dev, LM", "test, no LM", "test, LM", "lm_weight", "word_bonus"]
    if several:
        header.append("test set")
    cells = []
    for row in rows:
        rates = [f"{100 * rate:.2f}" for rate in (row.dev_without, row.dev_with)]
        for rate, inserted in ((row.test_without, row.insertions_without), (row.test_with, row.insertions_with)):
            rates.append(f"{inserted} inserted" if rate is None else f"{100 * rate:.2f}")
        cells.append([row.chunking, *rates, f"{row.lm_weight:g}", f"{row.word_bonus:g}"])
        if several:
            cells[-1].append(row.test)
    return markdown_table(header, cells) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; see --help."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument("model", type=Path, help="exported file")
    parser.add_argument("language_model", type=Path, help="ARPA file (text or .gz) or binary file of KenLM")
    parser.add_argument("--dev", type=Path, required=True, help="data.list for choosing weight and bonus")
    parser.add_argument("--test", type=Path, nargs="+", required=True, help="data.list of each test set")
    parser.add_argument("--data_type", choices=("auto", "raw", "shard"), default="auto", help="auto: by the first line")
    parser.add_argument(
        "--chunkings",
        type=streamed_chunking,
        nargs="+",
        help="frames per chunk / chunks of left context; default: the model's",
    )
    parser.add_argument("--weights", type=float, nargs="+", default=[0.2, 0.5, 1.0], help="values of lm_weight to try")
    parser.add_argument(
        "--bonuses", type=float, nargs="+", default=[0.0, 1.0, 2.0], help="values of word_bonus to try with each weight"
    )
    parser.add_argument(
        "--unknown_word_penalty",
        type=float,
        default=0.0,
        help="nats subtracted per unknown word (default: %(default)s)",
    )
    modes = [mode for mode, search in SEARCH_MODES.items() if search.has_alternatives]
    parser.add_argument("--mode", choices=modes, default=PREFIX_BEAM, help="search mode")
    parser.add_argument("--beam_size", type=int, help="hypotheses in the beam; default: the runtime's")
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write, with a table beside it (.md)")
    args = parser.parse_args(arguments)

    language_model = load_language_model(args.language_model)
    model = load_model(args.model)
    plain = DecodingOptions(args.mode, args.beam_size)
    variants = [plain]
    with_model = replace(plain, language_model=language_model, unknown_word_penalty=args.unknown_word_penalty)
    for weight, bonus in product(sorted(args.weights), sorted(args.bonuses, key=abs)):
        variants.append(replace(with_model, lm_weight=weight, word_bonus=bonus))
    variants[-1].resolved(model.meta).scorers(model.meta.vocabulary)  # raises before anything is decoded
    lists = [scan_manifest(path, args.data_type) for path in (args.dev, *args.test)]
    dev, *others = [listed.utterances for listed in lists]
    tests = dict(zip(map(str, args.test), others))
    unreadable: dict[str, str] = {}
    chunkings = args.chunkings or [Chunking(model.meta.default_chunk, model.meta.default_left)]
    rows = [row for chunking in chunkings for row in tune(model, dev, tests, chunking, variants, unreadable)]
    skipped = all_problems([problem for listed in lists for problem in listed.problems], unreadable)
    content = {
        "model": str(args.model), "language_model": str(args.language_model), "mode": args.mode, "skipped": skipped,
        "weights": args.weights, "bonuses": args.bonuses, "unknown_word_penalty": args.unknown_word_penalty,
        "rows": [asdict(row) for row in rows],
    }  # fmt: skip
    write_text(args.output, json.dumps(content, indent=1) + "\n")
    write_text(args.output.with_suffix(".md"), table(rows))
    print(table(rows), end="")
    return report_skipped(skipped)


if __name__ == "__main__":
    run_main(main)
