"""Decode the frames of one stream and cut them into segments."""

from __future__ import annotations

import numpy as np

from wenet_fusion_runtime.model.acoustic_model import AcousticModel
from wenet_fusion_runtime.results.formatters import formatted
from wenet_fusion_runtime.results.result import Endpoint, Result
from wenet_fusion_runtime.results.vocabulary import BLANK
from wenet_fusion_runtime.search.frame_scores import FrameScores
from wenet_fusion_runtime.search.modes import SearchSetup, make_search
from wenet_fusion_runtime.search.scorer_set import ScorerSet
from wenet_fusion_runtime.search.search_protocol import ScoredSearch, Search
from wenet_fusion_runtime.stream.decoding_options import DecodingOptions
from wenet_fusion_runtime.stream.endpoints import FrameRules, SegmentCounts
from wenet_fusion_runtime.stream.result_building import make_result

COMMIT_FRAMES = 5  # old tokens are committed every 5 frames


class SegmentDecoder:
    """Decode the frames of one stream and cut them into segments.

    Frames may come in blocks of any length: the results are the same. Memory and time per frame do not grow with the
    length of the stream: they depend on the open segment only.

    Args:
        model: rescores hypotheses; its metadata give the frame length and the vocabulary.
        options: search mode, weights and endpoint rules.
        scorers: the scorers of the search; None builds them from the options. With many hot words that takes seconds,
            so let streams share scorers.
    Raises:
        ValueError: the options do not suit the model.

    >>> options = DecodingOptions(mode="ctc_greedy_search", commit_seconds=1.0)
    >>> decoder = SegmentDecoder(model, options)  # doctest: +SKIP
    >>> closed = decoder.accept(*scores.row(0))  # doctest: +SKIP
    >>> decoder.partial().text, decoder.finish().text  # doctest: +SKIP
    ('ONE TWO', 'ONE TWO')
    """

    def __init__(self, model: AcousticModel, options: DecodingOptions, scorers: ScorerSet | None = None) -> None:
        self._model = model
        self._options = options.resolved(model.meta)
        self._scorers = self._options.scorers(model.meta.vocabulary) if scorers is None else scorers
        self._rules = FrameRules(options.endpoint, model.meta.frame_seconds)
        self._segment = 0
        self._start_frame = 0
        self._spoken_until = 0.0  # end of the last token of the closed segments, in seconds
        self._counts = SegmentCounts()
        self._previous = BLANK  # the token that was cut in two where this segment begins, else BLANK
        self._search = self._new_search()
        self._partial: Result | None = None  # the result for the frames so far, once requested

    def accept(self, scores: FrameScores, encoder_out: np.ndarray) -> list[Result]:
        """Decode the next T frames; return the segments that closed in them.

        Args:
            scores: scores of T frames.
            encoder_out: (1, T, D) encoder output, which attention rescoring reads.
        """
        self._partial = None
        closed: list[Result] = []
        if self._options.blank_penalty:
            scores = scores.with_blank_penalty(self._options.blank_penalty)
        while True:
            self._counts, frames, endpoint = self._rules.scan(self._counts, scores.ids[:, 0], scores.blank)
            self._advance(scores.part(0, frames), encoder_out[:, :frames])
            is_over = endpoint is None and not self._counts.asks
            if self._counts.asks:
                found = self._scorers.end_probability(self._search.hypotheses(self._options.beam_size))
                self._counts, endpoint = self._rules.answer(self._counts, found)
            if endpoint is not None:
                closed.append(self.close(endpoint))
            if is_over:
                return closed
            scores, encoder_out = scores.part(frames), encoder_out[:, frames:]

    def _advance(self, scores: FrameScores, encoder_out: np.ndarray) -> None:
        """Search T frames. `_counts` already includes them.

        Commits happen at absolute frames divisible by COMMIT_FRAMES, however the frames are cut into blocks.
        """
        seconds = self._options.commit_seconds
        if seconds is None:
            self._search.advance(scores, encoder_out)
            return
        frame, first = self._start_frame + self._counts.frames - scores.frames, 0
        age = round(seconds / self._model.meta.frame_seconds)
        while first < scores.frames:
            stop = first + COMMIT_FRAMES - (frame + first) % COMMIT_FRAMES
            self._search.advance(scores.part(first, stop), encoder_out[:, first:stop])
            if stop <= scores.frames:
                self._search.commit(frame + stop - age)
            first = stop

    def set_scorers(self, scorers: ScorerSet) -> None:
        """Use other scorers for the open segment and those that follow; see `ScoredSearch`."""
        self._scorers, self._partial = scorers, None
        if isinstance(self._search, ScoredSearch):
            self._search.set_scorers(scorers)

    @property
    def is_silent(self) -> bool:
        """True if the open segment has no text yet and no token is being spoken."""
        return not self._counts.has_text and self._counts.previous == BLANK

    def partial(self) -> Result:
        """Return the result of the open segment so far, before rescoring."""
        if self._partial is None:
            self._partial = make_result(
                self._search.hypotheses(self._options.beam_size),
                self._search.stable_length(),
                self._model.meta,
                self._segment,
                (self._start_frame, self._start_frame + self._counts.frames),
                None,
                self._spoken_until,
            )
        return self._partial

    def close(self, endpoint: Endpoint = Endpoint.REQUEST) -> Result:
        """Close the open segment, which may be empty, after the last frame; the next frame begins a new segment."""
        self._partial = None
        hypotheses = self._search.final_hypotheses(self._options.nbest)
        end_frame, ids = self._start_frame + self._counts.frames, hypotheses[0].ids
        result = make_result(
            hypotheses,
            len(ids),
            self._model.meta,
            self._segment,
            (self._start_frame, end_frame),
            endpoint,
            self._spoken_until,
        )
        if result.tokens:
            self._spoken_until = result.tokens[-1].end_seconds
            if self._options.formatter is not None:
                result = formatted(result, self._options.formatter)
        # The cut may go through a token. If this segment already shows the token, the rest of it must not start a
        # second one in the next segment.
        last_token = (self._previous, *ids)[-1]
        self._previous = self._counts.previous if self._counts.previous == last_token else BLANK
        self._segment += 1
        self._start_frame = end_frame
        self._counts = SegmentCounts(previous=self._previous)
        self._search = self._new_search()
        return result

    def finish(self) -> Result:
        """Close the last segment at the end of the audio."""
        return self.close(Endpoint.END)

    def _new_search(self) -> Search:
        setup = SearchSetup(self._options, self._scorers, self._model.rescore, self._start_frame, self._previous)
        return make_search(self._options.mode, setup)
