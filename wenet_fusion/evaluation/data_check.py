"""Check and measure a data list as training would use it, for `wenet-fusion check data`."""

from __future__ import annotations

import dataclasses
import math
import os
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
from wenet_fusion_runtime.files import list_problems, printable

from wenet_fusion.data.batching import epoch_batches, padding_fraction
from wenet_fusion.data.dataset import SpeechDataset
from wenet_fusion.data.judgement import Skip
from wenet_fusion.data.lists.manifest import read_columns
from wenet_fusion.data.sequential.sequential_dataset import SequentialDataset
from wenet_fusion.data.sources import Utterance
from wenet_fusion.data.utterance_table import UtteranceTable
from wenet_fusion.evaluation.data_report import DataReport, Distribution
from wenet_fusion.recipe import RecipeConfig, build_source, frontend_geometry
from wenet_fusion.text.tokenizer import build_tokenizer

_SHOWN = 3
_BINS, _BAR = 20, 40


def check_data(config: RecipeConfig, data_list: Path, decode: int | None = None) -> DataReport:
    """Report the utterances of a list that training would use, the reasons for skipping others, and doubtful entries.

    If all audio is decoded, training uses exactly the utterances that are found usable. Shards of data_type sequential
    are read once, and the durations of their utterances come from the headers of the audio.

    Args:
        config: configuration of the training.
        data_list: the list to check.
        decode: number of utterances to decode, spread evenly over the list (data_type sequential: the first decode / S,
            rounded up, of each of S shards); None: all.

    Raises:
        ValueError: no utterance of the list is usable, unless data_type is sequential.
    """
    tokenizer = build_tokenizer(config.tokenizer, Path())
    data, training = config.data, config.training
    if data.data_type == "sequential":
        source = build_source(config, data_list, tokenizer)
        assert isinstance(source, SequentialDataset)
        return _examine_shards(source, training.max_batch_seconds, decode)
    table, problems = read_columns(data_list, data.data_type)
    if not table:
        raise ValueError(list_problems(problems))
    dataset = SpeechDataset(
        table,
        tokenizer,
        frontend_geometry(config),
        data.augmentation,
        config.seed,
        max_skipped=1.0,
        filters=data.filters,
    )
    return examine(dataset, table, problems, training.max_batch_seconds, training.max_batch_rows, decode)


