"""int8 archives give the same tokens on the native step and on onnxruntime."""

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from conftest import tiny_recipe, tiny_trained
from support.model.tones import RATE, ToneRun
from torch import nn
from wenet_fusion_runtime.model.model_file import load_model
from wenet_fusion_runtime.model.native_backend import NativeBackend, has_native_step
from wenet_fusion_runtime.search.modes import RESCORING
from wenet_fusion_runtime.stream.decoding_options import DecodingOptions
from wenet_fusion_runtime.stream.recognizer import Recognizer

from wenet_fusion.export.flow import export_model
from wenet_fusion.export.kernels import native_places
from wenet_fusion.export.kernels.native_places import native_table
from wenet_fusion.export.speech import Speech, read_speech
from wenet_fusion.export.target import ExportOptions
from wenet_fusion.export.targets.onnx_archive import one_chunk_model
from wenet_fusion.trained_model import load_trained

pytestmark = pytest.mark.usefixtures("float32")


@pytest.fixture(scope="module")
def speech(tone_run: ToneRun) -> list[Speech]:
    return read_speech(tone_run.dev_list, RATE, 20)


@pytest.fixture(scope="module")
def archive(tone_run: ToneRun, speech: list[Speech], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("native") / "m.zip"
    export_model(load_trained(tone_run.checkpoint), path, ExportOptions("onnx", "int8"), speech)
    return path


def test_tokens_and_scores_are_those_of_onnxruntime(
    installed_kernels: ModuleType, archive: Path, speech: list[Speech]
) -> None:
    native, usual = load_model(archive, backend="native"), load_model(archive, backend="onnxruntime")
    assert isinstance(native.backend, NativeBackend)
    differences = []
    for utterance in speech[:8]:
        for chunk, left in native.meta.chunkings:
            texts = []
            for model in (native, usual):
                recognizer = Recognizer(model, DecodingOptions(mode=RESCORING))
                stream = recognizer.create_stream(chunk, left)
                stream.accept_waveform(utterance.samples)
                stream.finish()
                texts.append([segment.text for segment in stream.finals])
            assert texts[0] == texts[1]
        block = np.zeros((1, 4 * native.meta.frame_samples), np.float32)
        block[0, : len(utterance.samples)] = utterance.samples[: block.shape[1]]
        found = [m.step(block, [block.shape[1]], 4, 4, m.init_state(1, 4, 4))[0].encoder_out for m in (native, usual)]
        differences.append(np.abs(found[0] - found[1]).max() / np.abs(found[1]).max())
    # A value halfway between two integers may be rounded up or down, so a few blocks may differ by one int8 step.
    assert np.median(differences) < 1e-5 and max(differences) < 0.05


def test_archives_that_the_native_step_cannot_run_have_no_table(tiny_units: Path, tmp_path: Path) -> None:
    trained = tiny_trained(tiny_recipe(tiny_units))
    export_model(trained, tmp_path / "m.zip", ExportOptions("onnx"))
    assert not has_native_step(tmp_path / "m.zip")


def test_a_model_with_other_layers_has_no_table(tiny_units: Path, speech: list[Speech]) -> None:
    trained = tiny_trained(tiny_recipe(tiny_units))
    model = one_chunk_model(trained, "int8", [utterance.samples for utterance in speech[:2]])
    encoder = model.encoder.encoder
    for change in _changes(encoder.layers[1]):
        change()
        assert native_table(model, encoder, b"") is None


def test_a_model_with_a_longer_kernel_has_no_table(
    tiny_units: Path, speech: list[Speech], monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = tiny_trained(tiny_recipe(tiny_units))
    model = one_chunk_model(trained, "int8", [utterance.samples for utterance in speech[:2]])
    monkeypatch.setattr(native_places, "MOST_TAPS", trained.config.model.encoder.conv_kernel - 1)
    assert native_table(model, model.encoder.encoder, b"") is None


def _changes(layer: nn.ModuleDict) -> Iterator[object]:
    yield lambda: layer.add_module("feed_forward_out", nn.Identity())
    yield lambda: layer.add_module("extra", nn.Identity())


def test_a_graph_without_the_tensors_is_refused(tiny_units: Path, speech: list[Speech]) -> None:
    trained = tiny_trained(tiny_recipe(tiny_units))
    model = one_chunk_model(trained, "int8", [utterance.samples for utterance in speech[:2]])
    with pytest.raises(ValueError, match="step.onnx does not hold a tensor float32"):
        native_table(model, model.encoder.encoder, b"graph")
