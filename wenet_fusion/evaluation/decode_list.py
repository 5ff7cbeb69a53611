"""Decode a list of recordings: run the encoder once for each chunking, then every search on its output.

The runtime's code does search, rescoring and right padding, so streaming the same audio through an exported float file
gives the same tokens. Evaluation, forced alignment and tools that decode or read whole lists use this module.
"""

import dataclasses
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from wenet_fusion_runtime.console import is_out_of_memory
from wenet_fusion_runtime.model.acoustic_model import AcousticModel, StepScores
from wenet_fusion_runtime.results.result import Word, joined_ids
from wenet_fusion_runtime.results.vocabulary import Vocabulary
from wenet_fusion_runtime.search.modes import SEARCH_MODES
from wenet_fusion_runtime.stream.offline import decode_rows, offline_step

from wenet_fusion.data.batching import epoch_batches
from wenet_fusion.data.progress_bar import progress_bar
from wenet_fusion.data.sources import Utterance, read_samples
from wenet_fusion.evaluation.attention_beam import attention_search
from wenet_fusion.evaluation.options import ATTENTION, EvaluationOptions, Search
from wenet_fusion.model.chunking import Chunking, chunking_label
from wenet_fusion.model.decoder import Decoder

MAX_ROWS = 16  # utterances per batch; more are not faster on a CPU
MAX_BATCH_SECONDS = 100.0


class Condition(NamedTuple):
    """A mode, a variant of the search and a chunking."""

    mode: str
    variant: str
    chunking: str  # label


class Decoded(NamedTuple):
    """The result of a batch under one condition."""

    mode: str
    variant: str
    chunking: str  # label
    tokens: list[list[int]]  # token ids of each readable utterance
    encoder_seconds: float  # computing time of the encoder, which all searches of the chunking share
    search_seconds: float  # computing time of the search, rescoring included
    words: list[list[Word]] | None = None  # words by utterance, with emission times; None: not requested; []: unknown

    @property
    def condition(self) -> Condition:
        """The condition under which the batch was decoded."""
        return Condition(self.mode, self.variant, self.chunking)


class DecodedBatch(NamedTuple):
    """The results of a batch under all conditions."""

    number: int  # number of the batch in the plan
    keys: list[str]  # keys of the readable utterances
    unreadable: dict[str, str]  # reasons by key
    audio_seconds: float  # duration of the readable utterances
    decoded: list[Decoded]


class DecodedList(NamedTuple):
    """The results of all recordings of a list under all conditions."""

    tokens: dict[Condition, dict[str, list[int]]]  # token ids by key
    unreadable: dict[str, str]  # reasons by key
    audio_seconds: float  # duration of the readable recordings
    encoder_seconds: dict[Condition, float]  # computing time, see `Decoded`
    search_seconds: dict[Condition, float]
    words: dict[Condition, dict[str, list[Word]]]  # words by key, with emission times; see `Decoded`

    def texts(self, condition: Condition, vocabulary: Vocabulary) -> dict[str, str]:
        """Return the text of each readable recording by key."""
        return {key: vocabulary.text(ids) for key, ids in self.tokens[condition].items()}


class ReadBatch(NamedTuple):
    """Audio of several utterances, and the reasons why some could not be read."""

    samples: dict[str, np.ndarray]  # by key
    unreadable: dict[str, str]  # reasons by key


def read_batch(utterances: Sequence[Utterance], sample_rate: int) -> ReadBatch:
    """Read the samples of utterances at `sample_rate` (Hz); the result lists those that cannot be read."""
    batch = ReadBatch({}, {})
    for utterance in utterances:
        try:
            batch.samples[utterance.key] = read_samples(utterance, sample_rate)
        except (ValueError, OSError) as error:
            batch.unreadable[utterance.key] = str(error)
    return batch


