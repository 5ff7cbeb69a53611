"""Check a data list as training would use it, and measure it: what `wenet-fusion check data` prints."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
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
    """Report how much of a data list training would use, each other utterance with its reason, and what is doubtful.

    All audio is decoded, as training does: what this finds usable, training uses.

    Args:
        config: of the training.
        data_list: the list.
        decode: number of utterances to decode, spread evenly over the list; None: all.

    Raises:
        ValueError: nothing in the list is usable.
    """
    tokenizer = build_tokenizer(config.tokenizer, Path())
    data, training = config.data, config.training
    if data.data_type == "sequential":
        source = build_source(config, data_list, tokenizer)
        assert isinstance(source, SequentialDataset)
        return DataReport(*source.decode_all(), source.skipped, source.notes())
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
    """Decode audio, look for doubtful entries, and report what training would use.

    Args:
        dataset: of the list, with `max_skipped=1`.
        listed: all utterances of the list, also those that the dataset leaves out.
        problems: lines of the list that cannot be read.
        max_batch_seconds, max_batch_rows: limits of training's batches.
        decode: number of utterances to decode, spread evenly over the list; of the others only the files are looked
            for. None decodes all.
    """
    count = len(dataset) if decode is None else min(decode, len(dataset))
    chosen = [number * len(dataset) // count for number in range(count)]
    if decode is not None:
        dataset.record(_missing_files(dataset.utterances))
    dataset.decode_all(chosen)
    seconds, tokens = dataset.seconds, dataset.token_counts
    characters = np.array([len(text) - text.count(" ") for text in dataset.utterances.texts])
    facts = [
        f"decoded: {count} of {len(dataset)} utterances, {len(dataset.misstated)} with another duration than stated",
        _describe_texts(dataset, listed),
        _describe_batches(dataset, max_batch_seconds, max_batch_rows),
    ]
    return DataReport(
        *dataset.used(),
        skipped=dataset.skipped,
        notes=(*dataset.notes(), *_duplicates(listed)),
        problems=tuple(problems),
        facts=tuple(facts),
        distributions=(
            Distribution("duration", "s", seconds),
            Distribution("transcript", "tokens", tokens),
            Distribution("speaking rate", "characters per second", characters / seconds),
        ),
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
    """
    values = distribution.values
    counts, edges = np.histogram(values, bins=round_edges(float(values.min()), float(values.max()), _BINS))
    figures = (values.min(), values.max(), values.mean(), np.median(values))
    low, high, mean, median = (f"{value:.4g}" for value in figures)
    lengths = (-(-_BAR * counts // counts.max())).tolist()
    bars = [
        f"{edges[number]:9.6g} - {edges[number + 1]:<6.6g} {count:9d} {'#' * lengths[number]}"
        for number, count in enumerate(counts.tolist())
    ]
    head = f"{distribution.name} ({distribution.unit}): {low} to {high}, mean {mean}, median {median}"
    return "\n".join([head, *map(str.rstrip, bars)])


def round_edges(low: float, high: float, most: int) -> np.ndarray:
    """Return the edges of at most `most` bins whose widths are 1, 2 or 5 times a power of ten.

    >>> round_edges(0.76, 32.5, 12).tolist()
    [0.0, 5.0, 10.0, 15.0, 20.0, 25.0, 30.0, 35.0]
    """
    widths = (digit * 10.0**power for power in range(-9, 12) for digit in (1, 2, 5))
    width = next(width for width in widths if width > (high - low) / most and high // width - low // width < most)
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


def _describe_texts(dataset: SpeechDataset, listed: UtteranceTable) -> str:
    known = dataset.token_counts
    left_out = {skip.key for skip in dataset.skipped}
    texts = [listed.texts[index] for index, key in enumerate(listed.keys) if key in left_out]
    unknown = Counter(token for text in texts for token in dataset.tokenizer.unknown(text))
    missing = sum(unknown.values())
    share = 100 * missing / max(1, missing + int(known.sum()))
    first = ": " + ", ".join(f"{token!r} {count}" for token, count in unknown.most_common(_SHOWN)) if unknown else ""
    empty = int((known == 0).sum())
    longest = int(known.argmax())
    return (
        f"transcripts: {empty} empty, the longest has {known[longest]} tokens ({_place(dataset, longest)}); "
        f"{missing} tokens ({share:.2g} %) are not in the vocabulary{first}"
    )


def _describe_batches(dataset: SpeechDataset, max_batch_seconds: float, max_batch_rows: int) -> str:
    seconds = dataset.seconds
    plan = epoch_batches(seconds, max_batch_seconds, max_batch_rows, seed=0, epoch=0)
    sizes = [len(batch) * float(seconds[batch].max()) for batch in plan]
    longest = int(seconds.argmax())
    alone = int((seconds > max_batch_seconds).sum())
    over = f"; {alone} utterances are longer than training.max_batch_seconds and fill a batch each" if alone else ""
    return (
        f"batches: {len(plan)}, the largest {max(sizes):.1f} s (training.max_batch_seconds: {max_batch_seconds:g}), "
        f"padding {100 * padding_fraction(seconds, plan):.1f} %; the longest utterance has {seconds[longest]:.2f} s "
        f"({_place(dataset, longest)}){over}"
    )


def _place(dataset: SpeechDataset, index: int) -> str:
    utterance = dataset.utterances[index]
    return f"{utterance.place}: {utterance.key}" if utterance.place else utterance.key


def _duplicates(listed: UtteranceTable) -> list[str]:
    """Return notes about audio that is listed twice, and about equal transcripts with equal durations."""
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
            found.append(f"{len(again)} utterances have {what} of another: {shown}")
    return found
