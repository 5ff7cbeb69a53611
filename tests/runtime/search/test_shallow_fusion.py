"""Shallow fusion of n-gram models: compared with enumeration for three kinds of tokens, and the effect on errors."""

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import train_ngram
from hypothesis import given, settings
from hypothesis import strategies as st
from support.runtime.fake_model import FRAME, LEVELS, TOKENS, LoudnessModel, make_model
from test_scorers import VOCABULARIES, unit_ids
from test_searches import enumerate_prefixes, pieces, random_scores
from wenet_fusion_runtime import DecodingOptions, Recognizer, load_language_model
from wenet_fusion_runtime.results.vocabulary import RESERVED, Vocabulary
from wenet_fusion_runtime.search.frame_scores import FrameScores
from wenet_fusion_runtime.search.language_models.language_model import NgramModel
from wenet_fusion_runtime.search.language_models.language_model_scorer import LanguageModelScorer
from wenet_fusion_runtime.search.modes import PREFIX_BEAM
from wenet_fusion_runtime.search.prefix_beam import PrefixBeamSearch
from wenet_fusion_runtime.search.scorer_set import make_scorers
from wenet_fusion_runtime.stream.offline import transcribe_offline

from wenet_fusion.scoring.error_rate import ErrorCounts, score

# Texts with words that the tokens of each kind can spell; some words that can be spelled never occur.
TEXTS = {
    "words": "one two six\ntwo two one\none six\n",
    "pieces": "ab a b\na ab abb\nab ab\n",
    "characters": "你 好 吗\n好 好 你\n吗\n",
}


def train(folder: Path, text: str, order: int = 3) -> NgramModel:
    (folder / "text").write_text(text, encoding="utf-8")
    assert train_ngram.main([str(folder / "text"), "--order", str(order), "--output", str(folder / "lm.arpa")]) == 0
    return load_language_model(folder / "lm.arpa")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, NgramModel]:
    return {kind: train(tmp_path_factory.mktemp(kind), text) for kind, text in TEXTS.items()}


def expected_score(model: NgramModel, words: list[str]) -> float:
    """ln of the probability of a whole text."""
    total, state = 0.0, model.start()
    for word in words:
        log_prob, state = model.advance(state, word)
        total += log_prob
    return total + model.finish(state)


def agrees_with_enumeration(model: NgramModel, kind: str, seed: int, weight: float, bonus: float) -> bool:
    scores, units = unit_ids(random_scores(seed, 5, 4)), VOCABULARIES[kind]
    expected = {}
    for ids, (ctc_score, _) in enumerate_prefixes(scores).items():
        words = list(units.text(ids)) if kind == "characters" else units.text(ids).split()
        expected[ids] = ctc_score + weight * expected_score(model, words) + bonus * len(words)
    search = PrefixBeamSearch(10_000, scorers=make_scorers(units, (), model, weight, bonus))
    search.advance(scores)
    found = {each.ids: each.score for each in search.final_hypotheses(10_000)}
    return found.keys() == expected.keys() and all(
        math.isclose(found[ids], expected[ids], abs_tol=1e-9) for ids in found
    )


@settings(max_examples=30, deadline=None)
@given(
    kind=st.sampled_from(sorted(TEXTS)),
    seed=st.integers(0, 10**6),
    weight=st.sampled_from([0.3, 1.0, 2.0]),
    bonus=st.sampled_from([-1.0, 0.0, 1.5]),
)
def test_fused_search_equals_brute_force(
    models: dict[str, NgramModel], kind: str, seed: int, weight: float, bonus: float
) -> None:
    assert agrees_with_enumeration(models[kind], kind, seed, weight, bonus)


@pytest.mark.parametrize("kind", TEXTS)
def test_brute_force_catches_a_model_that_starts_in_the_middle(
    models: dict[str, NgramModel], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LanguageModelScorer, "finish", lambda self, state: state.score)
    assert not agrees_with_enumeration(models[kind], kind, 1, 1.0, 0.0)


@settings(max_examples=15, deadline=None)
@given(kind=st.sampled_from(sorted(TEXTS)), seed=st.integers(0, 100), cuts=st.lists(st.integers(0, 40), max_size=12))
def test_any_cut_of_the_frames_gives_the_same_hypotheses_bit_for_bit(
    models: dict[str, NgramModel], kind: str, seed: int, cuts: list[int]
) -> None:
    scores: FrameScores = unit_ids(random_scores(seed, 40, 4, sharpness=3.0))
    whole, cut = (
        PrefixBeamSearch(5, scorers=make_scorers(VOCABULARIES[kind], (), models[kind], 0.7, 0.5)) for _ in range(2)
    )
    whole.advance(scores)
    for piece in pieces(scores, cuts):
        cut.advance(piece)
        cut.hypotheses(1)
    assert cut.final_hypotheses(5) == whole.final_hypotheses(5)


