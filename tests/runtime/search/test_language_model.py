"""Language models: backoff compared with hand-computed values, the definition and KenLM; damaged files."""

import gzip
import random
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.recipes import arpa_models, lmplz_expected
from support.recipes.arpa_models import load, scores
from wenet_fusion_runtime.search.language_models import language_model
from wenet_fusion_runtime.search.language_models.language_model import NgramModel, load_language_model

try:
    import kenlm
except ImportError:
    kenlm = None

needs_kenlm = pytest.mark.skipif(
    kenlm is None, reason="kenlm is not installed: pip install -c constraints.txt -e 'runtime[lm]'"
)

ARPA = "\n# written by hand\n" + arpa_models.ARPA


BY_HAND = {
    # after <s> and <s> a; then no "a b a": weight of "a b" and "b a"; then no "b a b", and "b a" has no weight
    "a b a b": [-0.2, -0.05, -0.2 - 0.3, -0.5, -0.2 - 0.9],
    # no n-gram begins with "<s> b": weights of <s> and "b"
    "b b": [-0.5 - 0.8, -0.3 - 0.8, -0.9],
    # an unknown word is <unk>, and the words before it no longer count
    "a b zebra a": [-0.2, -0.05, -0.2 - 0.3 - 1.0, -0.6, -0.4 - 0.7],
    "": [-0.5 - 0.7],
}


@pytest.mark.parametrize("text", BY_HAND)
def test_backoff_worked_out_by_hand(tmp_path: Path, text: str) -> None:
    np.testing.assert_allclose(scores(load(tmp_path, ARPA), text.split()), BY_HAND[text], rtol=1e-6)


def test_hand_computed_values_catch_a_model_that_forgets_its_backoff_weights(tmp_path: Path) -> None:
    model = load(tmp_path, ARPA)
    model._backoffs[:] = 0
    assert not np.allclose(scores(model, "a b a b".split()), BY_HAND["a b a b"], rtol=1e-3)


def test_a_model_without_unk_gives_strange_words_the_probability_that_kenlm_gives_them(tmp_path: Path) -> None:
    text = ARPA.replace("-1.0	<unk>\n", "").replace("ngram 1=5", "ngram 1=4")
    np.testing.assert_allclose(scores(load(tmp_path, text), ["a", "zebra"])[1], -0.1 - 0.4 - 100, rtol=1e-6)
    upper = load(tmp_path, ARPA.replace("<unk>", "<UNK>"))
    np.testing.assert_allclose(scores(upper, ["zebra"])[0], -0.5 - 1.0, rtol=1e-6)


def test_states_are_hashable_and_forget_what_cannot_matter(tmp_path: Path) -> None:
    model = load(tmp_path, ARPA)
    after = {text: state_after(model, text.split()) for text in ("a b", "b a b", "zebra", "b zebra", "b")}
    assert len(set(after.values())) == 3
    assert after["a b"] == after["b a b"] and after["zebra"] == after["b zebra"] != after["b"]
    assert "a" in model and "zebra" not in model


def state_after(model: NgramModel, words: list[str]) -> object:
    state = model.start()
    for word in words:
        state = model.advance(state, word)[1]
    return state


FORMS = {
    "gzip": gzip.compress(ARPA.encode()),
    "windows": ARPA.replace("\n", "\r\n"),
    "spaces": ARPA.replace("\t", "  "),
    "weights of 0": ARPA.replace("-0.9	b </s>\n-0.3	b a\n", "-0.9	b </s>	0\n-0.3	b a	-0.0\n"),
}


@pytest.mark.parametrize("form", FORMS)
def test_forms_of_a_file(tmp_path: Path, form: str) -> None:
    np.testing.assert_allclose(scores(load(tmp_path, FORMS[form]), "a b a b".split()), BY_HAND["a b a b"], rtol=1e-6)


def test_a_model_of_single_words(tmp_path: Path) -> None:
    text = "\\data\\\nngram 1=4\n\n\\1-grams:\n-1\t<unk>\n-99\t<s>\n-0.7\t</s>\n-0.6\ta\n\n\\end\\\n"
    np.testing.assert_allclose(scores(load(tmp_path, text), ["a", "b", "a"]), [-0.6, -1.0, -0.6, -0.7], rtol=1e-6)


Table = dict[tuple[str, ...], tuple[float, float]]  # n-gram -> log10 of probability and of weight


def random_table(seed: int, order: int, kept: float) -> Table:
    """Return a backoff model of four words. Each n-gram exists with probability `kept` if its beginning exists; its end
    need not exist, so the n-gram to back off to may be missing, as in pruned models."""
    rng = random.Random(seed)
    words = ["<unk>", "<s>", "</s>", "a", "b", "c"]
    table = {(word,): (rng.uniform(-2, -1), rng.uniform(-1, 0.3)) for word in words}
    level = list(table)
    for _ in range(order - 1):
        level = [
            (*beginning, word)
            for beginning in level
            if beginning[-1] != "</s>"
            for word in words
            if word != "<s>" and rng.random() < kept
        ]
        table |= {ngram: (rng.uniform(-4, -2), rng.uniform(-1, 0.3)) for ngram in level}
    return table


