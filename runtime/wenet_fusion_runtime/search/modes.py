"""The decoding modes: a table with the search of each mode."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

from wenet_fusion_runtime.results.vocabulary import BLANK
from wenet_fusion_runtime.search.confidence_filter import ConfidenceFilter
from wenet_fusion_runtime.search.grammar.grammar_search import GrammarSearch
from wenet_fusion_runtime.search.greedy import GreedySearch
from wenet_fusion_runtime.search.prefix_beam import PrefixBeamSearch
from wenet_fusion_runtime.search.rescoring import DecoderScores, RescoringSearch
from wenet_fusion_runtime.search.scorer_set import ScorerSet
from wenet_fusion_runtime.search.search_protocol import Search

GREEDY, PREFIX_BEAM, RESCORING = "ctc_greedy_search", "ctc_prefix_beam_search", "attention_rescoring"


class SearchOptions(Protocol):
    """The options that searches read; `ResolvedOptions` holds and explains them."""

    @property
    def beam_size(self) -> int:
        """Prefixes kept after each frame."""
        ...

    @property
    def ctc_weight(self) -> float:
        """Weight of the CTC score in rescoring."""
        ...

    @property
    def reverse_weight(self) -> float:
        """Share of the right-to-left decoder in rescoring."""
        ...

    @property
    def token_threshold(self) -> float:
        """Nats below the frame's best token at which tokens are pruned."""
        ...

    @property
    def blank_skip_threshold(self) -> float:
        """Probability of blank above which the other tokens of a frame are dropped."""
        ...

    @property
    def grammar_threshold(self) -> float:
        """Nats per token that a grammar may cost before a hypothesis is rejected."""
        ...

    @property
    def confidence_threshold(self) -> float:
        """Least confidence of a segment's text; 0: any."""
        ...


class SearchSetup(NamedTuple):
    """The inputs from which a mode builds the search of one segment."""

    options: SearchOptions
    scorers: ScorerSet
    decoder_scores: DecoderScores  # runs the attention decoders
    start_frame: int = 0  # first frame of the segment, counted from the start of the stream
    previous: int = BLANK  # the token that the cut before the segment split in two; BLANK: none


class SearchMode(NamedTuple):
    """A decoding mode."""

    make: Callable[[SearchSetup], Search]
    has_alternatives: bool = True  # keeps several hypotheses, so that scorers can change the text
    needs_decoder: bool = False  # runs the attention decoders


def _greedy(setup: SearchSetup) -> Search:
    return GreedySearch(setup.start_frame, setup.previous)


def _prefix_beam(setup: SearchSetup) -> Search:
    options = setup.options
    thresholds = options.token_threshold, options.blank_skip_threshold
    search = PrefixBeamSearch(options.beam_size, setup.start_frame, setup.previous, setup.scorers, *thresholds)
    if setup.scorers.has_grammar:
        return GrammarSearch(search, options.grammar_threshold, options.beam_size, setup.previous)
    return search


def _rescoring(setup: SearchSetup) -> Search:
    options = setup.options
    weights = options.ctc_weight, options.reverse_weight
    return RescoringSearch(_prefix_beam(setup), setup.decoder_scores, options.beam_size, *weights)


SEARCH_MODES: Mapping[str, SearchMode] = {
    GREEDY: SearchMode(_greedy, has_alternatives=False),
    PREFIX_BEAM: SearchMode(_prefix_beam),
    RESCORING: SearchMode(_rescoring, needs_decoder=True),
}
MODES = tuple(SEARCH_MODES)  # the search modes that commands, streams and servers offer


def make_search(mode: str, setup: SearchSetup) -> Search:
    """Return the search of a mode for one segment; a confidence threshold above 0 makes it reject doubtful text."""
    search, threshold = SEARCH_MODES[mode].make(setup), setup.options.confidence_threshold
    return ConfidenceFilter(search, threshold) if threshold > 0 else search
