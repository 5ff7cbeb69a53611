"""Law: half precision is confined to matrix products; features, norms, losses and weights stay float32."""

from pathlib import Path

import pytest
import torch
from conftest import tiny_recipe
from support.model.runs import start, with_training

from wenet_fusion.model.asr_model import AsrModel
from wenet_fusion.model.chunking import FULL_CONTEXT
from wenet_fusion.training.state.checkpoint import load_training_state


def test_features_and_losses_stay_in_float32(tiny_units: Path) -> None:
    torch.manual_seed(0)
    with torch.random.fork_rng():
        model = AsrModel(tiny_recipe(tiny_units).model, 13).float().eval()
    samples, lengths = 0.1 * torch.randn(2, 16_000, dtype=torch.float32), torch.tensor([16_000, 9000])
    tokens, counts = torch.tensor([[3, 4, 5], [6, 7, 0]]), torch.tensor([3, 2])
    expected = model.features(samples, lengths)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(model.features(samples, lengths), expected)
        encoded = model.encode(samples, lengths, FULL_CONTEXT)
        losses = model.losses(encoded, tokens, counts)
        assert model.ctc(encoded.frames_BTD).dtype == torch.float32
        seen = []
        model.encoder.layers[0].attention.op.qkv.linear.register_forward_hook(lambda *args: seen.append(args[2].dtype))
        model.encode(samples, lengths, FULL_CONTEXT)
    assert seen == [torch.bfloat16], "products are in half precision, or nothing was tested"
    assert {loss.dtype for loss in losses} == {torch.float32}
    precise = model(samples, lengths, tokens, counts, FULL_CONTEXT)
    assert losses.total.item() == pytest.approx(precise.total.item(), rel=0.02)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_training_in_half_precision_follows_float32(
    tiny_units: Path, corpus: tuple[Path, Path], tmp_path: Path, precision: str
) -> None:
    losses = {}
    for name in ("float32", precision):
        recipe = with_training(tiny_recipe(tiny_units), max_steps=3, precision=name)
        trainer = start(recipe, corpus, tmp_path / name)
        update, losses[name] = trainer._update, []
        trainer._update = lambda batches, update=update, name=name: record(update(batches), losses[name])
        trainer.run()
        state = load_training_state(tmp_path / name)
        assert state is not None
        assert {value.dtype for value in state.weights.values() if value.is_floating_point()} == {torch.float32}
    assert losses[precision] == pytest.approx(losses["float32"], rel=0.05) and losses[precision] != losses["float32"]


def record(entry: dict[str, float], losses: list[float]) -> dict[str, float]:
    losses.append(entry["loss"])
    return entry


def test_an_overflow_of_float16_lowers_the_scale_and_is_no_divergence(
    tiny_units: Path, corpus: tuple[Path, Path], tmp_path: Path
) -> None:
    recipe = with_training(tiny_recipe(tiny_units), max_steps=14, precision="float16", max_batch_rows=4)
    trainer = start(recipe, corpus, tmp_path / "run")
    trainer.gradients.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**100)
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    trainer.run()
    assert trainer.skipped_steps == 14 and trainer.gradients.scaler.get_scale() == 2.0**86
    assert all(torch.equal(value, before[name]) for name, value in trainer.model.state_dict().items())
    assert not (tmp_path / "run/nonfinite_batch.pt").exists()
