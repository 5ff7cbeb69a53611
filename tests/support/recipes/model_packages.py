"""Packages of a model of tests and a language model with the word "a"."""

import gzip
import importlib
from pathlib import Path

import make_model_package
import pytest
import soundfile
from support.runtime.fake_model import SAMPLE_RATE, SAVERS, speak

ARPA = """\\data\\
ngram 1=4

\\1-grams:
-1.0 <s>
-1.0 </s>
-1.0 <unk>
-1.0 a

\\end\\
"""


def write_files(folder: Path) -> Path:
    """Write a model, a recording and a language model; return the folder."""
    SAVERS["onnx"](folder / "model.zip")
    soundfile.write(folder / "speech.wav", speak("abc"), SAMPLE_RATE)
    (folder / "words.arpa.gz").write_bytes(gzip.compress(ARPA.encode()))
    return folder


def install_package(files: Path, monkeypatch: pytest.MonkeyPatch, *options: object) -> Path:
    """Make a package of the model that Python finds, and return the folder of the model."""
    folder = files / "dist"
    assert make_model_package.main([str(files / "model.zip"), "--output", str(folder), *map(str, options)]) == 0
    monkeypatch.syspath_prepend(str(folder))
    importlib.invalidate_caches()
    return folder / "wenet_fusion_model"


def install_with_language_model(files: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a package of the model and the language model: weight 0.25, word bonus 0.5, unknown word penalty 0.75."""
    options = ["--language_model", files / "words.arpa.gz", "--lm_weight", 0.25, "--word_bonus", 0.5]
    options += ["--unknown_word_penalty", 0.75, "--confidence_threshold", 0.125, "--beam_size", 3]
    return install_package(files, monkeypatch, *options)
