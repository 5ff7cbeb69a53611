"""From the scores of encoder frames to results: one path for streams and offline evaluation. Knows no audio files."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from wenet_fusion_runtime.model.acoustic_model import AcousticModel, StepScores, join
from wenet_fusion_runtime.model.metadata import Meta
from wenet_fusion_runtime.results.result import Endpoint, Hypothesis, Result
from wenet_fusion_runtime.results.vocabulary import BLANK, Vocabulary
from wenet_fusion_runtime.search.greedy import FrameScores, GreedySearch
from wenet_fusion_runtime.search.hot_words import HotWord
from wenet_fusion_runtime.search.prefix_beam import PrefixBeamSearch
from wenet_fusion_runtime.search.rescoring import rescore
from wenet_fusion_runtime.search.scorers import Fusion, LanguageModel
from wenet_fusion_runtime.stream.endpoints import LIVE_ENDPOINTS, EndpointRules, FrameRules, SegmentCounts
from wenet_fusion_runtime.stream.result_building import make_result

GREEDY, PREFIX_BEAM, RESCORING = "ctc_greedy_search", "ctc_prefix_beam_search", "attention_rescoring"
MODES = (GREEDY, PREFIX_BEAM, RESCORING)
DEFAULT_BEAM_SIZE = 10
COMMIT_FRAMES = 5  # old tokens are decided every so many frames
OFFLINE_BLOCK_FRAMES = 2048  # 82 s at 40 ms; attention within a block costs memory by its square


@dataclass(frozen=True)
class DecodingOptions:
    """How frames become text. None means the model's own default.

    Raises:
        ValueError: a value is out of its range.
    """

    mode: str | None = None  # one of MODES; None: rescoring if there is a decoder, else prefix beam
    beam_size: int | None = None  # hypotheses kept by the beam search, and rescored; None: 10 at most
    ctc_weight: float | None = None  # of the CTC score in rescoring
    reverse_weight: float | None = None  # share of the right-to-left decoder in rescoring, 0 to 1
    nbest: int | None = None  # hypotheses of a final result; None: beam_size
    blank_penalty: float = 0.0  # nats that make blank less probable: fewer deletions, more insertions
    length_penalty: float = 0.0  # nats taken for each token; negative favours longer texts
    token_threshold: float = 10.0  # units so many nats below a frame's best are not considered
    blank_skip_threshold: float = 1.0  # where blank is more probable than this, no unit is; 1 skips nothing
    hot_words: Sequence[HotWord] = ()  # preferred phrases; a stream may have more
    language_model: LanguageModel | None = None
    lm_weight: float = 0.5  # of its log-probabilities
    word_bonus: float = 0.0  # nats for each word that it scores
    endpoint: EndpointRules = EndpointRules()  # when segments close
    commit_seconds: float | None = None  # older tokens are decided for good; None: when the segment closes

    def __post_init__(self) -> None:
        if self.mode is not None and self.mode not in MODES:
            raise ValueError(f"unknown decoding mode '{self.mode}'; choose one of {', '.join(MODES)}")
        if self.beam_size is not None and self.beam_size < 1:
            raise ValueError(f"beam_size must be at least 1, found {self.beam_size}")
        if self.nbest is not None and self.nbest < 1:
            raise ValueError(f"nbest must be at least 1, found {self.nbest}")
        if self.ctc_weight is not None and not 0 <= self.ctc_weight < math.inf:
            raise ValueError(f"ctc_weight must be a number and not negative, found {self.ctc_weight}")
        if self.reverse_weight is not None and not 0 <= self.reverse_weight <= 1:
            raise ValueError(f"reverse_weight must be 0 to 1, found {self.reverse_weight}")
        for name in ("blank_penalty", "lm_weight"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be a number and not negative, found {getattr(self, name)}")
        for name in ("length_penalty", "word_bonus"):
            if not math.isfinite(getattr(self, name)):
                raise ValueError(f"{name} must be a number, found {getattr(self, name)}")
        if not self.token_threshold > 0:
            raise ValueError(f"token_threshold must be positive, found {self.token_threshold}")
        if not 0.5 <= self.blank_skip_threshold <= 1:
            raise ValueError(f"blank_skip_threshold must be 0.5 to 1, found {self.blank_skip_threshold}")
        if self.commit_seconds is not None and not 0 < self.commit_seconds < math.inf:
            raise ValueError(
                "commit_seconds must be a positive number, or None for the end of the segment, found "
                f"{self.commit_seconds:g}"
            )

    def resolved(self, meta: Meta) -> DecodingOptions:
        """These options with the model's values in place of None.

        Raises:
            ValueError: the model lacks the decoder that the options ask for, the beam is larger than the vocabulary or
                smaller than n-best, or the mode cannot do what the options ask for.
        """
        mode = self.mode or (RESCORING if meta.decoder else PREFIX_BEAM)
        if mode == RESCORING and not meta.decoder:
            raise ValueError(f"the model has no attention decoder; choose {GREEDY} or {PREFIX_BEAM}")
        if mode == GREEDY and (self.hot_words or self.language_model is not None or self.length_penalty):
            raise ValueError(
                f"{GREEDY} knows no alternatives, so hot words, a language model and a length penalty have "
                f"no effect; choose {' or '.join(MODES[1:])}"
            )
        reverse_weight = meta.reverse_weight if self.reverse_weight is None else self.reverse_weight
        if mode == RESCORING and reverse_weight and not meta.reverse_decoder:
            raise ValueError(
                f"the model has no right-to-left decoder; reverse_weight must be 0, found {reverse_weight}"
            )
        beam_size = min(DEFAULT_BEAM_SIZE, len(meta.vocabulary)) if self.beam_size is None else self.beam_size
        if beam_size > len(meta.vocabulary):
            raise ValueError(
                f"beam_size {beam_size} is larger than the vocabulary of {len(meta.vocabulary)} units; choose "
                f"{len(meta.vocabulary)} or less"
            )
        nbest = beam_size if self.nbest is None else self.nbest
        if nbest > beam_size:
            raise ValueError(f"nbest {nbest} is more than beam_size {beam_size}; choose a larger beam")
        ctc_weight = meta.ctc_weight if self.ctc_weight is None else self.ctc_weight
        return replace(
            self, mode=mode, beam_size=beam_size, nbest=nbest, ctc_weight=ctc_weight, reverse_weight=reverse_weight
        )

    def fusion(self, units: Vocabulary) -> Fusion:
        """What these options add to the scores of a search.

        Raises:
            ValueError: hot words that the units cannot spell, or that are otherwise unusable, all of them.
        """
        return Fusion(units, self.hot_words, self.language_model, self.lm_weight, self.word_bonus, self.length_penalty)


FILE_OPTIONS = DecodingOptions()
LIVE_OPTIONS = DecodingOptions(endpoint=LIVE_ENDPOINTS, commit_seconds=1.0)  # microphones; see also server.settings


class SegmentDecoder:
    """Decodes the frames of one stream, any number at a time, and cuts it into segments.

    Results depend on the frames only, not on how they arrive. What is kept belongs to the open segment, so memory and
    time per frame do not grow with the stream.

    Args:
        fusion: what is added to the scores of the search; None: what the options say. Making it takes time if there are
            many hot words, so streams should share it.
    """

    def __init__(self, model: AcousticModel, options: DecodingOptions, fusion: Fusion | None = None) -> None:
        self._model = model
        self._options = options.resolved(model.meta)
        self._fusion = self._options.fusion(model.meta.vocabulary) if fusion is None else fusion
        self._rules = FrameRules(options.endpoint, model.meta.frame_seconds)
        self._segment = 0
        self._start_frame = 0
        self._spoken_until = 0.0  # seconds: end of the last token of the closed segments
        self._counts = SegmentCounts()
        self._encoder_blocks: list[np.ndarray] = []
        self._previous = BLANK  # the token within which the open segment began
        self._search = self._new_search()
        self._partial: Result | None = None  # of the frames so far, once somebody asked for it

    def accept(self, scores: FrameScores, encoder_out: np.ndarray) -> list[Result]:
        """Decode T more frames; returns the segments that closed in them.

        Args:
            scores: of T frames.
            encoder_out: (1, T, D), used by attention rescoring.
        """
        closed, self._partial = [], None
        if self._options.blank_penalty:
            scores = scores.with_blank_penalty(self._options.blank_penalty)
        while True:
            self._counts, count, endpoint = self._rules.scan(self._counts, scores.ids[:, 0], scores.blank)
            self._advance(scores.part(0, count))
            if self._options.mode == RESCORING:
                self._encoder_blocks.append(encoder_out[:, :count])
            if endpoint is None:
                return closed
            closed.append(self.close(endpoint))
            scores, encoder_out = scores.part(count), encoder_out[:, count:]

    def _advance(self, scores: FrameScores) -> None:
        """Search the next T frames, which are counted already; decide old tokens at frames that do not depend on T."""
        seconds, frame = self._options.commit_seconds, self._start_frame + self._counts.frames - len(scores.blank)
        if seconds is None or self._options.mode == GREEDY:
            self._search.advance(scores)
            return
        age, first = round(seconds / self._model.meta.frame_seconds), 0
        while first < len(scores.blank):
            stop = first + COMMIT_FRAMES - (frame + first) % COMMIT_FRAMES
            self._search.advance(scores.part(first, stop))
            if stop <= len(scores.blank):
                self._search.commit(frame + stop - age)
            first = stop

    def partial(self) -> Result:
        """The open segment so far, from the search alone."""
        if self._partial is None:
            self._partial = self._result(self._search.hypotheses(self._options.beam_size), None)
        return self._partial

    def close(self, endpoint: Endpoint = Endpoint.REQUEST) -> Result:
        """Close the open segment, which may be empty, after the frames so far. The next frame begins another one."""
        self._partial = None
        hypotheses = self._search.final_hypotheses(self._options.beam_size)
        if self._options.mode == RESCORING and self._counts.frames:
            decoder_scores = self._model.rescore(self._encoder_blocks, [hypothesis.ids for hypothesis in hypotheses])
            hypotheses = rescore(hypotheses, decoder_scores, self._options.ctc_weight, self._options.reverse_weight)
        result = self._result(hypotheses[: self._options.nbest], endpoint)
        if result.tokens:
            self._spoken_until = result.tokens[-1].end_seconds
        # A segment that had to be closed within a token: the token's remaining frames are not a new one, unless the
        # segment's text lacks it.
        last_token = (self._previous, *hypotheses[0].ids)[-1]
        self._previous = self._counts.previous if self._counts.previous == last_token else BLANK
        self._segment += 1
        self._start_frame += self._counts.frames
        self._counts = SegmentCounts(previous=self._previous)
        self._encoder_blocks = []
        self._search = self._new_search()
        return result

    def finish(self) -> Result:
        """Close the last segment at the end of the audio."""
        return self.close(Endpoint.END)

    def _result(self, hypotheses: list[Hypothesis], endpoint: Endpoint | None) -> Result:
        start, stop = self._start_frame, self._start_frame + self._counts.frames
        return make_result(hypotheses, self._model.meta, self._segment, (start, stop), endpoint, self._spoken_until)

    def _new_search(self) -> GreedySearch | PrefixBeamSearch:
        if self._options.mode == GREEDY:
            return GreedySearch(self._start_frame, self._previous)
        options, fusion = self._options, self._fusion if self._fusion.adds_something else None
        return PrefixBeamSearch(
            options.beam_size,
            self._start_frame,
            self._previous,
            fusion,
            options.token_threshold,
            options.blank_skip_threshold,
        )


def decode_rows(model: AcousticModel, step: StepScores, options: DecodingOptions) -> list[list[Result]]:
    """The segments of each row of a step that began with a fresh state and held whole utterances."""
    results, fusion = [], options.fusion(model.meta.vocabulary)
    for index in range(len(step.lengths)):
        decoder = SegmentDecoder(model, options, fusion)
        results.append([*decoder.accept(*step.row(index)), decoder.finish()])
    return results


def offline_step(model: AcousticModel, utterances: Sequence[np.ndarray], chunk: int, left: int) -> StepScores:
    """Run whole utterances as one batch, as if in one step; decode it in as many ways as needed with `decode_rows`.

    Long audio runs in blocks of whole chunks with the state between them, so memory does not grow with its square.

    Args:
        utterances: samples (n,) of each, at the model's rate. The model's silent tail is appended here.
        chunk: frames per chunk; a chunk that holds the longest utterance is full context, and always allowed.
        left: chunks visible to the left.
    Raises:
        ValueError: the model was not trained for the chunk with this left context.
    """
    meta = model.meta
    lengths = [len(samples) + meta.right_padding_samples for samples in utterances]
    frames = max(1, -(-max(lengths) // meta.frame_samples))
    meta.check_chunk(chunk, left, allow_untrained=chunk >= frames)
    padded = np.zeros((len(utterances), frames * meta.frame_samples), dtype=np.float32)
    for row, samples in enumerate(utterances):
        padded[row, : len(samples)] = samples
    block = chunk * max(1, OFFLINE_BLOCK_FRAMES // chunk) * meta.frame_samples
    state, steps = model.init_state(len(utterances), chunk, left), []
    for start in range(0, padded.shape[1], block):
        # A row that has ended goes on with no samples; nothing of its output counts.
        valid = [min(max(length - start, 0), block) for length in lengths]
        scores, state = model.step(padded[:, start : start + block], valid, chunk, left, state)
        steps.append(scores)
    return join(steps)


def transcribe_offline(
    model: AcousticModel, samples: np.ndarray, chunk: int, left: int, options: DecodingOptions = DecodingOptions()
) -> list[Result]:
    """The segments of one utterance, samples (n,) at the model's rate, run at once: a stream's, token for token."""
    return decode_rows(model, offline_step(model, [samples], chunk, left), options)[0]
