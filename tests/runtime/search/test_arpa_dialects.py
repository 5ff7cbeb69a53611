"""ARPA files of other programs are read as KenLM reads them, or as intended where KenLM refuses them."""

from pathlib import Path

import numpy as np
import pytest
from support.recipes.arpa_models import ARPA, load, scores

A_B_A_B = [-0.2, -0.05, -0.2 - 0.3, -0.5, -0.2 - 0.9]  # log10 of "a b a b" and its end
DIALECTS = {
    "text before": "made by\nsome program 1=2\n\n" + ARPA,
    "byte order mark": "\ufeff" + ARPA.lstrip(),
    "zeros in the highest order": ARPA.replace("<s> a b\n", "<s> a b\t0.0000\n"),
    "-inf": ARPA.replace("-99\t<s>", "-inf\t<s>"),
    "no empty line after the counts": ARPA.replace("ngram 3=1\n\n", "ngram 3=1\n"),
    "text after": ARPA + "more\n",
    "an empty order": ARPA.replace("ngram 3=1", "ngram 3=1\nngram 4=0").replace("\\end", "\\4-grams:\n\n\\end"),
    "an empty order without header": ARPA.replace("ngram 3=1", "ngram 3=1\nngram 4=0"),
    "all at once, by Windows": ("\ufeffmade by X\n" + ARPA).replace("\t", " ").replace("\n", "\r\n"),
}


@pytest.mark.parametrize("dialect", DIALECTS)
def test_dialects_give_the_same_scores(tmp_path: Path, dialect: str) -> None:
    np.testing.assert_allclose(scores(load(tmp_path, DIALECTS[dialect]), "a b a b".split()), A_B_A_B, rtol=1e-6)


def test_weights_below_an_empty_order_count(tmp_path: Path) -> None:
    """Weights of 2-grams count without 3-grams, as in KenLM 0.3.0: after "a b", an "a" costs the weight of "a b"."""
    text = ARPA.replace("ngram 3=1", "ngram 3=0").replace("-0.05\t<s> a b\n", "")
    for form in (text, text.replace("\\3-grams:\n", "")):
        expected = [-0.2, -0.1 - 0.5, -0.2 - 0.3, -0.5, -0.2 - 0.9]
        np.testing.assert_allclose(scores(load(tmp_path, form), "a b a b".split()), expected, rtol=1e-6)


def test_infinite_logarithms_are_probability_0_and_stay_finite(tmp_path: Path) -> None:
    text = ARPA.replace("-0.8\tb\t-0.3", "-inf\tb\t-Infinity")
    found = scores(load(tmp_path, text), ["b", "b"])
    np.testing.assert_allclose(found, [-0.5 - 99, -99 - 99, -0.9], rtol=1e-6)


def test_words_in_another_unicode_form_are_found(tmp_path: Path) -> None:
    decomposed = ARPA.replace("a", "a\u0301").replace("da\u0301ta\u0301", "data").replace("gra\u0301m", "gram")
    model = load(tmp_path, decomposed)
    np.testing.assert_allclose(scores(model, ["\u00e1", "b", "a\u0301", "b\u200b"]), A_B_A_B, rtol=1e-6)
    assert "\u00e1" in model and "a\u0301" in model and "a" not in model


@pytest.mark.parametrize(
    "old, new, message",
    [
        ("a b\t-0.2", "a b\tinf", ":15: backoff weight inf is not finite"),
        ("ngram 2=4", "ngram 2=" + "9" * 5000, ":3: expected 'ngram 2=COUNT'"),
        ("\\data\\", "x\n" * 2000 + "\\data\\", ":1: the file begins with 'x', expected"),
    ],
)
def test_files_that_no_program_writes_are_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load(tmp_path, ARPA.replace(old, new))
