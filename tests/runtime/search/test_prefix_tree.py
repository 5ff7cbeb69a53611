"""A beam search keeps the prefixes of its beam and their beginnings, and nothing else."""

import gc

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from wenet_fusion_runtime.results.vocabulary import RESERVED, Vocabulary
from wenet_fusion_runtime.search.frame_scores import FrameScores
from wenet_fusion_runtime.search.hot_words import HotWord
from wenet_fusion_runtime.search.prefix_beam import PrefixBeamSearch
from wenet_fusion_runtime.search.prefix_tree import Prefix
from wenet_fusion_runtime.search.scorer_set import ScorerSet, make_scorers

VOCABULARY = Vocabulary([*RESERVED, "▁a", "b", "▁b", "a"], "pieces")


def hot_words(phrase: str) -> ScorerSet:
    return make_scorers(VOCABULARY, [HotWord(phrase, 3.0)])


def random_scores(seed: int, frames: int) -> FrameScores:
    logits = np.random.default_rng(seed).standard_normal((frames, len(VOCABULARY))) * 3.0
    log_probs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    ids = np.argsort(-log_probs, axis=1, kind="stable")
    return FrameScores(np.take_along_axis(log_probs, ids, axis=1), ids, log_probs[:, 0])


def kept(search: PrefixBeamSearch) -> list[tuple[int, ...]]:
    """Return the sequences of all nodes in the tree of a search."""
    found, open_nodes = [], [search._beam[0].path()[0]]
    while open_nodes:
        node = open_nodes.pop()
        found.append(node.tokens())
        open_nodes += node.children.values()
    return sorted(found)


def needed(search: PrefixBeamSearch) -> list[tuple[int, ...]]:
    """Return the sequences in the beam and all their beginnings."""
    beam = [node.tokens() for node in search._beam]
    return sorted({tokens[:length] for tokens in beam for length in range(len(tokens) + 1)})


@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    beam_size=st.integers(1, 6),
    cuts=st.lists(st.integers(0, 20), max_size=4),
    scored=st.booleans(),
)
def test_the_tree_holds_the_beam_and_its_beginnings(seed: int, beam_size: int, cuts: list[int], scored: bool) -> None:
    search = PrefixBeamSearch(beam_size, scorers=hot_words("ab a") if scored else ScorerSet())
    scores, frame = random_scores(seed, 20), 0
    for cut in [*sorted(cuts), 20]:
        search.advance(scores.part(frame, cut))
        assert kept(search) == needed(search)
        search.commit(max(frame, cut - 5))
        assert kept(search) == needed(search)
        frame = cut


def test_a_dropped_search_is_freed_without_the_garbage_collector() -> None:
    def prefixes() -> int:
        return sum(type(each) is Prefix for each in gc.get_objects())

    gc.collect()
    gc.disable()
    try:
        before = prefixes()
        search = PrefixBeamSearch(scorers=hot_words("ab a"))
        search.advance(random_scores(0, 30))
        assert prefixes() > before + 20
        search.set_scorers(hot_words("b"))
        assert prefixes() == before + len(kept(search))
        del search
        assert prefixes() == before
    finally:
        gc.enable()
