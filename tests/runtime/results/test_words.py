"""Words of results: text, timestamps and confidence, and the final words of a partial result."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.runtime.fake_model import LoudnessModel, make_model, speak
from wenet_fusion_runtime import AcousticModel, DecodingOptions
from wenet_fusion_runtime.results.result import Hypothesis, Result, Token
from wenet_fusion_runtime.results.vocabulary import RESERVED, Vocabulary
from wenet_fusion_runtime.results.words import group_words, joined_words
from wenet_fusion_runtime.search import prefix_beam
from wenet_fusion_runtime.search.frame_scores import FrameScores
from wenet_fusion_runtime.search.modes import GREEDY, MODES, PREFIX_BEAM, RESCORING
from wenet_fusion_runtime.search.prefix_beam import PrefixBeamSearch
from wenet_fusion_runtime.stream.endpoints import EndpointRules
from wenet_fusion_runtime.stream.offline import transcribe_offline
from wenet_fusion_runtime.stream.segment_decoder import SegmentDecoder

BPE = Vocabulary([*RESERVED, "\u2581HEL", "LO", "\u2581", "\u2581YOU", "A\u2581B", "R"], "pieces")
MIXED = Vocabulary([*RESERVED, "\u4f60", "\u597d", "\u2581O", "K", "\u3042\u2581X", "\u3042Y\u597d"], "pieces")
CHARACTERS = Vocabulary([*RESERVED, "\u4f60", "\u597d", "o", "k"], "pieces")  # no token has the mark of a word's start
WORDS = Vocabulary([*RESERVED, "one", "two"], "words")
ALL_UNITS = [BPE, MIXED, CHARACTERS, WORDS]


def tokens_of(ids: list[int], units: Vocabulary) -> list[Token]:
    """Return one token per 0.1 s, with confidences 0.9, 0.8, ..."""
    return [Token(unit, units.tokens[unit], 0.1 * at, 0.1 * at + 0.04, 0.9 - 0.1 * at) for at, unit in enumerate(ids)]


def texts(ids: list[int], units: Vocabulary) -> list[str]:
    return [word.text for word in group_words(tokens_of(ids, units), units).words]


def test_words_of_every_kind_of_vocabulary() -> None:
    assert texts([3, 4, 4], WORDS) == ["one", "two", "two"]
    assert texts([3, 4, 6], BPE) == ["HELLO", "YOU"]
    assert texts([3, 4, 5, 8, 5, 5, 4], BPE) == ["HELLO", "R", "LO"]
    assert texts([4, 7, 8], BPE) == ["LOA", "BR"], "a piece may end one word and begin another"
    assert texts([3, 1, 6, 1], BPE) == ["HEL<unk>", "YOU<unk>"]
    assert texts([3, 4, 5, 6, 3, 7, 6], MIXED) == ["\u4f60", "\u597d", "OK", "\u4f60", "\u3042", "XK"]
    assert texts([6, 8, 6], MIXED) == ["K", "\u3042", "Y", "\u597d", "K"]
    assert texts([3, 4, 5, 6], CHARACTERS) == ["\u4f60", "\u597d", "o", "k"], "no marks: every token is a word"
    assert texts([5, 0, 2], BPE) == texts([], BPE) == []


def test_times_and_confidence_come_from_the_tokens_with_characters() -> None:
    found = group_words(tokens_of([5, 8, 4, 5, 6], BPE), BPE)
    assert [word.text for word in found.words] == ["RLO", "YOU"] and found.closed == (0, 0, 0, 1, 1)
    first, last = found.words
    assert (first.start_seconds, first.end_seconds) == (0.1, pytest.approx(0.24))
    assert (first.confidence, last.confidence) == (pytest.approx(0.7), pytest.approx(0.5))
    assert group_words(tokens_of([3], MIXED), MIXED).closed == (1,)
    assert group_words(tokens_of([5], MIXED), MIXED).closed == (0,)
    assert group_words(tokens_of([5, 6, 5], BPE), BPE).closed == (0, 0, 1)


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(ALL_UNITS), st.lists(st.integers(0, 4) | st.integers(3, 8), max_size=12), st.integers(0, 12))
def test_words_joined_are_the_text_and_closed_words_stay(units: Vocabulary, ids: list[int], cut: int) -> None:
    ids = [unit for unit in ids if unit < len(units)]
    words, closed = group_words(tokens_of(ids, units), units)
    assert joined_words(words) == " ".join(units.text(ids).split())
    before = group_words(tokens_of(ids[:cut], units), units)
    assert closed[:cut] == before.closed
    fixed = before.closed[-1] if before.closed else 0
    assert words[:fixed] == before.words[:fixed] and len(before.words) - fixed in (0, 1)
    if fixed < len(before.words):
        assert words[fixed].text.startswith(before.words[-1].text)


# ---- committed words

UNSURE = make_model(LoudnessModel(sharpness=6.0))
PIECES = make_model(units=[*RESERVED, "\u2581a", "b", "\u2581", "\u4f60"], tokenizer={"kind": "bpe", "join": "pieces"})


def random_scores(rng: np.random.Generator, frames: int, sharpness: float) -> FrameScores:
    """Return posteriors over 7 tokens; the best token stays the same for some frames."""
    best = np.repeat(rng.integers(-4, 7, frames).clip(0), rng.integers(1, 6, frames))[:frames]
    logits = rng.standard_normal((frames, 7))
    logits[np.arange(frames), best] += sharpness
    log_probs = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    ids = np.argsort(-log_probs, axis=1)
    return FrameScores(
        np.take_along_axis(log_probs, ids, 1).astype(np.float32), ids, log_probs[:, 0].astype(np.float32)
    )


class RandomDecoders(AcousticModel):
    """Rank hypotheses by chance, with a far larger weight than CTC."""

    def rescore(self, encoder_blocks: list[np.ndarray], hypotheses: list[tuple[int, ...]]) -> np.ndarray:
        return 1000 * np.random.default_rng(len(encoder_blocks)).standard_normal((len(hypotheses), 2))


def check_committed(
    seed: int, model: AcousticModel, mode: str, sharpness: float, commit_seconds: float | None = None
) -> tuple[int, int]:
    """Stream random scores and check committed words; return how many words partial results committed and showed."""
    rng = np.random.default_rng(seed)
    scores = random_scores(rng, 80, sharpness)
    model = RandomDecoders(model.backend, model.meta)
    decoder = SegmentDecoder(
        model, DecodingOptions(mode, 4, endpoint=EndpointRules(0.4, 0.12, 0.8, 0.08), commit_seconds=commit_seconds)
    )
    promised: dict[int, list[str]] = {}  # by segment
    committed = shown = at = 0

    def check(result: Result) -> None:
        before, words = promised.get(result.segment, []), [word.text for word in result.words]
        assert words[: len(before)] == before and len(before) <= result.committed <= len(words)
        promised[result.segment] = words[: result.committed]

    while at < 80:
        size = int(rng.integers(1, 4))
        closed = decoder.accept(scores.part(at, at + size), np.zeros((1, size, 2), np.float32))
        at += size
        for result in closed:
            check(result)
            assert result.committed == len(result.words)
        partial = decoder.partial()
        check(partial)
        committed, shown = committed + partial.committed, shown + len(partial.words)
    check(decoder.finish())
    return committed, shown


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 10**6), st.sampled_from([UNSURE, PIECES]), st.sampled_from(MODES), st.sampled_from([1.0, 3.0, 6.0]),
    st.sampled_from([None, 0.04, 0.3, 1.0]),
)  # fmt: skip
def test_committed_words_never_change(
    seed: int, model: AcousticModel, mode: str, sharpness: float, commit_seconds: float | None
) -> None:
    check_committed(seed, model, mode, sharpness, commit_seconds)


def test_greedy_commits_at_once_and_the_beam_in_time() -> None:
    committed, shown = check_committed(0, UNSURE, GREEDY, 3.0)
    assert committed == shown > 20
    shares = []
    for seconds in (None, 1.0, 0.2):
        committed, shown = check_committed(0, UNSURE, PREFIX_BEAM, 6.0, seconds)
        shares.append(committed / shown)
    assert shares[0] < shares[1] < shares[2] < 1 and shares[2] > 0.5


def test_the_law_catches_commits_by_the_best_hypotheses_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seeded bug: words that the two best hypotheses share count as committed, without the rest of the beam."""
    original = prefix_beam._common_length
    monkeypatch.setattr(prefix_beam, "_common_length", lambda sequences: original(sequences[:2]))
    with pytest.raises(AssertionError):
        for seed in range(50):
            check_committed(seed, UNSURE, RESCORING, 1.0)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(MODES), st.sampled_from([0.04, 0.2, 0.5]), st.lists(st.integers(0, 80)))
