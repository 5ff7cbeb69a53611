"""Hot words: matches compared with a plain count of phrases, and the errors in a list."""

import math
import random
import re
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wenet_fusion_runtime.results.result import Hypothesis
from wenet_fusion_runtime.results.vocabulary import RESERVED, UNKNOWN, Vocabulary
from wenet_fusion_runtime.search import contextual_biasing
from wenet_fusion_runtime.search.hot_words import HotWord, check_hot_words, parse_hot_word, read_hot_words
from wenet_fusion_runtime.search.scorer_set import ScorerSet, make_scorers
from wenet_fusion_runtime.search.spelling import Spelling

PIECES = Vocabulary([*RESERVED, "▁", "▁a", "a", "b", "▁ab", "ba", "▁b", "bb", "你", "好", "你好", "▁你"], "pieces")
CHARACTERS = Vocabulary([*RESERVED, "你", "好", "吗", "a", "好吗"], "pieces")  # no mark of a word's start, so no words
WORDS = Vocabulary([*RESERVED, "one", "two", "three"], "words")
VOCABULARIES = {"pieces": PIECES, "characters": CHARACTERS, "words": WORDS}
PHRASES = {
    "pieces": ["a", "ab", "b a", "ab ab", "abb a", "你好", "a你", "好 b", "bab"],
    "characters": ["你", "你好", "好吗", "好好", "你好吗a", "a"],
    "words": ["one", "two one", "one one", "two one three", "one three"],
}


def ids(units: Vocabulary, *texts: str) -> list[int]:
    return [units.tokens.index(text) for text in texts]


def words_of(text: str, units: Vocabulary) -> list[str]:
    """Split a text into words, and into characters of scripts without spaces."""
    if units is CHARACTERS:
        return list(text.replace("<unk>", "?").replace(" ", ""))
    return re.findall("[你好]|<unk>|[^ 你好]+", text) if units is PIECES else text.split()


def occurrences(phrase: str, text: str, units: Vocabulary) -> int:
    wanted, found = words_of(phrase, units), words_of(text, units)
    return sum(found[start : start + len(wanted)] == wanted for start in range(len(found)))


def fewest_units(phrase: str, units: Vocabulary, most: int = 7) -> int:
    """Find the fewest tokens by trying all token sequences, shortest first."""
    texts = {""}
    for count in range(1, most):
        texts = {text + token for text in texts for token in units.tokens[3:]}
        texts = {text for text in texts if len(text) <= len(phrase) + 3}
        if any(words_of(text.replace("▁", " ").strip(), units) == words_of(phrase, units) for text in texts):
            return count
    raise AssertionError(phrase)


EMPTY = Hypothesis((), 0.0, 0.0, (), ())


def final_score(scorers: ScorerSet, tokens: list[int]) -> float:
    state = scorers.start()
    for token in tokens:
        state = scorers.advance(state, token)
    return scorers.scored(EMPTY, state, is_final=True).context_score


@pytest.mark.parametrize("phrase", PHRASES["pieces"] + PHRASES["characters"])
def test_the_boost_counts_the_fewest_tokens_that_spell_a_phrase(phrase: str) -> None:
    units = PIECES if phrase in PHRASES["pieces"] else CHARACTERS
    assert Spelling(units).spell(phrase).fewest_tokens == fewest_units(phrase, units)


@settings(max_examples=400, deadline=None)
@given(kind=st.sampled_from(sorted(VOCABULARIES)), data=st.data())
def test_the_score_of_a_text_is_that_of_the_phrases_that_occur_in_it(kind: str, data: st.DataObject) -> None:
    units = VOCABULARIES[kind]
    phrases = data.draw(st.lists(st.sampled_from(PHRASES[kind]), unique=True, max_size=4))
    boosts = data.draw(st.lists(st.sampled_from([-2.0, 0.5, 3.0]), min_size=len(phrases), max_size=len(phrases)))
    unknown = [] if units is PIECES else [UNKNOWN]  # an unknown piece may hide the end of a word
    tokens = data.draw(st.lists(st.sampled_from([*unknown, *range(3, len(units))]), max_size=12))
    scorers = make_scorers(units, list(map(HotWord, phrases, boosts)))
    spelling, text = Spelling(units), units.text(tokens)
    expected = sum(
        boost * spelling.spell(phrase).fewest_tokens * occurrences(phrase, text, units)
        for phrase, boost in zip(phrases, boosts)
    )
    assert final_score(scorers, tokens) == pytest.approx(expected, abs=1e-9)


