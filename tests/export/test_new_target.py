"""The worked example of CONTRIBUTING.md, "add an export target", is one class and one table entry that work."""

import re
import types
from pathlib import Path

import numpy as np
import pytest
from support.model.streams import audio
from wenet_fusion_runtime.model.model_file import load_model
from wenet_fusion_runtime.results.result import joined_ids
from wenet_fusion_runtime.search.modes import GREEDY
from wenet_fusion_runtime.stream.decoding_options import DecodingOptions
from wenet_fusion_runtime.stream.offline import transcribe_offline
from wenet_fusion_runtime.stream.recognizer import Recognizer

from wenet_fusion.export import flow
from wenet_fusion.export.description import describe_export
from wenet_fusion.export.flow import TARGETS, export_model
from wenet_fusion.export.target import ExportOptions
from wenet_fusion.trained_model import TrainedModel, acoustic_model

GUIDE = Path(__file__).parents[2] / "CONTRIBUTING.md"
OPTIONS = ExportOptions("small-torchscript")

pytestmark = pytest.mark.usefixtures("float32")


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """The example's class as a module, and in the table."""
    section = GUIDE.read_text(encoding="utf-8").partition("## Add an export target\n")[2]
    target, table = re.findall(r"```python\n(.*?)```", section.partition("\n## ")[0], re.DOTALL)
    module = types.ModuleType("small_torchscript")
    exec(compile(target, "CONTRIBUTING.md", "exec"), module.__dict__)
    names = {**vars(flow), **vars(module)}
    exec(compile(table, "CONTRIBUTING.md", "exec"), names)
    assert names["TARGETS"].keys() - TARGETS.keys() == {"small-torchscript"}
    monkeypatch.setitem(flow.TARGETS, "small-torchscript", names["TARGETS"]["small-torchscript"])
    return module


def test_the_example_exports_what_it_says(example: types.ModuleType, trained: TrainedModel, tmp_path: Path) -> None:
    exported = export_model(trained, tmp_path / "small.zip", OPTIONS)
    model = load_model(tmp_path / "small.zip")
    assert not model.meta.decoder and not any("decoder" in name for name, _ in model.backend.module.named_parameters())
    options, sound = DecodingOptions(mode=GREEDY), audio()
    stream = Recognizer(model, options).create_stream(8, 2)
    for block in np.array_split(sound, 5):
        stream.accept_waveform(block)
    stream.finish()
    expected = joined_ids(transcribe_offline(acoustic_model(trained), sound, 8, 2, options))
    assert joined_ids(stream.finals) == expected and len(expected) > 10
    size, checksum, text = describe_export(exported, OPTIONS, trained.config.training.chunking.served()[-1])
    assert size.startswith(f"{tmp_path / 'small.zip'}: ") and checksum.startswith("SHA-256 ")
    assert text.startswith("float32; no normalisation in the step")


def test_the_example_is_verified_like_every_target(
    example: types.ModuleType, trained: TrainedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = example.SmallTorchScript.build

    def wrong(self, speech):
        trained = self.trained
        self.trained = example.without_decoders(trained)
        with pytest.MonkeyPatch.context() as patch:
            weight = self.trained.model.encoder.layers[0].attention.op.qkv.linear.weight
            patch.setattr(weight, "data", weight.data + 0.01)
            honest(self, speech)
        self.trained = trained

    monkeypatch.setattr(flow.TARGETS["small-torchscript"], "build", wrong)
    with pytest.raises(ValueError, match="is not kept: it differs from the checkpoint"):
        export_model(trained, tmp_path / "small.zip", OPTIONS)
    assert list(tmp_path.iterdir()) == []