def test_final_words_do_not_depend_on_how_frames_arrive(seed: int, mode: str, age: float, cuts: list[int]) -> None:
    scores = random_scores(np.random.default_rng(seed), 80, 2.0)
    options = DecodingOptions(mode, 4, endpoint=EndpointRules(0.4, 0.12, 0.8, 0.08), commit_seconds=age)
    found = []
    for bounds in ([0, 80], sorted({0, 80, *cuts})):
        decoder, results = SegmentDecoder(UNSURE, options), []
        for start, stop in itertools.pairwise(bounds):
            results += decoder.accept(scores.part(start, stop), np.zeros((1, stop - start, 2), np.float32))
        found.append([*results, decoder.finish()])
    assert found[0] == found[1]


def test_final_tokens_are_shared_by_all_hypotheses_and_the_best_one_stays() -> None:
    scores = random_scores(np.random.default_rng(3), 60, 3.0)
    search, plain = PrefixBeamSearch(8), PrefixBeamSearch(8)
    for each in (search, plain):
        each.advance(scores)
    best = plain.hypotheses(1)[0]
    old = sum(frame < 40 for frame in best.frames)
    assert old > 3 and len({hypothesis.ids[:old] for hypothesis in plain.hypotheses(8)}) > 1
    search.commit(0)
    assert search.hypotheses(8) == plain.hypotheses(8)
    search.commit(40)
    assert search.hypotheses(1) == [best]
    assert search.hypotheses(8) == [each for each in plain.hypotheses(8) if each.ids[:old] == best.ids[:old]]