@settings(max_examples=200, deadline=None)
@given(kind=st.sampled_from(sorted(VOCABULARIES)), data=st.data())
def test_no_token_gains_more_than_its_bound_and_incomplete_phrases_lose_their_score(
    kind: str, data: st.DataObject
) -> None:
    units = VOCABULARIES[kind]
    boosts = st.sampled_from([-3.0, 0.5, 2.0, 7.0])
    phrases = data.draw(st.dictionaries(st.sampled_from(PHRASES[kind]), boosts, max_size=5))
    later = data.draw(st.dictionaries(st.sampled_from(PHRASES[kind]), boosts, max_size=2))
    penalty = data.draw(st.sampled_from([-1.0, 0.0, 1.0]))
    scorers = make_scorers(units, [HotWord(*item) for item in phrases.items()], length_penalty=penalty)
    scorers = scorers.with_hot_words([HotWord(*item) for item in later.items()])
    state = scorers.start()
    for token in data.draw(st.lists(st.sampled_from([1, *range(3, len(units))]), max_size=12)):
        after = scorers.advance(state, token)
        assert after[0] - state[0] <= scorers.most_gained[token] + 1e-9
        if phrases or later:
            (score, (completed, _)), *_ = after[1]
            assert score >= completed
        state = after


def test_the_way_text_is_cut_into_pieces_changes_nothing() -> None:
    units = Vocabulary([*RESERVED, "▁TURN", "▁T", "T", "URN", "TU", "RN", "ED", "▁LEFT", "▁"], "pieces")
    scorers = make_scorers(units, [HotWord("TURN", 2.0), HotWord("TURN LEFT", 1.0)])
    for tokens in (["▁TURN"], ["▁T", "URN"], ["TU", "RN"], ["T", "URN"], ["▁", "TU", "RN"], ["▁TURN", "▁"]):
        assert final_score(scorers, ids(units, *tokens)) == 2.0
    for tokens in (["▁TURN", "ED"], ["▁T", "TU", "RN"], ["▁LEFT", "TU", "RN"], ["▁TURN", "T"]):
        assert final_score(scorers, ids(units, *tokens)) == 0.0
    assert final_score(scorers, ids(units, "TU", "RN", "▁LEFT")) == 2.0 + 2 * 1.0
    assert final_score(scorers, ids(units, "TU", "RN", "▁LEFT", "T")) == 2.0


def test_a_phrase_earns_its_share_and_loses_it_when_it_is_not_completed() -> None:
    units = Vocabulary([*RESERVED, "▁TURN", "▁T", "TU", "RN", "ED", "▁LEFT", "▁RIGHT"], "pieces")
    scorers = make_scorers(units, [HotWord("TURN LEFT", 4.0), HotWord("TURN RIGHT", -6.0), HotWord("RIGHT", -1.0)])
    shown = []
    for tokens in (["▁TURN", "ED"], ["▁T", "▁T"], ["▁TURN", "▁LEFT", "▁T"], ["▁TURN", "▁RIGHT", "▁T"]):
        state, totals = scorers.start(), []
        for token in ids(units, *tokens):
            state = scorers.advance(state, token)
            totals.append(state[0])
        shown.append(totals)
    # Half of "TURN LEFT" earns half of 2 tokens * 4; a negative boost does not count before its phrase is complete.
    assert shown == [[4.0, 0.0], [1.0, 1.0], [4.0, 8.0, 8.0 + 1.0], [4.0, 0.0, -12.0 - 1.0 + 1.0]]


def test_overlapping_phrases_all_count() -> None:
    scorers = make_scorers(CHARACTERS, [HotWord(phrase, 1.0) for phrase in ("你好", "好吗", "好", "吗a")])
    assert final_score(scorers, ids(CHARACTERS, "你", "好", "吗", "a")) == 2.0 + 1.0 + 1.0 + 2.0  # "好吗" is one token


def test_counting_catches_an_automaton_without_fallbacks(monkeypatch: pytest.MonkeyPatch) -> None:
    hot_words, tokens = [HotWord("你好吗", 1.0), HotWord("好a", 1.0)], ids(CHARACTERS, "你", "好", "a")
    assert final_score(make_scorers(CHARACTERS, hot_words), tokens) == 2.0
    monkeypatch.setattr(
        contextual_biasing.HotWordGraph,
        "_step",
        lambda self, node, symbol: self._next.get(node * contextual_biasing._SPAN + symbol, 0),
    )
    assert final_score(make_scorers(CHARACTERS, hot_words), tokens) == 0.0


def test_unknown_tokens_match_no_hot_word() -> None:
    scorers = make_scorers(WORDS, [HotWord("one two")])
    assert final_score(scorers, [3, UNKNOWN, 4]) == 0.0
    pieces = make_scorers(PIECES, [HotWord("a b")])
    assert final_score(pieces, [*ids(PIECES, "▁a"), UNKNOWN, *ids(PIECES, "▁b")]) == 0.0


def test_a_streams_phrase_replaces_the_boost_of_the_same_phrase() -> None:
    scorers = make_scorers(WORDS, [HotWord("one", 2.0), HotWord("two", 1.0)])
    changed = scorers.with_hot_words([HotWord("one", 0.0), HotWord("three", 5.0), HotWord("two", 1.0)])
    again = changed.with_hot_words([HotWord(" one ", -1.0)])
    for token, scores in zip("one two three".split(), [(2.0, 0.0, -1.0), (1.0, 1.0, 1.0), (0.0, 5.0, 5.0)]):
        assert tuple(final_score(each, ids(WORDS, token)) for each in (scorers, changed, again)) == scores
    assert final_score(again.with_hot_words([HotWord("two", 4.0)]), ids(WORDS, "two")) == 4.0