class BatchDecoder:
    """Decode batches under every condition of an evaluation.

    Args:
        model: the model, with the runtime's interface.
        decoder: left-to-right attention decoder, for attention search; None: attention search is impossible.
        options: modes, chunkings and variants.

    >>> import inspect
    >>> list(inspect.signature(BatchDecoder.decode).parameters)
    ['self', 'number', 'utterances']
    """

    def __init__(self, model: AcousticModel, decoder: Decoder | None, options: EvaluationOptions) -> None:
        self._model, self._decoder, self._options = model, decoder, options

    def decode(self, number: int, utterances: Sequence[Utterance]) -> DecodedBatch:
        """Read the audio of a batch once and decode it; the result lists unreadable recordings with the reasons.

        Raises:
            ValueError: the model returns NaN, or was not trained for a chunking.
            OSError: memory ran out.
        """
        rate = self._model.meta.sample_rate
        decoded: list[Decoded] = []
        try:
            samples, unreadable = read_batch(utterances, rate)
            for chunking in self._options.chunkings if samples else ():
                decoded += self._decode(chunking, list(samples.values()))
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            longest = max(utterances, key=lambda utterance: utterance.seconds)
            raise OSError(
                f"memory ran out while decoding {len(utterances)} utterances of up to {longest.seconds:.1f} s "
                f"({longest.key}): lower --max_batch_seconds (now {self._options.max_batch_seconds:g})"
            ) from error
        seconds = sum(len(row) for row in samples.values()) / rate
        return DecodedBatch(number, list(samples), unreadable, seconds, decoded)

    def _decode(self, chunking: Chunking, samples: list[np.ndarray]) -> Iterator[Decoded]:
        start = time.perf_counter()
        step = offline_step(self._model, samples, chunking.size, chunking.left)
        encoder_seconds = time.perf_counter() - start
        for search in self._options.searches:
            start = time.perf_counter()
            tokens, words = self._search(search, step)
            taken = time.perf_counter() - start
            condition = (search.mode, search.variant.name, chunking_label(chunking))
            yield Decoded(*condition, tokens, encoder_seconds, taken, words if self._options.ctm else None)

    def _search(self, search: Search, step: StepScores) -> tuple[list[list[int]], list[list[Word]]]:
        """Return the token ids and the words of each row; attention search gives no words, as its tokens lack times."""
        decoding = search.variant.decoding
        if search.mode == ATTENTION:
            if self._decoder is None:
                raise ValueError(f"mode {ATTENTION}: the model has no attention decoder; choose another mode")
            memory, lengths = torch.from_numpy(step.encoder_out), torch.from_numpy(step.lengths)
            found = attention_search(self._decoder, memory, lengths, decoding.resolved(self._model.meta).beam_size)
            return [list(hypotheses[0].ids) for hypotheses in found], []
        if not SEARCH_MODES[search.mode].has_alternatives:  # greedy search refuses a length penalty
            decoding = dataclasses.replace(decoding, length_penalty=0.0)
        rows = decode_rows(self._model, step, dataclasses.replace(decoding, mode=search.mode))
        return list(map(joined_ids, rows)), [[word for segment in row for word in segment.words] for row in rows]


def plan_batches(
    utterances: Sequence[Utterance], max_batch_seconds: float = MAX_BATCH_SECONDS
) -> list[list[Utterance]]:
    """Group utterances of similar length into batches; the same list always gives the same batches.

    Args:
        utterances: the utterances to group.
        max_batch_seconds: seconds of audio in a batch, padding included; a longer utterance is a batch of its own.
    """
    plan = epoch_batches([item.seconds for item in utterances], max_batch_seconds, MAX_ROWS, seed=0, epoch=0)
    return [[utterances[index] for index in indices] for indices in plan]


def collect(batches: Iterable[DecodedBatch]) -> DecodedList:
    """Join the results of batches, which may be in any order."""
    found = DecodedList({}, {}, 0.0, {}, {}, {})
    audio_seconds = 0.0
    for batch in batches:
        audio_seconds += batch.audio_seconds
        found.unreadable.update(batch.unreadable)
        for decoded in batch.decoded:
            way = decoded.condition
            found.tokens.setdefault(way, {}).update(zip(batch.keys, decoded.tokens, strict=True))
            if decoded.words:
                words = ([Word(*word) for word in row] for row in decoded.words)  # words read from a file are lists
                found.words.setdefault(way, {}).update(zip(batch.keys, words, strict=True))
            found.encoder_seconds[way] = found.encoder_seconds.get(way, 0.0) + decoded.encoder_seconds
            found.search_seconds[way] = found.search_seconds.get(way, 0.0) + decoded.search_seconds
    return found._replace(audio_seconds=audio_seconds)


def decode_list(
    model: AcousticModel, utterances: Sequence[Utterance], options: EvaluationOptions, title: str = "decode"
) -> DecodedList:
    """Decode a list of recordings with a model that offers no attention search, such as an exported file.

    Args:
        model: the model, with the runtime's interface.
        utterances: recordings, e.g. from `scan_manifest`.
        options: modes, chunkings and variants; `counting` is ignored.
        title: title of the progress bar.

    Raises:
        ValueError: no recording could be read, or the model returns NaN or was not trained for a chunking.
    """
    decoder, batches = BatchDecoder(model, None, options), []
    with progress_bar(None, len(utterances), title, "utt") as bar:
        for number, batch in enumerate(plan_batches(utterances, options.max_batch_seconds)):
            batches.append(decoder.decode(number, batch))
            bar.update(len(batch))
    found = collect(batches)
    if not found.tokens:
        first = next(iter(found.unreadable.values()), "the list is empty")
        raise ValueError(f"no utterance could be read; the first problem: {first}")
    return found
