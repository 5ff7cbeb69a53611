"""Validation counts errors in the unit that suits the language, and measures emission delays as evaluation does."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch
from conftest import randomise, tiny_recipe
from support.model.runs import CPU, start, with_training
from wenet_fusion_runtime.results.vocabulary import Vocabulary
from wenet_fusion_runtime.search.modes import GREEDY

from wenet_fusion.cli.__main__ import main
from wenet_fusion.data.dataset import SpeechDataset
from wenet_fusion.model.asr_model import AsrModel
from wenet_fusion.model.chunking import FULL_CONTEXT, Chunking
from wenet_fusion.model.losses import Losses
from wenet_fusion.recipe import build_dataset
from wenet_fusion.text.tokenizer import CharTokenizer, build_tokenizer
from wenet_fusion.training.progress.validation import choose_counting, validate

POINTS = ("p50", "p90", "p95")
CHARACTERS = Vocabulary(("<blank>", "<unk>", "<sos/eos>", "\u2581", *"enotwhr"), "pieces", "units.txt")


def with_texts(dataset, *texts):
    """Return the dataset's first utterances with other transcripts, in characters."""
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
        result = validate(model, with_texts(words, *texts), FULL_CONTEXT, 20.0, CPU)
        assert (result.rate_name, result.errors.reference) == (name, count)


def test_batches_of_any_size_give_the_same_result(words, tiny_units):
    """Loss and errors are sums over utterances, padding is not decoded, and the running statistics are used."""
    torch.manual_seed(0)
    model = randomise(AsrModel(tiny_recipe(tiny_units).model, len(words.tokenizer.vocabulary))).train()
    with torch.no_grad():
        model.cmvn.mean.fill_(8.0)
        model.cmvn.inverse_std.fill_(0.3)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    alone, together = (validate(model, words, Chunking(4, 2), seconds, CPU) for seconds in (0.1, 30.0))
    assert alone.errors == together.errors and alone.errors.errors > 0
    assert alone.loss == pytest.approx(together.loss, rel=1e-4)
    assert model.training and all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


class TokenPerFrame(torch.nn.Module):
    """A CTC head that emits a different token in every frame, even in padding."""

    def forward(self, frames_BTD: torch.Tensor) -> torch.Tensor:
        ids = 3 + torch.arange(frames_BTD.size(1)) % 2
        log_probs = torch.nn.functional.one_hot(ids, 13).float().log_softmax(-1)
        return log_probs.expand(frames_BTD.size(0), -1, -1)


def test_padding_is_not_decoded(corpus, tiny_units):
    recipe = tiny_recipe(tiny_units)
    data = build_dataset(recipe, corpus[1], build_tokenizer(recipe.tokenizer, Path()), augmented=False)
    model = AsrModel(recipe.model, 13)
    model.ctc = TokenPerFrame()
    model.losses = lambda *_: Losses(*torch.zeros(5))
    alone, together = (validate(model, data, FULL_CONTEXT, seconds, CPU) for seconds in (0.1, 60.0))
    assert alone.errors.insertions == together.errors.insertions > 0


# ---- emission delays


def test_emission_delays_are_those_of_an_evaluation(tone_run, tmp_path, capsys):
    """They use the weights of the last checkpoint and the chunk size of validation; the run itself does not change."""
    ctm = tone_run.dev_list.with_name("words.ctm")
    recipe = tone_run.recipe
    lists, chunking = (tone_run.train_list, tone_run.dev_list), recipe.training.chunking.served()[-1]
    shutil.copytree(tone_run.model_dir, tmp_path / "run")
    trainer = start(with_training(recipe, dev_ctm=str(ctm)), lists, tmp_path / "run")  # the setting may change
    trainer._validate()
    entry = json.loads((tmp_path / "run/train_log.jsonl").read_text().splitlines()[-1])
    arguments = ["evaluate", "--checkpoint", tone_run.checkpoint, "--data", tone_run.dev_list, "--ctm", ctm]
    arguments += ["--chunkings", f"{chunking.size}/{chunking.left}", "--modes", GREEDY, "--result_dir", tmp_path]
    assert main(list(map(str, arguments))) == 0
    expected = json.loads((tmp_path / "results.json").read_text())["rows"][0]["emission_delay_ms"]
    assert expected["words"] > 20
    assert [entry[f"dev_emission_delay_{point}_ms"] for point in POINTS] == [expected[point] for point in POINTS]
    shown = " / ".join(f"{expected[point]:.0f}" for point in POINTS)
    assert f", emission delay {shown} ms\n" in capsys.readouterr().out


def test_times_of_other_utterances_are_refused_before_training(tone_run, tmp_path):
    (tmp_path / "foreign.ctm").write_text("x 1 0.0 1.0 one\n")
    recipe = with_training(tone_run.recipe, dev_ctm=str(tmp_path / "foreign.ctm"))
    with pytest.raises(ValueError, match=r"foreign.ctm: belongs to other utterances"):
        start(recipe, (tone_run.train_list, tone_run.dev_list), tmp_path / "run")


def test_without_times_there_is_no_delay(words, tiny_units):
    model = AsrModel(tiny_recipe(tiny_units).model, len(words.tokenizer.vocabulary))
    found = validate(model, words, FULL_CONTEXT, 20.0, CPU)
    assert found.delay is None and list(found.numbers()) == ["dev_loss", "dev_wer"]
    assert found.text().startswith("dev loss ") and "delay" not in found.text()
