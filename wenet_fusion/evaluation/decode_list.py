"""Decodes batches of audio in every mode, chunking and variant, one pass over the encoder for each chunking.

Knows no references and no files but audio. Search, rescoring and the silent tail are the runtime's own, so streaming the
same audio through an exported file gives the same tokens.
"""

import dataclasses
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from wenet_fusion_runtime.model.acoustic_model import AcousticModel, StepScores
from wenet_fusion_runtime.results.result import joined_ids
from wenet_fusion_runtime.search.modes import GREEDY
from wenet_fusion_runtime.stream.offline import decode_rows, offline_step

from wenet_fusion.data.sources import Utterance, read_batch
from wenet_fusion.evaluation.attention_beam import attention_search
from wenet_fusion.evaluation.options import ATTENTION, EvaluationOptions, Search
from wenet_fusion.model.chunking import Chunking, chunking_label
from wenet_fusion.model.decoder import Decoder


class Decoded(NamedTuple):
    """A batch under one condition."""

    mode: str
    variant: str
    chunking: str  # label
    tokens: list[list[int]]  # of each utterance that could be read
    encoder_seconds: float  # what the encoder took, once for all searches of the chunking
    search_seconds: float  # what the search took, and rescoring


class DecodedBatch(NamedTuple):
    number: int  # in the plan of batches
    keys: list[str]  # of the utterances that could be read
    unreadable: dict[str, str]  # reasons by key
    audio_seconds: float  # of those that could be read
    decoded: list[Decoded]


class BatchDecoder:
    """Decodes batch after batch.

    Args:
        model: behind the runtime's interface.
        decoder: the left-to-right attention decoder, for attention search; None: the model has none.
        options: what to decode with.
    """

    def __init__(self, model: AcousticModel, decoder: Decoder | None, options: EvaluationOptions) -> None:
        self._model, self._decoder, self._options = model, decoder, options

    def decode(self, number: int, utterances: Sequence[Utterance]) -> DecodedBatch:
        """Audio is read once; what cannot be read is told.

        Raises:
            ValueError: the model returns NaN, or was not trained for a chunking.
        """
        rate = self._model.meta.sample_rate
        samples, unreadable = read_batch(utterances, rate)
        decoded: list[Decoded] = []
        for chunking in self._options.chunkings if samples else ():
            decoded += self._decode(chunking, list(samples.values()))
        seconds = sum(len(row) for row in samples.values()) / rate
        return DecodedBatch(number, list(samples), unreadable, seconds, decoded)

    def _decode(self, chunking: Chunking, samples: list[np.ndarray]) -> Iterator[Decoded]:
        start = time.perf_counter()
        step = offline_step(self._model, samples, chunking.size, chunking.left)
        encoder_seconds = time.perf_counter() - start
        for index in range(len(samples)):
            step.row(index)  # raises if it is not a number
        for search in self._options.searches:
            start = time.perf_counter()
            tokens = self._search(search, step)
            taken = time.perf_counter() - start
            yield Decoded(search.mode, search.variant.name, chunking_label(chunking), tokens, encoder_seconds, taken)

    def _search(self, search: Search, step: StepScores) -> list[list[int]]:
        decoding = search.variant.decoding
        if search.mode == ATTENTION:
            memory, lengths = torch.from_numpy(step.encoder_out), torch.from_numpy(step.lengths)
            found = attention_search(self._decoder, memory, lengths, decoding.resolved(self._model.meta).beam_size)
            return [list(hypotheses[0].ids) for hypotheses in found]
        if search.mode == GREEDY:  # knows no alternatives: what the options take from longer texts changes none
            decoding = dataclasses.replace(decoding, length_penalty=0.0)
        rows = decode_rows(self._model, step, dataclasses.replace(decoding, mode=search.mode))
        return [joined_ids(segments) for segments in rows]
