"""The search within a grammar against enumeration of all alignments, and the promises of its protocol."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.runtime.fake_model import make_model
from test_jsgf import sentences
from test_searches import collapse, enumerate_prefixes, frame_options, random_scores
from wenet_fusion_runtime import DecodingOptions, Grammar, HotWord, Vocabulary
from wenet_fusion_runtime.results.result import Hypothesis
from wenet_fusion_runtime.results.vocabulary import RESERVED
from wenet_fusion_runtime.search.frame_scores import FrameScores
from wenet_fusion_runtime.search.grammar.grammar_search import GrammarSearch
from wenet_fusion_runtime.search.modes import PREFIX_BEAM, RESCORING, SEARCH_MODES, SearchSetup
from wenet_fusion_runtime.search.prefix_beam import PrefixBeamSearch
from wenet_fusion_runtime.search.scorer_set import make_scorers
from wenet_fusion_runtime.search.search_protocol import Search

WORDS = Vocabulary([*RESERVED, "one", "two", "six"], "words")
GRAMMARS = [
    "one two\nsix\ntwo two",
    "#JSGF V1.0; public <s> = (one | six) [two] one;",
    "#JSGF V1.0; public <s> = (/4/ one | /1/ two)+;",
    "#JSGF V1.0; public <s> = two* six; ",
    "one",
]
FRAMES = 5
WIDE = 10_000


def tokens(scores: FrameScores) -> FrameScores:
    """Random scores are of blank and 1, 2, 3: they become blank and the words."""
    return scores._replace(ids=np.where(scores.ids > 0, scores.ids + 2, 0))


def best_alignments(scores: FrameScores) -> dict[tuple[int, ...], float]:
    """ids -> log-probability of the most probable alignment, by brute force."""
    options, found = [frame_options(scores, frame) for frame in range(scores.frames)], dict[tuple[int, ...], float]()
    for alignment in itertools.product(*options):
        ids = collapse(alignment)[0]
        log_prob = sum(options[frame][token] for frame, token in enumerate(alignment))
        found[ids] = max(found.get(ids, -math.inf), log_prob)
    return found


def expected(scores: FrameScores, grammar: Grammar, threshold: float) -> dict[tuple[int, ...], tuple[float, ...]]:
    """ids -> score, weight and gap of the sentences that are not rejected, from the sums over all alignments."""
    allowed = {(): 1.0} | sentences(grammar, FRAMES)
    best = scores.log_probs[:, 0].astype(float).sum()
    free = scores.ids[:, 0].tolist()
    count = sum(token not in (0, before) for token, before in zip(free, [0, *free]))
    found = {}
    alignments = best_alignments(scores)
    for ids, (total, _) in enumerate_prefixes(scores).items():
        weight = allowed.get(tuple(WORDS.tokens[token] for token in ids))
        gap = (best - alignments[ids]) / max(1, count, len(ids))
        if weight is not None and (not ids or gap <= threshold):
            found[ids] = (total + math.log(weight), math.log(weight), gap)
    return found


def agrees_with_enumeration(scores: FrameScores, text: str, threshold: float) -> bool:
    grammar = Grammar(text)
    search = GrammarSearch(PrefixBeamSearch(WIDE, scorers=make_scorers(WORDS, grammar=grammar)), threshold, WIDE)
    search.advance(scores)
    found = search.final_hypotheses(WIDE)
    wanted = expected(scores, grammar, threshold)
    values = {each.ids: (each.score, each.grammar_score, each.grammar_gap) for each in found}
    in_order = [each.score for each in found] == sorted((each.score for each in found), reverse=True)
    return (
        in_order
        and values.keys() == wanted.keys()
        and all(values[i] == pytest.approx(wanted[i], abs=1e-9) for i in wanted)
    )


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    frames=st.integers(0, FRAMES),
    text=st.sampled_from(GRAMMARS),
    threshold=st.sampled_from([0.3, 1.0, 2.0, math.inf]),
)
def test_sentences_and_scores_are_those_of_all_alignments(seed: int, frames: int, text: str, threshold: float) -> None:
    assert agrees_with_enumeration(tokens(random_scores(seed, frames, 4)), text, threshold)


def test_confidences_are_lower_by_the_gap() -> None:
    scores = tokens(random_scores(3, FRAMES, 4))
    scorers = make_scorers(WORDS, grammar=Grammar(GRAMMARS[2]))
    within, plain = GrammarSearch(PrefixBeamSearch(WIDE, scorers=scorers), math.inf, WIDE), PrefixBeamSearch(WIDE)
    within.advance(scores)
    plain.advance(scores)
    all_confidences = {each.ids: each.confidences for each in plain.hypotheses(WIDE)}
    found = [each for each in within.hypotheses(WIDE) if each.ids]
    assert len({each.grammar_gap for each in found}) > 3
    for each in found:
        assert each.confidences == pytest.approx([c * math.exp(-each.grammar_gap) for c in all_confidences[each.ids]])


def spoken(words: str, sure: float = 0.98, silence: int = 3) -> FrameScores:
    """Frames in which the words are nearly certain, each after some silence."""
    ids = [token for word in words.split() for token in [0] * silence + [WORDS.tokens.index(word)]] + [0] * silence
    rest = np.array([(1.0 - sure) / 3 if token else 1e-5 for token in ids])
    rows = [[token, *(other for other in (0, 3, 4, 5) if other != token)] for token in ids]
    log_probs = np.log(np.stack([1.0 - 3 * rest, rest, rest, rest], axis=1))
    blank = np.where(ids, np.log(rest), log_probs[:, 0])
    return FrameScores(log_probs.astype(np.float32), np.array(rows), blank.astype(np.float32))


def final(scores: FrameScores, text: str, threshold: float = 1.0) -> Hypothesis:
    search = GrammarSearch(PrefixBeamSearch(10, scorers=make_scorers(WORDS, grammar=Grammar(text))), threshold, 10)
    search.advance(scores)
    return search.final_hypotheses()[0]


@pytest.mark.parametrize(
    "words, text, accepted",
    [
        ("one two", "one two\nsix", True),
        ("one two", "one two six", False),  # cut off
        ("one two six", "one two", False),  # more than a sentence
        ("one six", "one two\nsix one", False),
        ("one two one two", "one two", False),  # repeated, which the grammar does not allow
        ("one two one two", "#JSGF V1.0; public <s> = (one two)+;", True),
        ("", "one two", False),
    ],
)
@pytest.mark.parametrize("silence", [3, 300])
def test_only_whole_sentences_are_accepted(words: str, text: str, accepted: bool, silence: int) -> None:
    found = final(spoken(words, silence=silence), text)
    assert WORDS.text(found.ids) == (words if accepted else "")
    assert (found.grammar_gap < 0.1) == (accepted or not words)  # however long the silence


def test_forced_sentences_have_a_low_confidence() -> None:
    forced = final(spoken("one six"), "one two", threshold=math.inf)
    right = final(spoken("one six"), "one six", threshold=math.inf)
    assert WORDS.text(forced.ids) == "one two" and max(forced.confidences) < 0.3 < 0.9 < min(right.confidences)


def prefers_long(encoder_out: list[np.ndarray], hypotheses: list[tuple[int, ...]]) -> np.ndarray:
    return np.array([[20.0 * len(ids), 0.0] for ids in hypotheses])


OPTIONS = DecodingOptions(beam_size=5, grammar_threshold=2.0).resolved(make_model().meta)


def make(mode: str, text: str, options: DecodingOptions = OPTIONS) -> Search:
    scorers = make_scorers(WORDS, [HotWord("two", 1.0)], length_penalty=0.1, grammar=Grammar(text))
    return SEARCH_MODES[mode].make(SearchSetup(options, scorers, prefers_long, 7, previous=3))


def advance(search: Search, scores: FrameScores) -> None:
    search.advance(scores, np.zeros((1, scores.frames, 2), np.float32))


@pytest.mark.parametrize("mode", [PREFIX_BEAM, RESCORING])
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), cuts=st.lists(st.integers(0, 40), max_size=6), text=st.sampled_from(GRAMMARS))
def test_cuts_and_commits_change_nothing(mode: str, seed: int, cuts: list[int], text: str) -> None:
    scores, whole, cut = tokens(random_scores(seed, 40, 4, sharpness=2.5)), make(mode, text), make(mode, text)
    advance(whole, scores)
    allowed = [(), *sentences(Grammar(text), 6)]
    for start, stop in zip([0, *sorted(cuts)], [*sorted(cuts), 40]):
        advance(cut, scores.part(start, stop))
        cut.commit(7 + stop)
        assert cut.stable_length() == 0
        for each in cut.final_hypotheses(5):
            words = tuple(WORDS.tokens[token] for token in each.ids)
            assert len(words) > 6 or words in allowed
            assert not words or each.grammar_gap <= OPTIONS.grammar_threshold
    for count in (1, 3, 5):
        assert cut.hypotheses(count) == whole.hypotheses(count) == whole.hypotheses(5)[:count]
        assert cut.final_hypotheses(count) == whole.final_hypotheses(5)[:count]


def test_rescoring_chooses_among_sentences() -> None:
    scores = spoken("one two", sure=0.7)
    lists = [
        make(mode, "one two\none two six two", replace(OPTIONS, grammar_threshold=9.0))
        for mode in (PREFIX_BEAM, RESCORING)
    ]
    for search in lists:
        advance(search, scores._replace(ids=np.where(scores.ids == 3, 5, np.where(scores.ids == 5, 3, scores.ids))))
    assert {each.ids for each in lists[0].final_hypotheses(5)} == {each.ids for each in lists[1].final_hypotheses(5)}
    assert all(WORDS.text(each.ids) in ("", "one two", "one two six two") for each in lists[1].final_hypotheses(5))


def test_the_enumeration_catches_a_rejection_by_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    judged = GrammarSearch._judged
    monkeypatch.setattr(
        GrammarSearch,
        "_judged",
        lambda self, each: judged(self, each)._replace(grammar_gap=judged(self, each).grammar_gap / 2),
    )
    assert not agrees_with_enumeration(tokens(random_scores(3, FRAMES, 4)), GRAMMARS[2], 1.0)