def examine(
    dataset: SpeechDataset,
    listed: UtteranceTable,
    problems: Sequence[str],
    max_batch_seconds: float,
    max_batch_rows: int,
    decode: int | None = None,
) -> DataReport:
    """Decode audio, look for doubtful entries, and report which utterances training would use.

    Args:
        dataset: dataset of the list, with `max_skipped=1`.
        listed: all utterances of the list, also those that the dataset leaves out.
        problems: messages about lines of the list that cannot be read.
        max_batch_seconds, max_batch_rows: limits of training's batches.
        decode: number of utterances to decode, spread evenly over the list; of the others, only the existence of the
            audio file is checked. None: decode all.
    """
    count = len(dataset) if decode is None else min(decode, len(dataset))
    chosen = [number * len(dataset) // count for number in range(count)]
    if decode is not None:
        dataset.record(_missing_files(dataset.utterances))
    dataset.decode_all(chosen)
    left_out = {skip.key for skip in dataset.skipped}
    texts = (listed.texts[index] for index, key in enumerate(listed.keys) if key in left_out)
    unknown = Counter(token for text in texts for token in dataset.tokenizer.unknown(text))
    plan = epoch_batches(dataset.seconds, max_batch_seconds, max_batch_rows, seed=0, epoch=0)
    sizes = [len(batch) * float(dataset.seconds[batch].max()) for batch in plan]
    facts = [
        f"decoded: {count} of {len(dataset)} utterances, {len(dataset.misstated)} with another duration than stated",
        _describe_texts(dataset.utterances, dataset.token_counts, unknown),
        f"batches: {len(plan)}, the largest {max(sizes):.1f} s (training.max_batch_seconds: {max_batch_seconds:g}), "
        f"padding {100 * padding_fraction(dataset.seconds, plan):.1f} %; "
        + _describe_longest(dataset.utterances, max_batch_seconds),
    ]
    return DataReport(
        *dataset.used(),
        skipped=dataset.skipped,
        notes=(*dataset.notes(), *_duplicates(listed)),
        problems=tuple(problems),
        facts=tuple(facts),
        distributions=_distributions(dataset.utterances, dataset.token_counts),
    )


def _examine_shards(source: SequentialDataset, max_batch_seconds: float, decode: int | None) -> DataReport:
    per_shard = math.inf if decode is None else -(-decode // len(source.shards))
    unknown: Counter[str] = Counter()
    lengths = array("q")

    def usable() -> Iterator[Utterance]:
        for found, judged in source.examined(per_shard):
            if not isinstance(judged, Skip):
                lengths.append(len(judged[1]))
                audio = judged[0].source
                where = f"{printable(audio.path)} at byte {audio.offset}" if audio.offset else found.place
                yield dataclasses.replace(judged[0], source=audio._replace(content=None), place=where)
            elif isinstance(found, Utterance):
                unknown.update(source.tokenizer.unknown(found.text))

    table = UtteranceTable(usable())
    decoded = "all of their audio" if decode is None else f"the first {per_shard} utterances of each"
    facts = [f"decoded: {source.description()}; {decoded if per_shard else 'none of their audio'}"]
    if table:
        known = np.array(lengths)
        facts += [_describe_texts(table, known, unknown), _describe_longest(table, max_batch_seconds)]
    return DataReport(
        len(table),
        float(table.seconds.sum()) / 3600,
        skipped=source.skipped,
        notes=(*source.notes(), *_duplicates(table)),
        facts=tuple(facts),
        distributions=_distributions(table, known) if table else (),
    )


def format_histogram(distribution: Distribution) -> str:
    """Return a histogram as lines of text.

    >>> print(format_histogram(Distribution("duration", "s", np.array([1.0, 1.0, 2.0, 12.5]))))
    duration (s): 1 to 12.5, mean 4.125, median 1.5
            1 - 2              2 ########################################
            2 - 3              1 ####################
            3 - 4              0
            4 - 5              0
            5 - 6              0
            6 - 7              0
            7 - 8              0
            8 - 9              0
            9 - 10             0
           10 - 11             0
           11 - 12             0
           12 - 13             1 ####################
    >>> print(format_histogram(Distribution("transcript", "tokens", np.array([3, 3, 4]))))
    transcript (tokens): 3 to 4, mean 3.333, median 3
            3                  2 ########################################
            4                  1 ####################
    """
    values = distribution.values
    counts, edges = np.histogram(values, bins=round_edges(values, _BINS))
    figures = (values.min(), values.max(), values.mean(), np.median(values))
    low, high, mean, median = (f"{value:.4g}" for value in figures)
    lengths = (-(-_BAR * counts // counts.max())).tolist()
    whole = np.issubdtype(values.dtype, np.integer)  # label a bin of whole numbers with its first and last number
    ranges = [
        f"{first:9.6g}" + (f" - {end - whole:<6.6g}" if end - whole > first else " " * 9)
        for first, end in pairwise(edges.tolist())
    ]
    bars = [f"{ranges[number]} {count:9d} {'#' * lengths[number]}" for number, count in enumerate(counts.tolist())]
    head = f"{distribution.name} ({distribution.unit}): {low} to {high}, mean {mean}, median {median}"
    return "\n".join([head, *map(str.rstrip, bars)])


def round_edges(values: np.ndarray, most: int) -> np.ndarray:
    """Return the edges of at most `most` bins whose widths are 1, 2 or 5 times a power of ten, at least 1 for integers.

    >>> round_edges(np.array([0.76, 32.5]), 12).tolist()
    [0.0, 5.0, 10.0, 15.0, 20.0, 25.0, 30.0, 35.0]
    >>> round_edges(np.array([1, 3]), 12).tolist()
    [1.0, 2.0, 3.0, 4.0]
    """
    low, high = float(values.min()), float(values.max())
    widths = (digit * 10.0**power for power in range(-9, 12) for digit in (1, 2, 5))
    least = 1.0 if np.issubdtype(values.dtype, np.integer) or low == high else 0.0
    width = next(
        width
        for width in widths
        if width >= least and width > (high - low) / most and high // width - low // width < most
    )
    return np.round(width * np.arange(low // width, high // width + 2), 9)


def _missing_files(utterances: Iterable[Utterance]) -> list[Skip]:
    exists: dict[str, bool] = {}
    missing = []
    for utterance in utterances:
        path = utterance.source.path
        if path not in exists:
            exists[path] = os.path.isfile(path)
        if not exists[path]:
            missing.append(Skip(utterance.key, f"{printable(path)}: no such audio file", utterance.place))
    return missing


def _distributions(table: UtteranceTable, tokens: np.ndarray) -> tuple[Distribution, ...]:
    characters = np.array([len(text) - text.count(" ") for text in table.texts])
    return (
        Distribution("duration", "s", table.seconds),
        Distribution("transcript", "tokens", tokens),
        Distribution("speaking rate", "characters per second", characters / table.seconds),
    )


def _describe_texts(table: UtteranceTable, known: np.ndarray, unknown: Counter[str]) -> str:
    """Describe the transcripts of usable utterances, and the unknown tokens in the transcripts of unusable ones."""
    missing = unknown.total()
    share = 100 * missing / max(1, missing + int(known.sum()))
    first = ": " + ", ".join(f"{token!r} {count}" for token, count in unknown.most_common(_SHOWN)) if unknown else ""
    longest = int(known.argmax())
    return (
        f"transcripts: {int((known == 0).sum())} empty, the longest has {known[longest]} tokens "
        f"({_place(table[longest])}); {missing} tokens ({share:.2g} %) are not in the vocabulary{first}"
    )


def _describe_longest(table: UtteranceTable, max_batch_seconds: float) -> str:
    longest = int(table.seconds.argmax())
    alone = int((table.seconds > max_batch_seconds).sum())
    over = f"; {alone} longer than training.max_batch_seconds, each in a batch of its own" if alone else ""
    return f"the longest utterance has {table.seconds[longest]:.2f} s ({_place(table[longest])}){over}"


def _place(utterance: Utterance) -> str:
    return f"{utterance.place}: {utterance.key}" if utterance.place else utterance.key


def _duplicates(listed: UtteranceTable) -> list[str]:
    """Return notes on audio that is listed twice, and on utterances with the same transcript and duration."""
    audio = ((item.source, item.start, item.end, item.channel) for item in listed)
    spoken = (
        (text, round(seconds, 3)) if text and seconds else None for text, seconds in zip(listed.texts, listed.seconds)
    )
    found = []
    for entries, what in ((audio, "the audio"), (spoken, "the transcript and duration")):
        first: dict[int, int] = {}
        again = []
        for index, entry in enumerate(entries):
            if entry is not None and first.setdefault(hash(entry), index) != index:
                again.append((first[hash(entry)], index))
        if again:
            pairs = [f"{listed[index].place}: {listed.keys[index]} and {listed.keys[old]}" for old, index in again]
            shown = "; ".join(pairs[:_SHOWN] + ["..."] * (len(pairs) > _SHOWN))
            share = "utterance shares" if len(again) == 1 else "utterances share"
            found.append(f"{len(again)} {share} {what} with another: {shown}")
    return found
