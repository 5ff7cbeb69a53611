"""Stream one recording in pieces of random length, and record when its text appears."""

import itertools
import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from wenet_fusion_runtime import Recognizer, Word
from wenet_fusion_runtime.results.result import joined_ids


class Streamed(NamedTuple):
    """How the text of one utterance appeared. Audio times are in seconds from the start of the recording."""

    words: tuple[str, ...]
    ids: tuple[int, ...]
    timed: tuple[Word, ...]  # the words with their times and confidence
    shown: tuple[float, ...]  # audio time from which each word was displayed without later changes
    changed: int  # number of displayed words that the next displayed text changed or removed
    open_words: tuple[int, ...]  # number of words in each displayed text that were not final yet
    first_text: float | None  # audio time of the first text, correct or not; None: there was no text
    first_text_compute: float  # computing time of the call that returned the first text
    chunk_compute: tuple[float, ...]  # computing time of each call that completed a chunk
    final_compute: float  # computing time from the last sample to the final text
    final_processor: float  # the same in processor time, which does not depend on other programs
    compute: float  # computing time of all calls


def cut_randomly(samples: np.ndarray, longest: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Cut samples into pieces of 1 to `longest` samples; the logarithms of the lengths are uniformly distributed."""
    pieces, position = [], 0
    while position < len(samples):
        length = int(np.exp(rng.uniform(0, np.log(longest + 1))))
        pieces.append(samples[position : position + length])
        position += length
    return pieces


def settled_times(
    partials: Sequence[tuple[float, Sequence[str]]], final: Sequence[str], end: float
) -> tuple[float, ...]:
    """Return, for each word of `final`, the time from which it was displayed without later changes; `end` for a word in
    the final text only. `partials` are the earlier texts with their times.
    """
    times = [end] * len(final)
    stable = len(final)
    for seconds, words in reversed(partials):
        agreeing = 0
        while agreeing < min(stable, len(words)) and words[agreeing] == final[agreeing]:
            agreeing += 1
        stable = agreeing
        times[:stable] = [seconds] * stable
    return tuple(times)


def changed_words(texts: Sequence[Sequence[str]]) -> int:
    """Return the number of words that the next text changed or removed, over all texts in order."""
    changed = 0
    for before, after in itertools.pairwise(texts):
        changed += sum(position >= len(after) or word != after[position] for position, word in enumerate(before))
    return changed


def stream_utterance(
    recognizer: Recognizer, samples: np.ndarray, chunk: int, left: int, rng: np.random.Generator
) -> Streamed:
    """Feed `samples`, at the model's rate, to a new stream in random pieces of at most one chunk.

    A text counts as displayed at the end of its chunk, because a microphone delivers the chunk's last sample then.
    """
    meta = recognizer.model.meta
    chunk_samples = chunk * meta.frame_samples
    stream = recognizer.create_stream(chunk, left)
    partials: list[tuple[float, list[str]]] = []
    open_words: list[int] = []
    chunk_compute: list[float] = []
    fed, total, last, last_processor = 0, 0.0, 0.0, 0.0
    first_text, first_text_compute = None, 0.0
    for piece in cut_randomly(samples, chunk_samples, rng):
        start, processor = time.perf_counter(), time.process_time()
        stream.accept_waveform(piece)
        text = stream.text
        last, last_processor = time.perf_counter() - start, time.process_time() - processor
        total += last
        completed = (fed + len(piece)) // chunk_samples
        if completed > fed // chunk_samples:
            shown_at = completed * chunk_samples / meta.sample_rate
            partials.append((shown_at, text.split()))
            open_words.append(len(stream.result.words) - stream.result.committed)
            chunk_compute.append(last)
            if text and first_text is None:
                first_text, first_text_compute = shown_at, last
        fed += len(piece)
    start, processor = time.perf_counter(), time.process_time()
    stream.finish()
    final_compute, final_processor = time.perf_counter() - start, time.process_time() - processor
    end = fed / meta.sample_rate
    words = tuple(stream.text.split())
    if words and first_text is None:
        first_text, first_text_compute = end, final_compute
    timed = tuple(word for segment in stream.finals for word in segment.words)
    return Streamed(
        words, tuple(joined_ids(stream.finals)), timed, settled_times(partials, words, end),
        changed_words([*(text for _, text in partials), words]), tuple(open_words), first_text, first_text_compute,
        tuple(chunk_compute), last + final_compute, last_processor + final_processor,
        total + final_compute,
    )  # fmt: skip
