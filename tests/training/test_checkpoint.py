"""Checkpoints: contents survive the round trip; other files are refused with one message and a remedy."""

import dataclasses
import pickle
import wave

import numpy as np
import pytest
import torch
from torch import nn

from wenet_fusion.export.flow import export_model
from wenet_fusion.trained_model import load_trained
from wenet_fusion.training.state.checkpoint import (
    FORMAT,
    MODEL_KIND,
    STATE_KIND,
    STATE_NAME,
    ModelCheckpoint,
    TrainingState,
    checkpoint_name,
    list_checkpoints,
    load_model,
    load_training_state,
    load_weights,
    restore_optimizer,
    save_model,
    save_training_state,
)

UNITS = ("<blank>", "<unk>", "<sos/eos>", "one")
CHECKPOINT = ModelCheckpoint("seed: 0\n", UNITS, b"", {"w": torch.arange(6.0).view(2, 3)}, 7, 1.5, 0.25)


def test_a_model_round_trips(tmp_path):
    path = tmp_path / checkpoint_name(7)
    for model in (CHECKPOINT, dataclasses.replace(CHECKPOINT, bpe_model=b"\0binary", units=(*UNITS, "▁é"))):
        save_model(model, path)
        loaded = load_model(path)
        assert torch.equal(loaded.weights["w"], model.weights["w"])
        assert dataclasses.replace(loaded, weights={}) == dataclasses.replace(model, weights={})
    assert [child.name for child in tmp_path.iterdir()] == ["step_000007.pt"], "nothing is left beside it"


def test_a_training_state_round_trips_with_its_optimizer(tmp_path):
    model = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    state = TrainingState(
        "seed: 0\n", UNITS, 5, 1, 2, model.state_dict(), optimizer.state_dict(), [torch.get_rng_state()], [], 1, 3.25, 4
    )
    assert load_training_state(tmp_path) is None
    save_training_state(state, tmp_path)
    loaded = load_training_state(tmp_path)
    assert (loaded.step, loaded.epoch, loaded.batch, loaded.skipped_steps) == (5, 1, 2, 1)
    assert (loaded.epoch_loss, loaded.epoch_updates) == (3.25, 4)
    assert torch.equal(loaded.rng[0], state.rng[0])
    again = torch.optim.AdamW(nn.Linear(3, 2).parameters())
    restore_optimizer(again, loaded.optimizer, "run")
    assert torch.equal(again.state_dict()["state"][0]["exp_avg"], optimizer.state_dict()["state"][0]["exp_avg"])


@pytest.mark.parametrize("other", [nn.Linear(3, 4), nn.Linear(3, 2, bias=False), nn.Bilinear(3, 2, 2)])
def test_the_optimizer_of_another_model_is_refused(other):
    """With moments of other shapes, a fused update would read beyond their ends."""
    model = nn.Linear(3, 2)
    optimizers = [torch.optim.AdamW(of.parameters(), fused=True) for of in (other, model)]
    other(*[torch.ones(1, 3), torch.ones(1, 2)][: 1 + isinstance(other, nn.Bilinear)]).sum().backward()
    optimizers[0].step()
    with pytest.raises(ValueError, match=r"run/training_state.pt holds an optimiser of another model: choose another"):
        restore_optimizer(optimizers[1], optimizers[0].state_dict(), "run")


def test_checkpoints_are_listed_by_step(tmp_path):
    steps = [90, 100, 999_999, 1_000_000]
    for step in reversed(steps):
        (tmp_path / checkpoint_name(step)).touch()
    (tmp_path / "step_000100.pt.part").touch()  # left behind by a kill
    (tmp_path / "avg_5.pt").touch()
    assert list_checkpoints(tmp_path) == [tmp_path / checkpoint_name(step) for step in steps]


# ---- files that are no checkpoints


