"""Check an encoder with other settings: laws, training and exports. Arguments: KEY=VALUE of model.encoder.

python tests/support/model/worked_example.py activation=gelu layer=conformer
"""

import dataclasses
import sys
import tempfile
from pathlib import Path

import torch
import yaml

ROOT = Path(__file__).parents[3]
sys.path[len(sys.path) :] = [str(ROOT / "tests"), str(ROOT), str(ROOT / "runtime")]  # after PYTHONPATH

from conftest import TINY_UNITS, default_dtype, tiny_recipe, tiny_trained  # noqa: E402
from support.model import laws  # noqa: E402
from support.model.encoders import FEATURES, FIXED, build, encoder_op, features, states_after  # noqa: E402

from wenet_fusion.export.flow import export_model  # noqa: E402
from wenet_fusion.export.target import ExportOptions  # noqa: E402
from wenet_fusion.model.asr_model import AsrModel  # noqa: E402
from wenet_fusion.model.chunking import FULL_CONTEXT  # noqa: E402
from wenet_fusion.model.encoder_config import EncoderConfig  # noqa: E402
from wenet_fusion.text.vocabulary_file import format_vocabulary  # noqa: E402


def check_laws(changes: dict[str, object]) -> None:
    """Split, batch and padding hold in float64, and forgetting the state breaks the split."""
    geometry = FIXED._replace(config=dataclasses.replace(FIXED.config, **changes))
    with default_dtype(torch.float64):
        encoder, (size, left) = build(geometry), geometry.chunking
        op, x = encoder_op(encoder, geometry.chunking), features(geometry, 2, 4 * size)
        lengths, edges = torch.tensor([x.size(1), x.size(1) - 5 * FEATURES]), [FEATURES * size * i for i in (1, 2, 3)]
        state = encoder.init_state(2, size * left)
        assert laws.split(op, state, x, lengths, edges) <= laws.BOUND
        forgetful = laws.forgetful(op, lambda old, new: new._replace(layers=old.layers))
        assert laws.split(forgetful, state, x, lengths, edges) > laws.BROKEN
        xs = [features(geometry._replace(seed=row), 1, frames) for row, frames in enumerate((7, 12))]
        assert laws.batch(op, laws.join, xs, states_after(encoder, geometry, [3, 1])) <= laws.BOUND
        for training in (True, False):
            check_padding(encoder.train(training), x, lengths)


def check_padding(encoder: torch.nn.Module, x: torch.Tensor, lengths: torch.Tensor) -> None:
    """Garbage behind the lengths changes no output, statistic or gradient."""

    def measure(padded: torch.Tensor) -> laws.Tree:
        torch.manual_seed(0)
        encoder.load_state_dict(weights)
        out = encoder(padded, lengths // FEATURES, FULL_CONTEXT, encoder.init_state(len(padded), 0)).frames_BTD
        kept = laws.valid(out, lengths // FEATURES, out.size(1))
        return [kept, laws.statistics(encoder), laws.gradients(kept[0].square().sum(), encoder)]

    weights = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    assert laws.padding(measure, x, lengths) <= laws.BOUND


def check_training_and_exports(changes: dict[str, object], folder: Path) -> None:
    """Updates lower the loss, and every export equals the checkpoint (export itself verifies this)."""
    (folder / "units.txt").write_text(format_vocabulary(TINY_UNITS), encoding="utf-8")
    recipe = tiny_recipe(folder / "units.txt")
    # Without dropout: with it, the fifth loss exceeds the first in one run of twenty.
    encoder = dataclasses.replace(recipe.model.encoder, **{"dropout": 0.0, **changes})
    decoder = dataclasses.replace(recipe.model.decoder, dropout=0.0)
    recipe = dataclasses.replace(recipe, model=dataclasses.replace(recipe.model, encoder=encoder, decoder=decoder))
    torch.manual_seed(0)
    model = AsrModel(recipe.model, len(TINY_UNITS)).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    batch = 0.1 * torch.randn(2, 8000), torch.tensor([8000, 6000]), torch.tensor([[3, 4], [5, 6]]), torch.tensor([2, 2])
    losses = []
    for _ in range(5):
        losses.append(model(*batch, FULL_CONTEXT).total)
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < losses[0], losses
    trained = tiny_trained(recipe)
    for target, name in (("torchscript", "model.zip"), ("onnx", "onnx.zip")):
        norms_left = export_model(trained, folder / name, ExportOptions(target)).findings.norm_operators
        assert (norms_left == 0) == (encoder.norm in ("fusion", "none")), f"{target}: {norms_left} norms are left"


def main(arguments: list[str]) -> None:
    """Run the checks with the settings `key=value` of `model.encoder`."""
    changes = {key: yaml.safe_load(value) for key, _, value in (argument.partition("=") for argument in arguments)}
    known = [setting.name for setting in dataclasses.fields(EncoderConfig)]
    if unknown := [key for key in changes if key not in known]:
        sys.exit(f"error: unknown settings {', '.join(unknown)}; model.encoder has {', '.join(known)}")
    try:
        check_laws(changes)
        with tempfile.TemporaryDirectory() as folder:
            check_training_and_exports(changes, Path(folder))
    except ValueError as error:  # a value that the encoder refuses
        sys.exit(f"error: {error}")
    print("laws, training step and exports: all right with", changes)


if __name__ == "__main__":
    main(sys.argv[1:])