def arpa(table: Table, seed: int) -> str:
    """The table as a file, n-grams of each order in random order."""
    order = max(map(len, table))
    text = "\\data\\\n" + "".join(f"ngram {n}={sum(len(key) == n for key in table)}\n" for n in range(1, order + 1))
    for n in range(1, order + 1):
        keys = [key for key in table if len(key) == n]
        random.Random(seed).shuffle(keys)
        weights = {key: "" if n == order else f"\t{table[key][1]}" for key in keys}
        text += f"\n\\{n}-grams:\n" + "".join(f"{table[key][0]}\t{' '.join(key)}{weights[key]}\n" for key in keys)
    return text + "\n\\end\\\n"


def defined(table: Table, history: tuple[str, ...], word: str) -> float:
    """log10 of a probability by the definition of backoff."""
    history = history[max(0, len(history) - max(map(len, table)) + 1) :]
    if (*history, word) in table:
        return table[(*history, word)][0]
    return table.get(history, (0.0, 0.0))[1] + defined(table, history[1:], word)


def sentences(seed: int) -> list[list[str]]:
    rng = random.Random(seed)
    return [rng.choices(["a", "b", "c", "zebra"], k=rng.randrange(8)) for _ in range(10)]


def agrees_with_definition(seed: int, order: int, kept: float, folder: Path) -> bool:
    table = random_table(seed, order, kept)
    model = load(folder, arpa(table, seed))
    for sentence in sentences(seed):
        known = ["<unk>" if word == "zebra" else word for word in [*sentence, "</s>"]]
        expected = [defined(table, ("<s>", *known[:at]), word) for at, word in enumerate(known)]
        if not np.allclose(scores(model, sentence), expected, rtol=1e-5):
            return False
    return True


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), order=st.integers(1, 5), kept=st.sampled_from([0.3, 0.6, 1.0]))
def test_backoff_is_what_it_is_defined_to_be(
    seed: int, order: int, kept: float, tmp_path_factory: pytest.TempPathFactory
) -> None:
    assert agrees_with_definition(seed, min(order, 4 if kept == 1.0 else 5), kept, tmp_path_factory.mktemp("lm"))


def test_the_definition_catches_states_that_are_cut_one_word_too_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert agrees_with_definition(1, 3, 0.6, tmp_path)
    monkeypatch.setattr(NgramModel, "_after", lambda self, node: int(self._shorter[node]))
    assert not agrees_with_definition(1, 3, 0.6, tmp_path)


@needs_kenlm
@pytest.mark.parametrize("form", ["hand", "arpa", "pruned", "binary"])
def test_kenlm_gives_the_same_scores(tmp_path: Path, form: str) -> None:
    text = {"hand": ARPA, "pruned": lmplz_expected.PRUNED}.get(form, lmplz_expected.ARPA)
    ours = load(tmp_path, text)
    path = tmp_path / "kenlm"
    path.write_bytes(lmplz_expected.BINARY if form == "binary" else text.lstrip().encode())
    theirs = language_model.KenlmModel(path)
    words, rng = ours.words, random.Random(0)
    for _ in range(50):
        sentence = rng.choices([*words, "zebra"], k=rng.randrange(8))
        np.testing.assert_allclose(scores(ours, sentence), scores(theirs, sentence), atol=1e-5)
    assert words[0] in theirs and "zebra" not in theirs
    assert state_after(theirs, ["zebra"]) == state_after(theirs, [words[0], "zebra"]) != state_after(theirs, words[:1])


@needs_kenlm
def test_binary_files_are_recognised_by_their_content(tmp_path: Path) -> None:
    model = load(tmp_path, lmplz_expected.BINARY, "model")
    assert isinstance(model, language_model.KenlmModel)
    np.testing.assert_allclose(scores(model, ["she"])[0], -1.0432179, rtol=1e-6)


@needs_kenlm
@pytest.mark.parametrize("kept", [64, 400, 900])
def test_a_damaged_binary_file_gives_one_message(tmp_path: Path, kept: int) -> None:
    with pytest.raises(ValueError, match=r"lm.bin: KenLM cannot read it \(.*; make it again with build_binary"):
        load(tmp_path, lmplz_expected.BINARY[:kept], "lm.bin")


def test_a_binary_file_without_kenlm_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kenlm", None)
    with pytest.raises(ImportError, match=r"lm.bin is a binary .* pip install 'wenet-fusion-runtime\[lm\]'.*ARPA file"):
        load(tmp_path, lmplz_expected.BINARY, "lm.bin")