def test_early_commits_change_no_text_of_a_certain_search() -> None:
    """Without rescoring, hot words and language model, no later frame could change the order of old texts."""
    for seed in range(10):
        scores = random_scores(np.random.default_rng(seed), 300, 5.0)
        texts = []
        for seconds in (None, 0.2):
            decoder = SegmentDecoder(UNSURE, DecodingOptions(PREFIX_BEAM, commit_seconds=seconds))
            decoder.accept(scores, np.zeros((1, 300, 2), np.float32))
            texts.append(decoder.finish().text)
        assert texts[0] == texts[1]


@pytest.mark.parametrize("wrong", [0.0, -1.0, float("nan")])
def test_wrong_ages_are_refused(wrong: float) -> None:
    with pytest.raises(ValueError, match="commit_seconds must be a positive number .at most 1e.07., or None"):
        DecodingOptions(commit_seconds=wrong)


def test_common_length() -> None:
    for sequences, expected in (
        ([()], 0), ([(1, 2)], 2), ([(1, 2), ()], 0), ([(1, 2, 3), (1, 2, 4), (1, 2)], 2), ([(5, 1), (4, 1), (5, 1)], 0)
    ):  # fmt: skip
        assert prefix_beam._common_length(sequences) == expected


def test_results_have_words() -> None:
    stream = transcribe_offline(make_model(), speak("ab c"), 8, 2)
    words = stream[0].words
    assert [word.text for word in words] == ["a", "b", "c"] == [token.text for token in stream[0].tokens]
    assert [word[1:4] for word in words] == [token[2:] for token in stream[0].tokens]
    assert isinstance(stream[0].hypotheses[0], Hypothesis)