# A language of pairs: d follows a, b follows c, and a sentence is one to four pairs. Words of similar loudness (a and
# b, b and c, c and d) never occur at the same place, so a language model can distinguish them.
class Spoken(NamedTuple):
    text: str
    samples: np.ndarray


def say(rng: np.random.Generator, blur: float) -> Spoken:
    """Return a sentence whose words are up to `blur` louder or softer than normal."""
    words = [word for pair in rng.choice(["ad", "cb"], rng.integers(1, 5)) for word in pair]
    blocks = [np.zeros(2 * FRAME)]
    for word in words:
        level = LEVELS[TOKENS.index(word)] + rng.uniform(-blur, blur)
        blocks += [level * rng.choice([-1.0, 1.0], 3 * FRAME), np.zeros(2 * FRAME)]
    return Spoken(" ".join(words), np.concatenate(blocks).astype(np.float32))


@pytest.fixture(scope="module")
def grammar(tmp_path_factory: pytest.TempPathFactory) -> NgramModel:
    rng = np.random.default_rng(0)
    return train(tmp_path_factory.mktemp("grammar"), "".join(say(rng, 0.0).text + "\n" for _ in range(200)), order=2)


BLURRED = make_model(LoudnessModel(sharpness=100.0))


def errors(options: DecodingOptions) -> ErrorCounts:
    """Return the errors in 30 sentences."""
    rng, texts, found = np.random.default_rng(1), {}, {}
    for number in range(30):
        spoken = say(rng, blur=0.15)
        texts[str(number)] = spoken.text
        found[str(number)] = transcribe_offline(BLURRED, spoken.samples, 8, 2, options)[0].text
    return score(texts, found).total


def test_a_language_model_decides_between_words_that_sound_alike(grammar: NgramModel) -> None:
    plain = errors(DecodingOptions(PREFIX_BEAM))
    fused = errors(DecodingOptions(PREFIX_BEAM, language_model=grammar, lm_weight=2.0))
    assert plain.reference == 128 and plain.substitutions >= 20 and plain.insertions >= 20
    assert fused.substitutions <= 2 and fused.errors <= 6
    assert errors(DecodingOptions(PREFIX_BEAM, language_model=grammar, lm_weight=0.0)) == plain


def test_a_stream_with_a_language_model_gives_what_offline_search_gives(grammar: NgramModel) -> None:
    options = DecodingOptions(PREFIX_BEAM, language_model=grammar, lm_weight=1.0, word_bonus=0.5)
    recognizer, rng = Recognizer(BLURRED, options), np.random.default_rng(2)
    for _ in range(5):
        spoken = say(rng, 0.17)
        offline = transcribe_offline(BLURRED, spoken.samples, 4, 4, options)[0]
        stream, at = recognizer.create_stream(4, 4), 0
        while at < len(spoken.samples):
            size = int(rng.integers(1, 3000))
            stream.accept_waveform(spoken.samples[at : at + size])
            at += size
        final = stream.finish()[-1]
        assert (final.text, final.tokens) == (offline.text, offline.tokens)
        assert [each.ids for each in final.hypotheses] == [each.ids for each in offline.hypotheses]
        assert final.hypotheses[0].lm_score == offline.hypotheses[0].lm_score != 0.0


def test_a_language_model_whose_words_cannot_be_written_is_refused(tmp_path: Path) -> None:
    digits = Vocabulary([*RESERVED, "ZERO", "ONE"], "words")
    pieces_of_words = Vocabulary([*RESERVED, "\u2581", "O", "N", "E"], "pieces")
    hanzi = Vocabulary([*RESERVED, "你", "好"], "pieces")
    lower = train(tmp_path, "one zero\n")
    for units, unit in (
        (digits, "'one': no token is 'one', but there are tokens for 'ONE'"),
        (pieces_of_words, "'ONE'"),
    ):
        with pytest.raises(ValueError, match=f"no word of the language model .*lm.arpa .*{unit}.*train it on text"):
            make_scorers(units, (), lower)
    with pytest.raises(ValueError, match="'你好' is several tokens, each of which is a word to the search"):
        make_scorers(hanzi, (), train(tmp_path, "你好\n"))
    for units, text in ((digits, "ONE two\n"), (pieces_of_words, "ONE two\n"), (hanzi, "你 x\n")):
        make_scorers(units, (), train(tmp_path, text))  # one word that can be spelled is enough
