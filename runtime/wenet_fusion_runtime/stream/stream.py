"""A stream: one recording of any length, recognised as it arrives."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any

import numpy as np

from wenet_fusion_runtime.model.acoustic_model import AcousticModel
from wenet_fusion_runtime.results.result import Result
from wenet_fusion_runtime.results.words import spaced_text
from wenet_fusion_runtime.search.frame_scores import FrameScores
from wenet_fusion_runtime.search.hot_words import DEFAULT_BOOST, HotWord
from wenet_fusion_runtime.stream.biasing import Biasing
from wenet_fusion_runtime.stream.blocks import Block, BlockBuffer
from wenet_fusion_runtime.stream.decoding_options import ResolvedOptions
from wenet_fusion_runtime.stream.segment_decoder import SegmentDecoder


class Stream:
    """One recording, recognised as it arrives. `Recognizer.create_stream` makes it; only one thread at a time uses it.

    Pass the audio to `accept_waveform`, then call `finish` once; leaving a `with` block without an error calls it.

    A program that steps many streams in one batch uses the methods that `accept_waveform` and `finish` call:

        stream.push(samples)                                  # or stream.end_input()
        while (block := stream.ready_block()) is not None:
            scores, state = model.step(block.samples[None], [block.length], stream.chunk, stream.left, stream.state)
            closed = stream.advance(*scores.row(0), state)
        last = stream.finish()                                # after end_input, once no block is left

    `AcousticModel.concat_states` makes a batch of several streams' states; `split_state` takes it apart.

    >>> samples = np.zeros(16000, dtype=np.float32)
    >>> stream = Recognizer("final.zip").create_stream()  # doctest: +SKIP
    >>> closed = [*stream.accept_waveform(samples, sample_rate=16000), *stream.finish()]  # doctest: +SKIP
    >>> [result.text for result in closed]  # doctest: +SKIP
    ['ONE TWO THREE']
    """

    def __init__(self, model: AcousticModel, options: ResolvedOptions, chunk: int, left: int, biasing: Biasing) -> None:
        meta = model.meta
        self.chunk, self.left = chunk, left
        self._model = model
        self._state = model.init_state(1, chunk, left)
        sizes = meta.sample_rate, meta.frame_samples, chunk, meta.right_padding_samples
        self._buffer = BlockBuffer(*sizes, meta.lookahead_samples)
        self._decoder = SegmentDecoder(model, options, biasing.scorers)
        self._biasing = biasing
        self._blocks = 0  # number of decoded blocks
        self._changes: deque[tuple[int, Biasing]] = deque()  # each with the number of blocks to decode before it
        self._finals: list[Result] = []
        self._finals_text = ""  # text of the closed segments, not stripped
        self._last: Result | None = None  # the last segment, once the stream is finished

    @property
    def model(self) -> AcousticModel:
        """The model that runs the stream's blocks."""
        return self._model

    @property
    def result(self) -> Result:
        """The result of the open segment so far; after `finish`, of the last segment."""
        return self._decoder.partial() if self._last is None else self._last

    @property
    def finals(self) -> tuple[Result, ...]:
        """The closed segments that have tokens, oldest first, each with its best hypothesis only, because a stream may
        run for days. `accept_waveform` and `finish` return empty segments and all hypotheses too."""
        return tuple(self._finals)

    @property
    def text(self) -> str:
        """All text so far: the closed segments and the open one, joined."""
        open_text = "" if self._last is not None else self._spaced(self._decoder.partial())
        return (self._finals_text + open_text).strip()

    def accept_waveform(self, samples: np.ndarray, sample_rate: int | None = None) -> list[Result]:
        """Add the next samples, any number, and decode each chunk that they complete.

        Args:
            samples: see `push`.
            sample_rate: see `push`.
        Returns:
            the segments that closed.
        Raises:
            ValueError: see `push`.
        """
        self.push(samples, sample_rate)
        return self._run()

    def finish(self) -> list[Result]:
        """End the audio: decode the rest, close the open segment, and return the segments that closed.

        Calling it again returns an empty list.
        """
        if self._last is not None:
            return []
        self.end_input()
        closed = self._run()
        last = self._decoder.finish()
        self._keep([last])
        self._state = None
        self._last = _best_only(last)
        return [*closed, last]

    def close_segment(self) -> Result:
        """Close the open segment now, regardless of the rules, and return its result, which may be empty.

        A new segment begins. Samples that are not decoded yet, e.g. of an incomplete chunk, belong to the new segment.

        Raises:
            ValueError: the stream is finished.
        """
        if self._last is not None:
            raise ValueError("the stream is finished, its last segment is closed")
        result = self._decoder.close()
        self._keep([result])
        return result

    def set_hot_words(self, hot_words: Sequence[HotWord]) -> None:
        """Replace the hot words of this stream; those of the recognizer's options stay.

        The open segment is scored as if it had begun with the new words, except that hypotheses which the search has
        dropped do not come back. Blocks that are complete but not decoded yet still use the previous words.

        Args:
            hot_words: phrases to prefer or suppress; empty for none. The same phrases and boosts again change nothing.
        Raises:
            ValueError: the stream is finished, hot words are unusable (the message lists all of them), or the mode
                keeps one hypothesis only; the stream does not change.
        """
        self.set_biasing(self._biasing.with_hot_words(hot_words))

    def set_context(self, text: str, boost: float = DEFAULT_BOOST) -> tuple[str, ...]:
        """Prefer the terms of a text, i.e. its names and rare words; see `TermFinder`. Hot words stay.

        Args:
            text: e.g. the agenda of a meeting, or the page that the user reads; it replaces the previous text.
            boost: nats added per token of a term.
        Returns:
            the terms that were found.
        Raises:
            ValueError: the stream is finished, the mode keeps one hypothesis only, or the boost is out of range; the
                stream does not change.
        """
        self.set_biasing(self._biasing.with_context(text, boost))
        return tuple(word.phrase for word in self._biasing.context)

    @property
    def biasing(self) -> Biasing:
        """The hot words and the context, as an immutable value."""
        return self._biasing

    def set_biasing(self, biasing: Biasing) -> None:
        """Replace hot words and context; see `set_hot_words`."""
        if self._last is not None:
            raise ValueError("the stream is finished; give hot words to another stream")
        if biasing is self._biasing:
            return
        self._biasing = biasing
        after = self._blocks + self._buffer.complete_blocks
        if self._changes and self._changes[-1][0] == after:
            self._changes.pop()
        self._changes.append((after, biasing))
        self._apply_changes()

    def _apply_changes(self) -> None:
        while self._changes and self._changes[0][0] <= self._blocks:
            self._decoder.set_scorers(self._changes.popleft()[1].scorers)

    def push(self, samples: np.ndarray, sample_rate: int | None = None) -> None:
        """Add the next samples, any number, without running the model.

        Args:
            samples: (n,) or (n, channels), float32 in [-1, 1] (values up to 16 are clipped) or int16.
            sample_rate: Hz, the same in all calls; None is the model's rate. Other rates are resampled.
        Raises:
            ValueError: the audio has ended, the rate changed, or the samples have a wrong type, shape or value; the
                stream does not change.
        """
        self._buffer.push(samples, sample_rate)

    def end_input(self) -> None:
        """Mark the end of the samples: the last block, which may be short, becomes ready."""
        self._buffer.end()

    def ready_block(self) -> Block | None:
        """Return the next block for the model, the same block until `advance`; None while it is incomplete."""
        return self._buffer.ready()

    @property
    def waiting_seconds(self) -> float:
        """Seconds of audio that were pushed but not yet decoded, except the samples inside the resampler."""
        return self._buffer.waiting_samples / self._model.meta.sample_rate

    @property
    def state(self) -> Any:
        """The model's state before the next block: a value, never changed in place."""
        return self._state

    def advance(self, scores: FrameScores, encoder_out: np.ndarray, state: Any) -> list[Result]:
        """Decode the model's output for the ready block, and go on to the next one.

        Args:
            scores: frame scores of the block, from `StepScores.row`.
            encoder_out: (1, T, D) encoder output of the block, from `StepScores.row`.
            state: the model's state after the block.
        Returns:
            the segments that closed.
        Raises:
            ValueError: no block is ready, or the number of frames differs; the stream does not change.
        """
        block, meta = self.ready_block(), self._model.meta
        frames = 0 if block is None else (len(block.samples) - meta.lookahead_samples) // meta.frame_samples
        if block is None or scores.frames != frames:
            raise ValueError(
                f"scores of {scores.frames} frames for a block of {frames}; step the stream's ready_block()"
            )
        closed = self._decoder.accept(scores, encoder_out)
        self._buffer.drop()
        self._blocks += 1
        self._apply_changes()
        self._state = state
        if meta.restarts and closed and self._decoder.is_silent:
            self._state = self._model.init_state(1, self.chunk, self.left)
        self._keep(closed)
        return closed

    def forget_finals(self) -> None:
        """Empty `finals` and remove their text from `text`: for endless streams whose owner keeps the results."""
        self._finals, self._finals_text = [], ""

    def _run(self) -> list[Result]:
        """Step the model over every ready block."""
        closed = []
        while (block := self.ready_block()) is not None:
            scores, state = self._model.step(block.samples[None], [block.length], self.chunk, self.left, self._state)
            closed += self.advance(*scores.row(0), state)
        return closed

    def _keep(self, closed: list[Result]) -> None:
        for result in closed:
            if result.tokens:
                self._finals_text += self._spaced(result)
                self._finals.append(_best_only(result))

    def _spaced(self, result: Result) -> str:
        return spaced_text(result, self._model.meta.vocabulary)

    def __enter__(self) -> Stream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.finish()


def _best_only(result: Result) -> Result:
    return replace(result, hypotheses=result.hypotheses[:1])