def test_without_phrases_there_is_nothing_to_add() -> None:
    assert not make_scorers(WORDS) and make_scorers(WORDS, length_penalty=0.5)
    assert make_scorers(WORDS).with_hot_words([HotWord("one")])
    assert not make_scorers(WORDS).with_hot_words([HotWord("one", 0.0)])


PROBLEMS = [
    (PIECES, HotWord("  "), "hot word '  ': is empty"),
    (PIECES, HotWord("▁"), "hot word '▁': is empty"),
    (PIECES, HotWord("ac d"), "hot word 'ac d': no token has 'c', 'd'"),
    (PIECES, HotWord("AB"), "hot word 'AB': no token has 'A', 'B', but there are tokens for 'ab'"),
    (PIECES, HotWord("<unk>"), "hot word '<unk>': no token has '<', 'u', 'n', 'k', '>'"),
    (WORDS, HotWord("one six ten six"), "hot word 'one six ten six': no token is 'six', 'ten'"),
    (WORDS, HotWord("One"), "hot word 'One': no token is 'One', but there are tokens for 'one'"),
    (WORDS, HotWord("<unk>"), "hot word '<unk>': no token is '<unk>'"),
    (Vocabulary([*RESERVED, "ab", "ca"], "pieces"), HotWord("abc"), "hot word 'abc': no sequence of tokens spells it"),
    (WORDS, HotWord("one", math.nan), "hot word 'one': has boost nan, which must be -100 to 100"),
    (WORDS, HotWord("one", -math.inf), "hot word 'one': has boost -inf, which must be -100 to 100"),
    (
        WORDS,
        HotWord("one", 101.0, "list.txt:7"),
        "list.txt:7: hot word 'one': has boost 101, which must be -100 to 100",
    ),
]


@pytest.mark.parametrize("units, hot_word, problem", PROBLEMS)
def test_invalid_phrases_are_explained(units: Vocabulary, hot_word: HotWord, problem: str) -> None:
    checked = check_hot_words([hot_word], units)
    assert checked.problems == (problem,) and checked.usable == ()


def test_all_problems_are_reported_at_once_and_the_rest_is_usable() -> None:
    given = [
        HotWord("one", 1.0, "f:1"),
        HotWord("six"),
        HotWord("one", 1.0, "f:3"),
        HotWord("one", 2.0, "f:4"),
        HotWord("two", -4.0),
    ]
    checked = check_hot_words(given, WORDS)
    assert checked.usable == (given[0], given[4])
    assert checked.problems == ("hot word 'six': no token is 'six'", "f:4: hot word 'one': has boost 2 here, 1 before")
    with pytest.raises(ValueError, match="^2 hot words cannot be used:\nhot word 'six': .*\nf:4: hot word 'one'"):
        make_scorers(WORDS, given)
    with pytest.raises(ValueError, match="^1 hot word cannot be used:\nhot word 'six'"):
        make_scorers(WORDS).with_hot_words(given[:2])


def test_a_file_of_hot_words(tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    path.write_text("\ufeff# names\n\nNew York\t4.5\n  你好 \nthree\t\nC#\t-1\ntwo\tmany\n", encoding="utf-8")
    read = read_hot_words(path)
    assert read.usable == (
        HotWord("New York", 4.5, f"{path}:3"),
        HotWord("你好", source=f"{path}:4"),
        HotWord("C#", -1.0, f"{path}:6"),
    )
    assert read.problems == (
        f"{path}:5: hot word 'three' has boost '', which is not a number",
        f"{path}:7: hot word 'two' has boost 'many', which is not a number",
    )
    path.write_bytes(b"caf\xe9\n")
    with pytest.raises(ValueError, match=r"words.txt: is not UTF-8 at byte 3; save"):
        read_hot_words(path)
    with pytest.raises(FileNotFoundError):
        read_hot_words(tmp_path / "none")


def test_a_hot_word_of_the_command_line() -> None:
    assert parse_hot_word("NEW YORK=4", "=") == HotWord("NEW YORK", 4.0)
    assert parse_hot_word("NEW YORK", "=") == HotWord("NEW YORK")
    with pytest.raises(ValueError, match="hot word 'a' has boost 'b', which is not a number"):
        parse_hot_word("a=b", "=")


def test_ten_thousand_phrases_are_spelled_once() -> None:
    """Adding a stream's own phrase takes a small part of the time for all phrases, on any machine."""
    rng = random.Random(0)
    letters = "abcdefghijklmnopqrstuvwxyz"
    units = Vocabulary([*RESERVED, "▁", *letters, *(f"{a}{b}" for a in letters for b in letters)], "pieces")
    phrases = {" ".join("".join(rng.choices(letters, k=6)) for _ in range(2)) for _ in range(10_000)}
    begin = time.process_time()
    scorers = make_scorers(units, [HotWord(phrase) for phrase in phrases])
    middle = time.process_time()
    scorers.with_hot_words([HotWord("of one stream")])  # does not rebuild the other phrases
    assert time.process_time() - middle < 0.3 * (middle - begin)