def foreign_files(folder):
    """Return name -> (contents, expected message)."""
    save_model(CHECKPOINT, folder / "good.pt")
    good = (folder / "good.pt").read_bytes()
    (folder / "empty.pt").write_bytes(b"")
    (folder / "directory.pt").mkdir()
    for percent in (1, 50, 99):
        (folder / f"truncated{percent}.pt").write_bytes(good[: len(good) * percent // 100])
    (folder / "text.pt").write_text("hello\n")
    with wave.open(str(folder / "audio.pt"), "wb") as audio:
        audio.setparams((1, 2, 8000, 0, "NONE", ""))
        audio.writeframes(bytes(2000))
    (folder / "pickle.pt").write_bytes(pickle.dumps({"array": np.zeros(3)}))
    torch.save(nn.Linear(2, 2), folder / "module.pt")
    torch.save({"w": torch.zeros(2)}, folder / "weights.pt")
    torch.save([1, 2], folder / "list.pt")
    torch.save({"kind": STATE_KIND, "format": FORMAT}, folder / "state.pt")
    torch.save({"kind": MODEL_KIND, "format": FORMAT + 1, "news": 1}, folder / "future.pt")
    torch.save({"kind": MODEL_KIND, "format": FORMAT, "step": 1}, folder / "partial.pt")
    return {
        "missing.pt": "does not exist",
        "directory.pt": "is a directory",
        "empty.pt": "is empty",
        "truncated1.pt": "cannot be read",
        "truncated50.pt": "cannot be read",
        "truncated99.pt": "cannot be read",
        "text.pt": "cannot be read",
        "audio.pt": "cannot be read",
        "pickle.pt": "cannot be read",
        "module.pt": "cannot be read",
        "weights.pt": "a file of another program",
        "list.pt": "'list'",
        "state.pt": "'wenet_fusion.training_state'",
        "future.pt": "this version reads",
        "partial.pt": "was not written by this version",
    }


def test_every_foreign_file_is_refused_with_its_path_and_the_remedy(tmp_path):
    for name, reason in foreign_files(tmp_path).items():
        with pytest.raises((ValueError, OSError)) as caught:
            load_model(tmp_path / name)
        message = str(caught.value)
        assert message.startswith(str(tmp_path / name)) and reason in message and "\n" not in message
        assert "give a model checkpoint such as" in message or "this version reads" in message


@pytest.mark.parametrize(
    "field, value", [("units", 5), ("units", (1, 2)), ("config_yaml", 5), ("weights", [1]), ("step", "7")]
)
def test_fields_of_another_type_are_refused(tmp_path, field, value):
    content = {"kind": MODEL_KIND, "format": FORMAT, **vars(CHECKPOINT), field: value}
    torch.save(content, tmp_path / "wrong.pt")
    with pytest.raises(
        ValueError, match=f"wrong.pt was not written by this version .{field} .*; give a model checkpoint"
    ):
        load_model(tmp_path / "wrong.pt")


def test_an_exported_file_is_no_checkpoint(trained, tmp_path):
    path = tmp_path / "exported.pt"
    export_model(trained, path)
    with pytest.raises(ValueError, match="exported.pt is an exported model; give a model checkpoint"):
        load_model(path)


def test_random_bytes_never_raise_anything_else(tmp_path):
    """A damaged pickle makes the unpickler raise nearly anything; a user sees one kind of error."""
    rng = np.random.default_rng(0)
    path = tmp_path / "noise.pt"
    for length in rng.integers(1, 40, 300):
        path.write_bytes(rng.bytes(length))
        with pytest.raises(ValueError, match="noise.pt cannot be read"):
            load_model(path)


def test_a_damaged_training_state_says_how_to_start_again(tmp_path):
    path = tmp_path / STATE_NAME
    path.write_bytes(b"PK\x03\x04 half of it")
    message = f"{path} cannot be read: it is cut off or damaged.*; delete {path} to start again"
    with pytest.raises(ValueError, match=message):
        load_training_state(tmp_path)
    save_model(CHECKPOINT, path)
    with pytest.raises(ValueError, match="'wenet_fusion.model'; give a training state"):
        load_training_state(tmp_path)


# ---- contents that do not fit


def test_weights_that_do_not_fit_are_named():
    module = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1, bias=False))
    weights = {"0.weight": torch.zeros(2, 4), "0.bias": torch.zeros(2), "9.weight": torch.zeros(1)}
    with pytest.raises(ValueError) as caught:
        load_weights(module, weights, "x.pt")
    message = str(caught.value)
    shapes = "0.weight is (2, 4), the model's is (2, 3)"
    for part in ("x.pt", "3 differences", "1.weight is missing", "9.weight is unknown", shapes):
        assert part in message
    assert not torch.equal(module[0].bias, weights["0.bias"]), "nothing was copied"


def test_a_checkpoint_that_contradicts_itself_is_refused(tone_run, tmp_path):
    checkpoint = load_model(tone_run.checkpoint)
    path = tmp_path / "step_000001.pt"
    for change, message in (
        ({"units": checkpoint.units[:-1]}, "differences: ctc.linear.weight is"),
        ({"units": checkpoint.units[1:]}, f"{path}: the tokens 0, 1, 2 must be"),
        ({"config_yaml": checkpoint.config_yaml + "unknown: 1\n"}, "configuration inside .*: unknown: unknown key"),
    ):
        save_model(dataclasses.replace(checkpoint, **change), path)
        with pytest.raises(ValueError, match=message):
            load_trained(path)
    save_model(checkpoint, path)
    assert load_trained(path).config == tone_run.recipe


def test_a_flipped_bit_is_found(tmp_path):
    save_model(ModelCheckpoint("", ("a",), b"", {"w": torch.arange(1000.0)}, 1, 0.5, 0.5), tmp_path / "step.pt")
    content = bytearray((tmp_path / "step.pt").read_bytes())
    place = content.index(torch.arange(1000.0).numpy().tobytes()[2000:2100])
    content[place] ^= 1
    (tmp_path / "step.pt").write_bytes(content)
    with pytest.raises(ValueError, match="step.pt cannot be read: .*the checksum of .* is wrong"):
        load_model(tmp_path / "step.pt")


@pytest.mark.parametrize(
    "change, message",
    [
        ({"weights": {"w": torch.tensor([1.0, float("nan")])}}, "holds NaN or infinity in w: the training diverged"),
        ({"weights": {"w": torch.tensor([float("inf")])}}, "holds NaN or infinity in w"),
        ({"weights": {"w": 1.0}}, "was not written by this version (weights must be tensors)"),
        ({"step": -1}, "was not written by this version (step is -1, expected 0 or more)"),
    ],
)
def test_weights_and_steps_that_no_training_leaves_are_refused(tmp_path, change, message):
    save_model(CHECKPOINT, tmp_path / checkpoint_name(7))
    path = tmp_path / checkpoint_name(8)
    save_model(dataclasses.replace(CHECKPOINT, **change), path)
    with pytest.raises(ValueError) as caught:
        load_model(path)
    assert str(caught.value).startswith(f"{path} {message}")
    if "NaN" in message:
        assert str(caught.value).endswith("; the checkpoint before it is " + str(tmp_path / checkpoint_name(7)))
