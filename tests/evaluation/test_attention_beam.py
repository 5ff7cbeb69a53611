"""Attention beam search as a search of the runtime: the same hypotheses as over whole utterances, exact commits."""

import numpy as np
import pytest
import torch
from wenet_fusion_runtime.search.frame_scores import FrameScores
from wenet_fusion_runtime.search.search_protocol import Search

from wenet_fusion.evaluation.attention_beam import AttentionBeamSearch, attention_search
from wenet_fusion.model.decoder import Decoder, DecoderConfig

FRAMES, DIM = 7, 8


@pytest.fixture
def decoder() -> Decoder:
    torch.manual_seed(3)  # with this seed the best text differs after 4 and after 7 frames
    config = DecoderConfig(layers=2, reverse_layers=0, heads=2, feed_forward=16)
    model = Decoder(6, DIM, 2, config).eval()
    with torch.no_grad():
        model.out.weight.mul_(3.0)
        model.out.bias[2] -= 5.0  # prefers further tokens to the end of the sentence
    return model


def encoder_out(frames: int = FRAMES) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((1, frames, DIM)).astype(np.float32)


def no_scores(frames: int) -> FrameScores:
    """Return empty CTC scores, because the decoder reads none."""
    return FrameScores(np.zeros((frames, 1)), np.zeros((frames, 1), np.int64), np.zeros(frames))


def read(search: Search, start: int, stop: int) -> None:
    search.advance(no_scores(stop - start), encoder_out()[:, start:stop])


def test_any_cut_gives_the_hypotheses_of_the_whole_utterance(decoder: Decoder) -> None:
    expected = attention_search(decoder, torch.from_numpy(encoder_out()), torch.tensor([FRAMES]), 4)[0]
    assert len(expected) == 4 and expected[0].ids
    for cuts in ([], [1, 4], [3, 3, 6]):
        search = AttentionBeamSearch(decoder, 4, start_frame=100)
        for start, stop in zip([0, *cuts], [*cuts, FRAMES]):
            read(search, start, stop)
            search.hypotheses(1)
        found = search.final_hypotheses(4)
        assert [each.ids for each in found] == [each.ids for each in expected]
        np.testing.assert_allclose([each.score for each in found], [each.score for each in expected], rtol=1e-6)
        assert all(each.attention_score == each.score for each in found)
        assert set(found[0].frames) == {100 + FRAMES - 1} and len(found[0].confidences) == len(found[0].ids)
        assert found[0].confidences[0] ** (len(found[0].ids) + 1) == pytest.approx(np.exp(found[0].score))


def test_only_a_commit_after_the_last_frame_makes_tokens_final(decoder: Decoder) -> None:
    search = AttentionBeamSearch(decoder, 4, start_frame=100)
    read(search, 0, 4)
    best = search.hypotheses(1)[0]
    assert best.ids
    search.commit(103)  # the tokens were emitted in frame 103, and so not before it
    assert search.stable_length() == 0
    search.commit(104)
    assert search.stable_length() == len(best.ids)
    read(search, 4, FRAMES)
    for each in search.hypotheses(4):
        assert each.ids[: len(best.ids)] == best.ids and each.frames[: len(best.ids)] == best.frames
        assert set(each.frames[len(best.ids) :]) <= {106}


def test_a_prefix_is_part_of_the_score(decoder: Decoder) -> None:
    memory, lengths = torch.from_numpy(encoder_out()), torch.tensor([FRAMES])
    free = attention_search(decoder, memory, lengths, 8)[0]
    forced = attention_search(decoder, memory, lengths, 8, prefix=free[0].ids[:1])[0]
    assert (forced[0].ids, forced[0].score) == (free[0].ids, pytest.approx(free[0].score, rel=1e-6))
    other = next(token for token in (3, 4, 5) if token != free[0].ids[0])
    assert all(each.ids[0] == other for each in attention_search(decoder, memory, lengths, 8, prefix=[other])[0])
