"""tools/language_model/train_ngram.py and tools/language_model/perplexity.py: sums, hand-computed values, KenLM's
lmplz, and bad input.
"""

import gzip
import itertools
import math
import random
from pathlib import Path

import kneser_ney
import numpy as np
import perplexity
import pytest
import train_ngram
from hypothesis import example, given, settings
from hypothesis import strategies as st
from kneser_ney import estimate_discounts
from support.recipes import lmplz_expected

ZERO = -99.0


@pytest.fixture(autouse=True)
def without_lmplz(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide KenLM: most tests are about our own estimation."""
    monkeypatch.setattr(train_ngram, "find_lmplz", lambda: None)


Model = dict[tuple[str, ...], tuple[float, float]]  # n-gram -> log10 of probability and of weight


def train(folder: Path, text: str, *options: object, output: str = "lm.arpa") -> Path:
    """Trains on a text; returns the ARPA file."""
    (folder / "text").write_text(text, encoding="utf-8")
    arguments = [folder / "text", "--output", folder / output, *options]
    assert train_ngram.main([str(argument) for argument in arguments]) == 0
    return folder / output


def parse(text: str) -> Model:
    """Parse an ARPA file of these tests into a table."""
    fields = [line.split("\t") for line in text.splitlines() if "\t" in line]
    return {
        tuple(words.split(" ")): (float(log_prob), float(weight[0]) if weight else 0.0)
        for log_prob, words, *weight in fields
    }


def probability(model: Model, history: tuple[str, ...], word: str) -> float:
    """Return a probability by the definition of backoff."""
    if (*history, word) in model:
        log_prob = model[(*history, word)][0]
        return 0.0 if log_prob == ZERO else 10**log_prob
    return 10 ** model.get(history, (0.0, 0.0))[1] * probability(model, history[1:], word)


def sums(model: Model) -> list[float]:
    """Return the sums of the probabilities of all words after each history of the model, and after some unseen ones."""
    words = [key[0] for key in model if len(key) == 1 and key != ("<s>",)]
    order = max(map(len, model))
    histories = {(), *(key for key in model if len(key) < order and key[-1] != "</s>")}
    if order > 2:
        histories |= set(itertools.product(words[1:4], repeat=order - 1))
    return [math.fsum(probability(model, history, word) for word in words) for history in histories]


def random_text(seed: int, sentences: int, words: int) -> str:
    """Return sentences of 1 to 9 words; the n-th word is n times rarer than the first."""
    rng = random.Random(seed)
    names, weights = [f"w{n}" for n in range(words)], [1 / (n + 1) for n in range(words)]
    return "".join(" ".join(rng.choices(names, weights, k=rng.randint(1, 9))) + "\n" for _ in range(sentences))


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10**6), sentences=st.integers(1, 60), words=st.integers(1, 30), order=st.integers(1, 4),
    prune=st.sampled_from([(0,), (0, 1), (0, 0, 1), (0, 1, 2)]), closed=st.booleans(),
)  # fmt: skip
@example(seed=160, sentences=1, words=7, order=1, prune=(0,), closed=True)
def test_probabilities_sum_to_one_after_every_history(
    seed: int, sentences: int, words: int, order: int, prune: tuple[int, ...], closed: bool,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:  # fmt: skip
    folder = tmp_path_factory.mktemp("lm")
    options = ["--order", order, "--prune", *prune[:order]]
    if closed:  # most texts have unknown words; at least two words of the list never occur
        (folder / "words").write_text("".join(f"w{n}\n" for n in range(0, words + 2, 2)) + "absent\n")
        options += ["--vocabulary", folder / "words"]
    text = random_text(seed, sentences, words) + "w0\n"  # a list without any word of the text would be refused
    model = parse(train(folder, text, *options).read_text())
    np.testing.assert_allclose(sums(model), 1.0, rtol=0, atol=1e-6)


def test_the_sums_catch_n_grams_that_fall_back_to_others_than_their_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def mistaken(*arguments: object) -> list[kneser_ney.Ngrams]:
        words, *longer = kneser_ney_count(*arguments)
        return [words, *(level._replace(suffix=np.roll(level.suffix, 1)) for level in longer)]

    kneser_ney_count = kneser_ney.count_ngrams
    monkeypatch.setattr(kneser_ney, "count_ngrams", mistaken)
    model = parse(train(tmp_path, random_text(0, 30, 8)).read_text())
    assert max(abs(np.array(sums(model)) - 1.0)) > 1e-3


@pytest.mark.parametrize("expected, prune", [("ARPA", "0"), ("PRUNED", "0 0 1")])
def test_a_model_is_that_of_lmplz(tmp_path: Path, expected: str, prune: str) -> None:
    theirs = parse(getattr(lmplz_expected, expected))
    ours = parse(train(tmp_path, lmplz_expected.TEXT, "--prune", *prune.split()).read_text())
    assert ours.keys() == theirs.keys()
    del ours[("<s>",)], theirs[("<s>",)]  # never predicted; its probability is 1 in KenLM's file and 0 in ours
    np.testing.assert_allclose([ours[key] for key in theirs], list(theirs.values()), atol=1e-6)


def test_lmplz_catches_counts_that_ignore_how_many_words_stand_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kneser_ney, "_adjusted", lambda level, longer: level.counts)
    with pytest.raises(AssertionError):
        test_a_model_is_that_of_lmplz(tmp_path, "ARPA", "0")


def test_a_small_model_worked_out_by_hand(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Sentences "a b" and "a": too small for discounts, so 0.5 for a count of 1, 1 for 2.

    Bigrams: <s> a 2, a b 1, a </s> 1, b </s> 1. Words count by different words before them: a 1, b 1, </s> 2; in all 4.
    Discounted words: 0.5, 0.5, 1; the rest, 2 of 4, is shared by a, b, </s> and <unk>: 1/8 each.
    """
    path = train(tmp_path, "a b\na\n", "--order", 2)
    words = {"a": 0.5 / 4 + 1 / 8, "b": 0.5 / 4 + 1 / 8, "</s>": 1 / 4 + 1 / 8, "<unk>": 1 / 8}
    expected = {
        ("<s>",): (0, 1 / 2), ("a",): (words["a"], 1 / 2), ("b",): (words["b"], 1 / 2), ("</s>",): (words["</s>"], 1),
        ("<unk>",): (words["<unk>"], 1),
        ("<s>", "a"): (1 / 2 + words["a"] / 2, 1),  # (2 - 1) / 2, and the weight of <s> is 1 / 2
        ("a", "b"): (0.5 / 2 + words["b"] / 2, 1),
        ("a", "</s>"): (0.5 / 2 + words["</s>"] / 2, 1),
        ("b", "</s>"): (0.5 / 1 + words["</s>"] / 2, 1),
    }  # fmt: skip
    found = parse(path.read_text())
    assert found.keys() == expected.keys() and found[("<s>",)][0] == ZERO
    for key, (log_prob, weight) in found.items():
        assert key == ("<s>",) or math.isclose(10**log_prob, expected[key][0], rel_tol=1e-6)
        assert math.isclose(10**weight, expected[key][1], rel_tol=1e-6)
    printed = capsys.readouterr()
    assert "5 1-grams, 4 2-grams from 3 words in 2 sentences" in printed.out
    assert printed.err.count("note: the text does not determine the discounts") == 2
    assert "of 2-grams (too small or too regular); used 0.5, 1 and 1.5 for counts 1, 2 and 3 or more" in printed.err


def test_discounts_are_those_of_chen_and_goodman() -> None:
    # 40, 20, 10 and 5 n-grams with counts 1 to 4: Y = 40 / (40 + 2 * 20) = 1/2
    counts = np.repeat([1, 2, 3, 4, 9], [40, 20, 10, 5, 7])
    assert estimate_discounts(counts) == (1 - 2 / 2 * 20 / 40, 2 - 3 / 2 * 10 / 20, 3 - 4 / 2 * 5 / 10, True)
    for bad in ([1, 2, 4], [*[1] * 10, 2, 3, 3]):  # no count of 3; a negative discount, 2 - 3 * 10 / 12 * 2
        assert estimate_discounts(np.array(bad)) == (*kneser_ney.FALLBACK, False)


def test_a_vocabulary_closes_the_model(tmp_path: Path) -> None:
    units = tmp_path / "units.txt"
    units.write_text("<blank> 0\n<unk> 1\n<sos/eos> 2\na 3\nc 4\n")
    model = parse(train(tmp_path, "a b a\na b\n", "--order", 2, "--vocabulary", units).read_text())
    assert {key for key in model if len(key) == 1} == {("<s>",), ("</s>",), ("<unk>",), ("a",), ("c",)}
    assert ("a", "<unk>") in model and ("<unk>", "</s>") in model
    # c gets a share like the others; <unk> was seen
    assert model[("c",)] < model[("<unk>",)] < model[("a", "<unk>")]


def test_texts_are_normalised_and_lose_special_tokens_on_request(tmp_path: Path) -> None:
    (tmp_path / "words").write_text("cafe\u0301\n\uff42\n", encoding="utf-8")
    text = "café [noise] b\u200b\n<unk> \uff42 cafe\u0301\n"
    options = ("--remove_special_tokens", "--vocabulary", tmp_path / "words", "--order", 2)
    words = {key[0] for key in parse(train(tmp_path, text, *options).read_text(encoding="utf-8")) if len(key) == 1}
    assert words == {"<unk>", "<s>", "</s>", "café", "b"}
    model = parse(train(tmp_path, text, "--order", 1).read_text(encoding="utf-8"))
    assert ("[noise]",) in model and ("café",) in model and len(model) == 6


def test_lines_with_keys_and_what_a_word_is(tmp_path: Path) -> None:
    keyed = parse(train(tmp_path, "one a b\ntwo\n", "--keyed", "--order", 2).read_text())
    assert ("one",) not in keyed and ("<s>", "</s>") in keyed  # "two" has no words
    plain = parse(train(tmp_path, "a b\n\n", "--order", 2).read_text())
    assert ("<s>", "</s>") not in plain
    for split, words in {"spaces": "你 好吗ok", "unspaced": "你 好 吗 ok", "characters": "你 好 吗 o k"}.items():
        path = train(tmp_path, "你  好吗ok\n", "--words", split, "--order", 1)
        model = parse(path.read_text(encoding="utf-8"))
        assert {word for (word,) in model} == {"<s>", "</s>", "<unk>", *words.split()}


def test_perplexity_worked_out_by_hand(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "dev").write_text("a b\nc\n")
    path = train(tmp_path, "a b\na\n", "--order", 2, "--evaluate", tmp_path / "dev", output="lm.arpa.gz")
    with gzip.open(path, "rt") as file:
        assert file.readline() == "\\data\\\n"
    # p(a) = 5/8, p(b) = 3/8, p(</s> after b) = 11/16; p(c) = weight of <s> * <unk> = 1/16, then p(</s>) = 3/8
    factors = [5 / 8, 3 / 8, 11 / 16, 1 / 16, 3 / 8]
    all_words = math.prod(factors) ** (-1 / 5)
    known = (math.prod(factors) / factors[3]) ** (-1 / 4)
    line = f"perplexity {all_words:.2f}, without unknown words {known:.2f} (2 sentences, 3 words, 1 of them unknown)"
    assert line in capsys.readouterr().out
    perplexity.main([str(path), str(tmp_path / "dev")])
    assert line in capsys.readouterr().out


@pytest.mark.parametrize(
    "text, options, message",
    [
        ("", [], "text: it has no word"),
        ("\n \n", [], "it has no word"),
        ("a <s> b\n", [], r"text:1: holds <s>, which is added to each line; remove it"),
        ("a\n", ["--order", "0"], "--order 0 must be at least 1"),
        ("a\n", ["--prune", "1"], "prune 1: expected up to 3 numbers, the first one 0, none smaller"),
        ("a\n", ["--prune", "0", "2", "1"], "prune 0 2 1: expected up to 3 numbers"),
        ("a\n", ["--prune", "0", "0", "0", "1"], "expected up to 3 numbers"),
        ("a\n", ["--vocabulary", "B"], "B: none of its 1 words occurs in the text; compare the upper and lower case"),
        ("a\n", ["--vocabulary", "pieces"], "pieces: its tokens are parts of words; give a list of words"),
        ("a\n", ["--vocabulary", "pairs"], "pairs:2: expected one word in each line, found 'b c'"),
        ("a\n", ["--vocabulary", "empty"], "empty: holds no words"),
        ("a\n", ["--evaluate", "empty"], "empty: it has no sentence"),
    ],
)
def test_bad_input_is_one_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, options: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, content in {
        "B": "B\n", "pairs": "a\nb c\n", "empty": "", "pieces": "<blank> 0\n<unk> 1\n<sos/eos> 2\n\u2581a 3\n"
    }.items():  # fmt: skip
        Path(name).write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        train(tmp_path, text, *options)
    assert (tmp_path / "lm.arpa").exists() == ("--evaluate" in options)


def test_text_that_is_not_utf_8_is_named(tmp_path: Path) -> None:
    (tmp_path / "latin").write_bytes("h\xf6rt\n".encode("latin-1"))
    with pytest.raises(ValueError, match="latin: not UTF-8 text"):
        train_ngram.main([str(tmp_path / "latin"), "--output", str(tmp_path / "lm.arpa")])