DAMAGES = {
    "empty": ("", r":1: the file is empty, expected \\data\\; give an ARPA file"),
    "another file": ("the cat sat", r":1: the file begins with 'the cat sat', expected \\data\\; give"),
    "garbage": (bytes(range(256)) * 9, r":1: the file begins with '.*', expected"),
    "no counts": ("\\data\\\n\n\\1-grams:\n", r":2: \\data\\ announces no 1-grams"),
    "count": (ARPA.replace("ngram 2=4", "ngram 3=4"), ":5: expected 'ngram 2=COUNT', found 'ngram 3=4'"),
    "count of words": (ARPA.replace("ngram 2=4", "ngram 2=four"), ":5: expected 'ngram 2=COUNT'"),
    "more announced": (
        ARPA.replace("ngram 2=4", "ngram 2=7"),
        r":20: here are only 4 of 7 2-grams that \\data\\ announces; the file was cut off",
    ),
    "fewer announced": (ARPA.replace("ngram 2=4", "ngram 2=3"), r":19: expected \\3-grams:, found '-0.3\\tb a'"),
    "order missing": (ARPA[: ARPA.index("\\3-grams:")] + "\\end\\\n", r":21: expected \\3-grams:, found '\\\\end"),
    "no end": (ARPA.replace("\\end\\\n", ""), r":23: the file ends before \\end\\; the file was cut off"),
    "cut in a line": (ARPA[: ARPA.index("\tb </s>") + 3], ":18: the file ends within this line, after 2 of 4 2-grams"),
    "cut in a number": (ARPA[: ARPA.index("\tb </s>") - 2], ":18: the file ends within this line"),
    "cut between lines": (ARPA[: ARPA.index("-0.9\tb </s>")], ":17: the file ends after 2 of 4 2-grams; the file was"),
    "cut before a section": (ARPA[: ARPA.index("\\2-grams:")], r":14: the file ends before \\2-grams:"),
    "few columns": (ARPA.replace("a b\t-0.2", "a"), ":17: 2-grams have 3 or 4 columns .*, found 2: '-0.5"),
    "many columns": (ARPA.replace("a b\t-0.2", "a b b -0.2"), ":17: 2-grams have 3 or 4 columns"),
    "weight of the highest": (ARPA.replace("<s> a b", "<s> a b\t-1"), ":22: backoff weight -1 is not 0 in the highest"),
    "no number": (ARPA.replace("-0.5\ta b", "x\ta b"), ":17: expected numbers before and after the words, found 'x"),
    "no weight": (ARPA.replace("a b\t-0.2", "a b\tx"), ":17: expected numbers before and after"),
    "positive": (ARPA.replace("-0.5\ta b", "0.5\ta b"), ":17: log-probability 0.5 is not at most 0; train"),
    "nan": (ARPA.replace("-0.5\ta b", "nan\ta b"), ":17: log-probability nan is not"),
    "infinite": (ARPA.replace("-0.5\ta b", "inf\ta b"), ":17: log-probability inf is not at most 0"),
    "nan weight": (ARPA.replace("a b\t-0.2", "a b\tnan"), ":17: backoff weight nan is not finite"),
    "word twice": (ARPA.replace("-0.8\tb", "-0.8\ta"), ":13: this 1-gram is already in line 12"),
    "n-gram twice": (ARPA.replace("b a\n", "a b\n"), ":19: the n-gram 'a b' is already in line 17"),
    "strange word": (ARPA.replace("b a\n", "b zebra\n"), ":19: the word 'zebra' is no 1-gram"),
    "no beginning": (ARPA.replace("<s> a b", "b b a"), ":22: the n-gram 'b b a' lacks its first 2 words as 2-gram"),
    "no start": (ARPA.replace("<s>", "<S>"), ": has no 1-gram <s>; train the model with a tool that marks"),
    "no end mark": (ARPA.replace("</s>", "</S>"), ": has no 1-gram </s>"),
    "not UTF-8": (ARPA.replace("<unk>", "\xe4").encode("latin-1"), r":9: the word '\\\\xe4' is not UTF-8"),
    "damaged gzip": (gzip.compress(ARPA.encode())[:-30], "is damaged within its gzip compression .*file was cut off"),
    "garbage in gzip": (gzip.compress(ARPA.encode())[:20] + b"garbage" * 9, "is damaged within its gzip compression"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_gives_one_message_with_its_line(tmp_path: Path, damage: str) -> None:
    content, message = DAMAGES[damage]
    with pytest.raises(ValueError, match=r"lm\.arpa" + message if message.startswith(":") else message) as caught:
        load(tmp_path, content)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400 + len(str(tmp_path))


def test_an_absent_file_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="absent.arpa"):
        load_language_model(tmp_path / "absent.arpa")


def test_words_keep_spaces_that_are_not_ascii(tmp_path: Path) -> None:
    model = load(
        tmp_path,
        ARPA.replace("a b", "x\u00a0y b")
        .replace("> a", "> x\u00a0y")
        .replace("b a", "b x\u00a0y")
        .replace("\ta", "\tx\u00a0y"),
    )
    np.testing.assert_allclose(scores(model, ["x\u00a0y", "b"])[:2], [-0.2, -0.05], rtol=1e-6)
