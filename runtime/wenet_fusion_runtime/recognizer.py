"""Recognizer (shared, read-only) and Stream (one utterance or one endless recording). Knows no files and no backend."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Sequence

import numpy as np

from wenet_fusion_runtime.acoustic_model import AcousticModel
from wenet_fusion_runtime.audio import Resampler, to_mono
from wenet_fusion_runtime.context import HotWord
from wenet_fusion_runtime.decoding import GREEDY, RESCORING, DecodingOptions, SegmentDecoder
from wenet_fusion_runtime.fusion import Fusion
from wenet_fusion_runtime.model_file import load_model
from wenet_fusion_runtime.result import Result, joined_text


class Recognizer:
    """A model and decoding options; makes streams, which may run in different threads.

    Args:
        model: path of an exported file, or a model already loaded.
        options: how frames become text.
    Raises:
        OSError, ValueError, ImportError: see `load_model`; ValueError also if the options do not suit the model.
    """

    def __init__(self, model: str | Path | AcousticModel, options: DecodingOptions = DecodingOptions()) -> None:
        self.model = model if isinstance(model, AcousticModel) else load_model(model)
        self.options = options.resolved(self.model.meta)
        self._fusion = self.options.fusion(self.model.meta.units)
        self._warm_up()

    def create_stream(
        self, chunk: int | None = None, left: int | None = None, allow_untrained: bool = False,
        hot_words: Sequence[HotWord] = (),
    ) -> Stream:
        """A fresh stream.

        Args:
            chunk: encoder frames per chunk, which sets the latency; None is the model's default.
            left: chunks that stay visible to the left; None is what the model was trained with.
            allow_untrained: allow chunk sizes and left contexts that the model was not trained for.
            hot_words: preferred phrases, beside those of the options. A phrase that is among both gets its boost here.
        Raises:
            ValueError: the chunk does not suit the model, hot words cannot be used, or the mode has no use for them.
        """
        meta = self.model.meta
        chunk = meta.default_chunk if chunk is None else chunk
        left = meta.left(max(1, chunk)) if left is None else left
        meta.check_chunk(chunk, left, allow_untrained)
        if hot_words and self.options.mode == GREEDY:
            raise ValueError(f"{GREEDY} knows no alternatives, so hot words have no effect; choose another mode")
        fusion = self._fusion.with_hot_words(hot_words) if hot_words else self._fusion
        return Stream(self.model, self.options, chunk, left, fusion)

    def _warm_up(self) -> None:
        """Pay the costs of first calls before the first audio comes."""
        meta = self.model.meta
        for chunk in meta.chunk_sizes:
            silence = np.zeros((1, chunk * meta.frame_samples), dtype=np.float32)
            left = meta.left(chunk)
            state = self.model.init_state(1, chunk, left)
            scores, _ = self.model.step(silence, [silence.shape[1]], chunk, left, state)
        if self.options.mode == RESCORING:
            self.model.rescore([scores.encoder_out], [()])


class Stream:
    """One recording, recognised as it comes. Made by `Recognizer.create_stream`; belongs to one thread at a time.

    Feed `accept_waveform`, then call `finish` once; leaving a `with` block calls it.
    """

    def __init__(
        self, model: AcousticModel, options: DecodingOptions, chunk: int, left: int, fusion: Fusion | None = None
    ) -> None:
        self._model = model
        self._chunk, self._left = chunk, left
        self._state = model.init_state(1, chunk, left)
        self._decoder = SegmentDecoder(model, options, fusion)
        self._sample_rate: int | None = None
        self._resampler = Resampler(model.meta.sample_rate, model.meta.sample_rate)
        self._buffer = np.empty(chunk * model.meta.frame_samples, dtype=np.float32)    # the chunk that is being filled
        self._filled = 0
        self._finals: list[Result] = []
        self._finals_text = ""
        self._last: Result | None = None    # the last segment, once the stream is finished

    @property
    def result(self) -> Result:
        """The open segment so far; after `finish` the last segment."""
        return self._decoder.partial() if self._last is None else self._last

    @property
    def finals(self) -> tuple[Result, ...]:
        """The closed segments that have tokens, oldest first, each with its best hypothesis only: a stream may run for
        days. Empty segments and all hypotheses are in what `accept_waveform` and `finish` return."""
        return tuple(self._finals)

    @property
    def text(self) -> str:
        """All text so far: closed segments and the open one."""
        if self._last is not None:
            return self._finals_text
        return joined_text((self._finals_text, self._decoder.partial().text))

    def accept_waveform(self, samples: np.ndarray, sample_rate: int | None = None) -> list[Result]:
        """Feed the next samples, any number; runs the model for each chunk that they complete.

        Args:
            samples: (n,) or (n, channels), float32 in [-1, 1] (what is outside is clipped) or int16.
            sample_rate: Hz, the same in all calls; None is the model's rate. Other rates are resampled.
        Returns:
            the segments that closed.
        Raises:
            ValueError: the stream is finished, the rate changed, or the samples have a wrong type, shape or value;
                in the latter cases the stream is as before.
        """
        if self._last is not None:
            raise ValueError("the stream is finished; create another one for more audio")
        mono = to_mono(samples)
        self._set_sample_rate(self._model.meta.sample_rate if sample_rate is None else sample_rate)
        return self._advance(self._resampler.process(mono))

    def finish(self) -> list[Result]:
        """End of the audio: decode what is left, close the open segment; returns the segments that closed.

        Calling it again returns an empty list.
        """
        if self._last is not None:
            return []
        closed = self._advance(self._resampler.process(np.zeros(0, dtype=np.float32), last=True))
        closed += self._advance(np.zeros(self._model.meta.tail_samples, dtype=np.float32))
        if self._filled:
            closed += self._step()
        last = self._decoder.finish()
        self._keep([last])
        closed.append(last)
        self._state = None
        self._last = _best_only(last)
        return closed

    def _set_sample_rate(self, sample_rate: int) -> None:
        if self._sample_rate is None:
            self._resampler = Resampler(sample_rate, self._model.meta.sample_rate)
            self._sample_rate = sample_rate
        elif sample_rate != self._sample_rate:
            raise ValueError(f"the stream runs at {self._sample_rate} Hz, found {sample_rate} Hz; "
                             "create another stream for another rate")

    def _advance(self, samples: np.ndarray) -> list[Result]:
        """Buffer samples at the model's rate; step the model over every chunk that they complete."""
        closed = []
        while len(samples):
            taken = min(len(samples), len(self._buffer) - self._filled)
            self._buffer[self._filled : self._filled + taken] = samples[:taken]
            self._filled += taken
            samples = samples[taken:]
            if self._filled == len(self._buffer):
                closed += self._step()
        return closed

    def _step(self) -> list[Result]:
        """Decode the buffered samples, rounded up to whole frames by zeros that do not count."""
        length, self._filled = self._filled, 0
        rounded = length + -length % self._model.meta.frame_samples
        self._buffer[length:rounded] = 0.0
        samples = self._buffer[None, :rounded]
        scores, self._state = self._model.step(samples, [length], self._chunk, self._left, self._state)
        closed = self._decoder.accept(*scores.row(0))
        self._keep(closed)
        return closed

    def _keep(self, closed: list[Result]) -> None:
        for result in closed:
            if result.tokens:
                self._finals.append(_best_only(result))
                self._finals_text = joined_text((self._finals_text, result.text))

    def __enter__(self) -> Stream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.finish()


def _best_only(result: Result) -> Result:
    return replace(result, hypotheses=result.hypotheses[:1])
