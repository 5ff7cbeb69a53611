"""Start from the weights of another run: rows by token, the report, refusals, and resuming such a run."""

import dataclasses
import shutil

import pytest
import torch
from conftest import TINY_UNITS, tiny_recipe
from support.model.runs import CPU, differences, start, with_training

from wenet_fusion.config import to_yaml
from wenet_fusion.model.asr_model import AsrModel
from wenet_fusion.recipe import build_trainer
from wenet_fusion.training.state.checkpoint import ModelCheckpoint, load_model, load_training_state
from wenet_fusion.training.state.initialisation import describe_transfer, transfer_weights

NEW_UNITS = ("<blank>", "<unk>", "<sos/eos>", "ten", "three", "one", "eleven")


@pytest.fixture(scope="module")
def recipe(tiny_units):
    return with_training(tiny_recipe(tiny_units), max_steps=2, max_batch_rows=4, max_batch_seconds=60.0)


@pytest.fixture(scope="module")
def base(recipe, corpus, tmp_path_factory):
    """The last checkpoint of a finished run."""
    folder = tmp_path_factory.mktemp("base") / "run"
    start(recipe, corpus, folder).run()
    return folder / "step_000002.pt"


def random_checkpoint(recipe, units=TINY_UNITS):
    torch.manual_seed(5)
    weights = AsrModel(recipe.model, len(units)).state_dict()
    weights = {n: torch.randn_like(w) if w.is_floating_point() else w + 7 for n, w in weights.items()}
    return ModelCheckpoint(to_yaml(recipe), units, b"", weights, 1, 0.0, 0.0)


@pytest.mark.parametrize("new_tokens", ["mean", "fresh"])
def test_rows_follow_their_tokens(recipe, new_tokens):
    checkpoint, model = random_checkpoint(recipe), AsrModel(recipe.model, len(NEW_UNITS))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    transfer = transfer_weights(model, NEW_UNITS, checkpoint, "base.pt", new_tokens)
    after, old = model.state_dict(), checkpoint.weights
    by_token = {name for name in old if old[name].shape != before[name].shape}
    assert set(transfer.mapped) == by_token and len(by_token) == 8, "the CTC head, and three matrices per decoder"
    for name in by_token:
        for row, token in enumerate(NEW_UNITS):
            if token in TINY_UNITS:
                expected = old[name][TINY_UNITS.index(token)]
            else:
                expected = old[name][3:].mean(0) if new_tokens == "mean" else before[name][row]
            assert torch.equal(after[name][row], expected), (name, token)
    others = [name for name in old if name not in by_token]
    assert others == transfer.copied and all(torch.equal(after[name], old[name]) for name in others)
    assert (transfer.known_tokens, transfer.new_tokens) == (5, ["ten", "eleven"])


def test_the_same_vocabulary_is_copied_bit_for_bit(recipe):
    checkpoint, model = random_checkpoint(recipe), AsrModel(recipe.model, len(TINY_UNITS))
    transfer = transfer_weights(model, TINY_UNITS, checkpoint, "base.pt")
    assert differences(dict(model.state_dict()), checkpoint.weights) == []
    assert transfer.new == transfer.left_over == transfer.new_tokens == []


def test_new_and_unused_weights_are_reported(recipe):
    checkpoint = random_checkpoint(recipe)
    decoder = dataclasses.replace(recipe.model.decoder, layers=recipe.model.decoder.layers + 1, reverse_layers=0)
    loss = dataclasses.replace(recipe.model.loss, reverse_weight=0.0)
    model = AsrModel(dataclasses.replace(recipe.model, decoder=decoder, loss=loss), len(TINY_UNITS))
    transfer = transfer_weights(model, TINY_UNITS, checkpoint, "base.pt")
    assert transfer.new and all(name.startswith("decoder.layers.") for name in transfer.new)
    assert transfer.left_over and all(name.startswith("reverse_decoder.") for name in transfer.left_over)
    account = describe_transfer(transfer, "base.pt", "mean")
    for part in (f"new: {len(transfer.new)} tensors: decoder.layers.", "left over: ", "10 tokens known"):
        assert part.replace("10", "13") in account


def test_another_width_is_refused_in_one_line(recipe):
    encoder = dataclasses.replace(recipe.model.encoder, dim=2 * recipe.model.encoder.dim)
    model = AsrModel(dataclasses.replace(recipe.model, encoder=encoder), len(TINY_UNITS))
    with pytest.raises(ValueError) as caught:
        transfer_weights(model, TINY_UNITS, random_checkpoint(recipe), "base.pt")
    dim = recipe.model.encoder.dim
    assert (
        f"base.pt: its weights do not fit the configured model (model.encoder.dim: {dim} there, {2 * dim} here"
        in str(caught.value)
    )
    assert "\n" not in str(caught.value)


def test_a_run_starts_from_a_checkpoint_and_remembers_it(recipe, corpus, base, tmp_path, capsys):
    """Resuming does not read the checkpoint again, because it may be gone, and refuses another checkpoint."""
    moved = shutil.copy(base, tmp_path / "base.pt")
    (tmp_path / "run").mkdir()
    trainer = build_trainer(recipe, *corpus, tmp_path / "run", CPU, tmp_path / "base.pt")
    assert differences(dict(trainer.model.state_dict()), load_model(base).weights) == []
    assert trainer.step == 0, "the schedule starts again"
    assert "tensors copied" in capsys.readouterr().out
    trainer.run()
    state = load_training_state(tmp_path / "run")
    assert state.origin["path"] == str(moved) and len(state.origin["sha256"]) == 64
    longer = with_training(recipe, max_steps=3)
    again = build_trainer(longer, *corpus, tmp_path / "run", CPU, base)  # the same content under another name
    assert again.step == 2 and differences(dict(again.model.state_dict()), state.weights) == []
    again._lock.close()
    (tmp_path / "base.pt").unlink()
    for origin in (None, tmp_path / "base.pt"):
        trainer = build_trainer(longer, *corpus, tmp_path / "run", CPU, origin)
        assert trainer.origin == state.origin
        trainer._lock.close()
    with pytest.raises(
        ValueError, match=r"a run that started from .*base\.pt, not from .*: choose another --model_dir"
    ):
        build_trainer(longer, *corpus, tmp_path / "run", CPU, tmp_path / "run/step_000002.pt")


def test_a_run_that_started_afresh_is_not_resumed_from_a_checkpoint(recipe, corpus, base, tmp_path):
    shutil.copytree(base.parent, tmp_path / "run")
    with pytest.raises(ValueError, match="a run that started without --init_from, not from"):
        build_trainer(recipe, *corpus, tmp_path / "run", CPU, base)
