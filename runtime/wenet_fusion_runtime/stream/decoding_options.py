"""Decoding options: those that a user gives, and the complete set for one model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

from wenet_fusion_runtime.model.metadata import MAX_WEIGHT, Meta
from wenet_fusion_runtime.results.formatters import Formatter, SafeFormatter
from wenet_fusion_runtime.results.vocabulary import Vocabulary
from wenet_fusion_runtime.search.grammar.grammar import DEFAULT_THRESHOLD, Grammar
from wenet_fusion_runtime.search.hot_words import HotWord
from wenet_fusion_runtime.search.language_models.language_model import LanguageModel
from wenet_fusion_runtime.search.modes import PREFIX_BEAM, RESCORING, SEARCH_MODES
from wenet_fusion_runtime.search.scorer_set import ScorerSet, make_scorers
from wenet_fusion_runtime.stream.endpoints import LIVE_ENDPOINTS, LONGEST_SECONDS, EndpointRules

DEFAULT_BEAM_SIZE = 10
LANGUAGE_MODEL_WEIGHTS = ("lm_weight", "word_bonus", "unknown_word_penalty")  # have no effect without a language model


@dataclass(frozen=True)
class DecodingOptions:
    """Options of the search from frame scores to text. None means the model's default, unless a comment says otherwise.

    Raises:
        ValueError: a value is out of its range.

    >>> DecodingOptions(mode="ctc_prefix_beam_search", beam_size=5).beam_size
    5
    """

    mode: str | None = None  # one of MODES; None: rescoring if the model has a decoder, else prefix beam search
    beam_size: int | None = None  # prefixes kept and rescored; None: 10, or the size of a smaller vocabulary
    ctc_weight: float | None = None  # weight of the CTC score in rescoring
    reverse_weight: float | None = None  # share of the right-to-left decoder in rescoring, 0 to 1
    nbest: int | None = None  # hypotheses of a final result; None: beam_size
    blank_penalty: float = 0.0  # nats subtracted from blank: fewer deletions, more insertions
    length_penalty: float = 0.0  # nats subtracted per token; negative values favour longer texts
    token_threshold: float = 10.0  # prune tokens more than this many nats below the frame's best
    blank_skip_threshold: float = 1.0  # keep only blank in frames where it is more probable than this; 1: never
    hot_words: Sequence[HotWord] = ()  # phrases to prefer or suppress, for all streams; a stream may add more
    language_model: LanguageModel | None = None  # scores words; None: no language model
    lm_weight: float = 0.5  # weight of the language model's log-probabilities
    word_bonus: float = 0.0  # nats added per word that the language model scores
    unknown_word_penalty: float = 0.0  # nats subtracted per word that the language model does not know
    endpoint: EndpointRules = EndpointRules()  # when segments close
    commit_seconds: float | None = None  # words this old are final; None: final once all hypotheses agree on them
    formatter: Formatter | None = None  # rewrites the text of a closed segment; see `load_formatter`
    grammar: Grammar | None = None  # the sentences that may be found; None: any text
    grammar_threshold: float = DEFAULT_THRESHOLD  # largest grammar gap, nats per token; inf rejects no sentence
    confidence_threshold: float | None = None  # segments with a lower confidence get no text; None: 0

    def __post_init__(self) -> None:
        if self.mode is not None and self.mode not in SEARCH_MODES:
            raise ValueError(f"unknown decoding mode '{self.mode}'; choose one of {', '.join(SEARCH_MODES)}")
        if self.beam_size is not None and self.beam_size < 1:
            raise ValueError(f"beam_size must be at least 1, found {self.beam_size}")
        if self.nbest is not None and self.nbest < 1:
            raise ValueError(f"nbest must be at least 1, found {self.nbest}")
        if self.ctc_weight is not None and not 0 <= self.ctc_weight <= MAX_WEIGHT:
            raise ValueError(f"ctc_weight must be 0 to {MAX_WEIGHT:g}, found {self.ctc_weight}")
        if self.reverse_weight is not None and not 0 <= self.reverse_weight <= 1:
            raise ValueError(f"reverse_weight must be 0 to 1, found {self.reverse_weight}")
        for name in ("blank_penalty", "lm_weight", "unknown_word_penalty"):
            if not 0 <= getattr(self, name) <= MAX_WEIGHT:
                raise ValueError(f"{name} must be 0 to {MAX_WEIGHT:g}, found {getattr(self, name)}")
        for name in ("length_penalty", "word_bonus"):
            if not abs(getattr(self, name)) <= MAX_WEIGHT:  # also true for NaN
                raise ValueError(f"{name} must be {-MAX_WEIGHT:g} to {MAX_WEIGHT:g}, found {getattr(self, name)}")
        if not (0 < self.token_threshold <= MAX_WEIGHT or self.token_threshold == math.inf):
            raise ValueError(
                f"token_threshold must be positive and at most {MAX_WEIGHT:g}, or inf to prune none, found "
                f"{self.token_threshold}"
            )
        if not (0 < self.grammar_threshold <= MAX_WEIGHT or self.grammar_threshold == math.inf):
            raise ValueError(
                f"grammar_threshold must be positive and at most {MAX_WEIGHT:g}, or inf to reject nothing, found "
                f"{self.grammar_threshold}"
            )
        if self.confidence_threshold is not None and not 0 <= self.confidence_threshold <= 1:
            raise ValueError(f"confidence_threshold must be 0 to 1, found {self.confidence_threshold}")
        if not 0.5 <= self.blank_skip_threshold <= 1:
            raise ValueError(f"blank_skip_threshold must be 0.5 to 1, found {self.blank_skip_threshold}")
        if self.commit_seconds is not None and not 0 < self.commit_seconds <= LONGEST_SECONDS:
            raise ValueError(
                f"commit_seconds must be a positive number (at most {LONGEST_SECONDS:g}), or None to wait until all "
                f"hypotheses agree, found {self.commit_seconds:g}"
            )

    def resolved(self, meta: Meta) -> ResolvedOptions:
        """Return these options with the model's values in place of None.

        Raises:
            ValueError: the model lacks a decoder that the options need, complete_probability lacks a language model,
                the beam is larger than the vocabulary or smaller than n-best, or an option has no effect in the mode.
        """
        mode = self.mode or (RESCORING if meta.decoder else PREFIX_BEAM)
        needs_decoder = SEARCH_MODES[mode].needs_decoder
        if needs_decoder and not meta.decoder:
            others = [name for name, other in SEARCH_MODES.items() if not other.needs_decoder]
            raise ValueError(f"the model has no attention decoder; choose {' or '.join(others)}")
        ends_sentences = self.endpoint.complete_probability is not None
        if ends_sentences and self.language_model is None:
            raise ValueError(
                "complete_probability needs a language model, which knows where sentences end; give one, or leave the "
                "rule out"
            )
        if self.hot_words or (self.language_model is not None and not ends_sentences) or self.length_penalty:
            check_alternatives(mode, "hot words, a language model and a length penalty")
        if self.grammar is not None:
            check_alternatives(mode, "grammars")
        reverse_weight = meta.reverse_weight if self.reverse_weight is None else self.reverse_weight
        if needs_decoder and reverse_weight and not meta.reverse_decoder:
            raise ValueError(
                f"the model has no right-to-left decoder; reverse_weight must be 0, found {reverse_weight}"
            )
        size = len(meta.vocabulary)
        beam_size = min(DEFAULT_BEAM_SIZE, size) if self.beam_size is None else self.beam_size
        if beam_size > size:
            raise ValueError(
                f"beam_size {beam_size} is larger than the vocabulary of {size} tokens; choose {size} or less"
            )
        nbest = beam_size if self.nbest is None else self.nbest
        if nbest > beam_size:
            raise ValueError(f"nbest {nbest} is more than beam_size {beam_size}; choose a larger beam")
        ctc_weight = meta.ctc_weight if self.ctc_weight is None else self.ctc_weight
        given = {field.name: getattr(self, field.name) for field in fields(DecodingOptions)}
        chosen = {"mode": mode, "beam_size": beam_size, "ctc_weight": ctc_weight, "nbest": nbest}
        chosen["confidence_threshold"] = self.confidence_threshold or 0.0
        if self.formatter is not None and not isinstance(self.formatter, SafeFormatter):
            given["formatter"] = SafeFormatter(self.formatter)
        return ResolvedOptions(**(given | chosen | {"reverse_weight": reverse_weight}))

    def scorers(self, vocabulary: Vocabulary) -> ScorerSet:
        """Prepare hot words, language model, length penalty and grammar for a vocabulary; see `make_scorers`.

        Raises:
            ValueError: hot words (the message lists all of them), the language model or the grammar cannot be used.
        """
        weights = {name: getattr(self, name) for name in LANGUAGE_MODEL_WEIGHTS}
        return make_scorers(
            vocabulary,
            self.hot_words,
            self.language_model,
            **weights,
            length_penalty=self.length_penalty,
            grammar=self.grammar,
        )


@dataclass(frozen=True)
class ResolvedOptions(DecodingOptions):
    """Decoding options for one model, made by `DecodingOptions.resolved`: every default is filled in.

    >>> ResolvedOptions("ctc_greedy_search", 10, ctc_weight=0.5, reverse_weight=0.0, nbest=1).nbest
    1
    """

    mode: str
    beam_size: int
    ctc_weight: float
    reverse_weight: float
    nbest: int
    confidence_threshold: float = 0.0


def check_alternatives(mode: str, what: str) -> None:
    """Raise ValueError if `mode` keeps a single hypothesis, so that `what` cannot change its text."""
    if not SEARCH_MODES[mode].has_alternatives:
        others = [name for name, other in SEARCH_MODES.items() if other.has_alternatives]
        raise ValueError(f"{mode} keeps a single hypothesis, so {what} have no effect; choose {' or '.join(others)}")


FILE_OPTIONS = DecodingOptions()
LIVE_OPTIONS = DecodingOptions(endpoint=LIVE_ENDPOINTS, commit_seconds=1.0)  # microphones and servers
