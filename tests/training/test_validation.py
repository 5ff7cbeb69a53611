"""Validation: errors are counted in the unit that suits the language."""

import dataclasses
from pathlib import Path

import pytest
import torch
from conftest import tiny_recipe
from wenet_fusion_runtime.results.vocabulary import Vocabulary

from wenet_fusion.data.dataset import SpeechDataset
from wenet_fusion.model.asr_model import AsrModel
from wenet_fusion.model.chunking import FULL_CONTEXT
from wenet_fusion.recipe import build_dataset
from wenet_fusion.text.tokenizer import CharTokenizer, build_tokenizer
from wenet_fusion.training.validation import choose_counting, validate

CHARACTERS = Vocabulary(("<blank>", "<unk>", "<sos/eos>", "\u2581", *"enotwhr"), "pieces", "units.txt")


def with_texts(dataset, *texts):
    """The dataset's first utterances under other transcripts in characters."""
    utterances = [dataclasses.replace(item, text=text) for item, text in zip(dataset.utterances, texts)]
    return SpeechDataset(utterances, CharTokenizer(CHARACTERS), dataset.frontend)


@pytest.fixture(scope="module")
def words(tone_run, tiny_units):
    recipe = tiny_recipe(tiny_units)
    return build_dataset(recipe, tone_run.dev_list, build_tokenizer(recipe.tokenizer, Path()), augmented=False)


def test_the_unit_suits_the_language(words):
    assert choose_counting(words).unit == "word"
    assert choose_counting(with_texts(words, "one two", "one")).unit == "word"
    assert choose_counting(with_texts(words, "one", "two")).unit == "char"
    assert choose_counting(with_texts(words, "one", "")).unit == "char"


def test_characters_are_counted(words, tiny_units):
    torch.manual_seed(0)
    model = AsrModel(tiny_recipe(tiny_units).model, len(CHARACTERS))
    for texts, name, count in ((("one", "three"), "CER", 8), (("one two", "one"), "WER", 3)):
        result = validate(model, with_texts(words, *texts), FULL_CONTEXT, 20.0, torch.device("cpu"))
        assert (result.rate_name, result.errors.reference) == (name, count)
