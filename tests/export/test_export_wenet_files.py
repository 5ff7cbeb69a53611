"""The folder that WeNet's onnxruntime runtime opens: its files, and the exports that are refused."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from conftest import DIGITS, changed, default_dtype
from support.model.streams import audio
from support.model.tones import RATE, ToneRun
from support.model.wenet_expected import KEEP_ALL, expected_log_probs, model_features
from support.model.wenet_runtime import OnnxAsrModel
from torch import nn

from wenet_fusion.export.flow import export_model
from wenet_fusion.export.runtime_emulator import RuntimeEmulator
from wenet_fusion.export.speech import Speech, read_speech
from wenet_fusion.export.target import Exported, ExportOptions
from wenet_fusion.export.targets import wenet_graphs, wenet_onnx
from wenet_fusion.export.targets.onnx_graph import operators
from wenet_fusion.export.targets.wenet_onnx import GRAPHS, mel_remarks, unit_table
from wenet_fusion.export.verification import relative_difference
from wenet_fusion.export.wenet_methods import WenetModel
from wenet_fusion.model.chunking import FULL_CONTEXT, Chunking
from wenet_fusion.trained_model import TrainedModel, load_trained


def wenet(chunking: Chunking = Chunking(8, 2), precision: str = "float32", **options: Any) -> ExportOptions:
    return ExportOptions("wenet-onnx", precision, chunking, **options)


pytestmark = pytest.mark.usefixtures("float32")


@pytest.fixture(scope="module")
def exports(trained: TrainedModel, tmp_path_factory: pytest.TempPathFactory) -> dict[Chunking, Exported]:
    """A folder with a mask, and one without."""
    folder = tmp_path_factory.mktemp("wenet")
    with default_dtype(torch.float32):
        return {
            chunking: export_model(trained, folder / f"{chunking.left}", wenet(chunking))
            for chunking in (Chunking(8, 2), Chunking(8, KEEP_ALL))
        }


def test_graphs_look_as_the_runtime_expects(exports: dict[Chunking, Exported]) -> None:
    for chunking, exported in exports.items():
        graphs = {path.stem: onnx.load(str(path)) for path in exported.files if path.suffix == ".onnx"}
        names = {stem: [node.name for node in graph.graph.input] for stem, graph in graphs.items()}
        six = ["chunk", "offset", "required_cache_size", "att_cache", "cnn_cache", "att_mask"]
        assert names == {
            "encoder": six if chunking.left > 0 else six[:5],
            "ctc": ["hidden"],
            "decoder": ["hyps", "hyps_lens", "encoder_out"],
        }
        outputs = {stem: [node.name for node in graph.graph.output] for stem, graph in graphs.items()}
        assert outputs == {
            "encoder": ["output", "r_att_cache", "r_cnn_cache"],
            "ctc": ["probs"],
            "decoder": ["score", "r_score"],
        }
        scalars = [len(node.type.tensor_type.shape.dim) for node in graphs["encoder"].graph.input[1:3]]
        assert scalars == [0, 0]
        numbers = (
            "batch chunk_size left_chunks output_size num_blocks cnn_module_kernel head feature_size "
            "sample_rate vocab_size decoding_window subsampling_rate subsampling_factor right_context "
            "sos_symbol eos_symbol is_bidirectional_decoder"
        ).split()
        for graph in graphs.values():
            known = {item.key: item.value for item in graph.metadata_props}
            assert all(re.fullmatch(r"-?\d+", known[key]) for key in numbers)
            assert {"output_dir", "reverse_weight", "encoder", "decoder"} < known.keys() and known == exported.metadata
            assert (known["right_context"], known["decoding_window"]) == ("3", str(4 * chunking.size))


def test_graphs_run_on_the_onnxruntime_that_wenet_builds_with(exports: dict[Chunking, Exported]) -> None:
    """onnxruntime 1.12 has opset 17 and IR version 8, but no Trilu of booleans (since 1.19)."""
    for path in exports[Chunking(8, 2)].files[:3]:
        graph = onnx.load(str(path))
        assert graph.ir_version <= 8 and [item.version <= 17 for item in graph.opset_import] == [True]
        assert "Trilu" not in operators(path)


def test_int8_lies_beside_float32(trained: TrainedModel, tmp_path: Path) -> None:
    exported = export_model(trained, tmp_path, wenet(precision="int8-dynamic"))
    graphs = {f"{name}{suffix}" for name in ("encoder", "ctc", "decoder") for suffix in (".onnx", ".quant.onnx")}
    names = {path.name for path in tmp_path.iterdir()}
    assert {path.name for path in exported.files} == names == graphs | {"units.txt"}
    features = model_features(trained, audio())
    expected = expected_log_probs(trained, features, Chunking(8, 2))
    exact, quantised = (OnnxAsrModel(tmp_path, suffix).decode(features) for suffix in (".onnx", ".quant.onnx"))
    assert relative_difference(exact, expected) < 1e-5 < relative_difference(quantised, expected) < 0.2
    assert operators(tmp_path / "encoder.quant.onnx")["MatMulInteger"] > 10


def test_units_are_words_to_a_runtime_that_joins_without_spaces(
    exports: dict[Chunking, Exported], trained: TrainedModel
) -> None:
    lines = exports[Chunking(8, 2)].files[-1].read_text(encoding="utf-8").splitlines()
    assert lines[:3] == ["<blank> 0", "<unk> 1", "<sos/eos> 2"]
    assert lines[3:] == [f"\u2581{word} {number}" for number, word in enumerate(DIGITS, start=3)]
    tokenizer = trained.tokenizer

    class Pieces:
        join, vocabulary = "pieces", tokenizer.vocabulary

    assert unit_table(Pieces()).splitlines()[3] == "zero 3"


def test_export_prints_the_command_and_the_notes(exports: dict[Chunking, Exported], trained: TrainedModel) -> None:
    known, unknown = exports[Chunking(8, 2)], exports[Chunking(8, KEEP_ALL)]
    flags = "--chunk_size 8 --num_left_chunks 2 --num_bins 40 --sample_rate 8000 --ctc_weight 0.5 --reverse_weight 0.3"
    assert flags in known.command and f"--onnx_dir {known.files[0].parent} " in known.command
    assert known.remarks == ()
    assert unknown.remarks == ("the model was not trained for 8 frames and all frames before, only for 4/4, 8/2",)


# --- exports that are refused


def with_frontend(trained: TrainedModel, **changes: float) -> TrainedModel:
    """Return a model whose configuration claims that it was trained with these front-end settings."""
    model = trained.config.model
    frontend = dataclasses.replace(model.frontend, **changes)
    config = dataclasses.replace(trained.config, model=dataclasses.replace(model, frontend=frontend))
    return dataclasses.replace(trained, config=config)


def test_models_that_the_runtime_cannot_run_are_refused(trained: TrainedModel, tmp_path: Path) -> None:
    path = tmp_path / "onnx"
    with pytest.raises(ValueError, match="skips chunks of 1 frame; use a chunk size of 2 or more"):
        export_model(trained, path, wenet(Chunking(1, 4)))
    with pytest.raises(ValueError, match="has no precision float16; choose from float32, int8-dynamic"):
        export_model(trained, path, wenet(precision="float16"))
    with pytest.raises(ValueError, match="25 ms every 10 ms, tiny.pt was trained with window_ms: 32 and hop_ms: 10"):
        export_model(with_frontend(trained, window_ms=32.0), path, wenet(Chunking(8, 2)))
    assert not path.exists()


def test_other_mel_filters_give_a_note(trained: TrainedModel) -> None:
    assert mel_remarks(with_frontend(trained, high_freq=-400.0), "WeNet's runtime", 0.0, "") == [
        "WeNet's runtime computes mel filters over 20-4000 Hz, the model was trained with 20-3600 Hz: "
        "expect more errors"
    ]
    assert mel_remarks(with_frontend(trained, high_freq=4000.0), "WeNet's runtime", 0.0, "") == []


def test_a_wrong_graph_is_not_kept(trained: TrainedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "encoder.onnx").write_text("the old one")
    step_encoder = WenetModel.step_encoder

    def forgets(self: WenetModel, *arguments: torch.Tensor) -> tuple[torch.Tensor, ...]:
        out, att_cache, cnn_cache = step_encoder(self, *arguments)
        return out, att_cache, 0 * cnn_cache

    monkeypatch.setattr(wenet_graphs.WenetModel, "step_encoder", forgets)
    with pytest.raises(ValueError, match=r"is not kept: it differs from the checkpoint by \d\.\de[-+]\d\d "):
        export_model(trained, tmp_path, wenet(Chunking(8, 2)))
    assert [path.name for path in tmp_path.iterdir()] == ["encoder.onnx"]
    assert (tmp_path / "encoder.onnx").read_text() == "the old one"


def test_a_norm_that_is_left_is_refused(trained: TrainedModel, tmp_path: Path) -> None:
    planted = changed(
        trained, lambda model: setattr(model.encoder.layers[1].feed_forward_in.op, "dropout", nn.LayerNorm(16))
    )
    with pytest.raises(ValueError, match="onnx is not kept: its step still runs {'LayerNormalization': 1}"):
        export_model(planted, tmp_path / "onnx", wenet(Chunking(8, 2)))
    assert not (tmp_path / "onnx").exists()


# --- recorded speech


@pytest.fixture(scope="module")
def tones(tone_run: ToneRun) -> TrainedModel:
    return load_trained(tone_run.checkpoint)


@pytest.fixture(scope="module")
def speech(tone_run: ToneRun) -> list[Speech]:
    return read_speech(tone_run.dev_list, RATE, 10)


@pytest.mark.parametrize("chunking", [Chunking(8, 2), Chunking(8, KEEP_ALL), FULL_CONTEXT, Chunking(5, 0)], ids=str)
def test_speech_is_verified_and_int8_is_judged_by_it(
    tones: TrainedModel, speech: list[Speech], tmp_path: Path, chunking: Chunking
) -> None:
    """int8 is tested with the requested chunking, even one that was not trained."""
    found = export_model(tones, tmp_path, wenet(chunking, "int8-dynamic", max_wer_increase=0.1), speech).findings
    assert found.verification.utterances == 1 + 8 and found.verification.largest_difference > 1e-4
    words = sum(len(utterance.text.split()) for utterance in speech)
    assert (found.errors.words, found.errors.utterances) == (words, 10)
    assert found.errors.before <= 0.1 and abs(found.errors.after - found.errors.before) <= 0.1


@pytest.mark.parametrize("graph", GRAPHS)
def test_int8_that_costs_too_much_is_refused(
    tones: TrainedModel, speech: list[Speech], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, graph: str
) -> None:
    """Any of the three graphs may be the wrong one: errors of the decoder count in rescoring."""
    (tmp_path / "notes.txt").write_text("mine")

    def coarse(source: Path, target: Path) -> None:
        model = onnx.load(str(source))
        for tensor in model.graph.initializer if source.stem == graph else ():
            values = onnx.numpy_helper.to_array(tensor)
            if values.ndim == 2:
                tensor.CopyFrom(onnx.numpy_helper.from_array(-30 * values, tensor.name))
        onnx.save(model, str(target))

    monkeypatch.setattr(wenet_onnx, "quantise_dynamic", coarse)
    with pytest.raises(
        ValueError, match=f"{tmp_path} is not kept: its word .* allows; export float32, which does not change the text$"
    ):
        export_model(tones, tmp_path, wenet(precision="int8-dynamic"), speech)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_tokens_of_speech_are_compared(tones: TrainedModel, speech: list[Speech], tmp_path: Path) -> None:
    """The model is wrong in one word only, so generated audio does not show it."""
    loud = [Speech("loud", np.float32(4.0) * speech[0].samples, speech[0].text)]
    limit = float(np.abs(speech[0].samples).max()) * 2

    def deaf(samples: np.ndarray) -> np.ndarray:
        return np.where(np.abs(samples).max() > limit, np.float32(0), samples)

    class Deaf(RuntimeEmulator):
        def step(self, samples: np.ndarray, *rest: Any) -> Any:
            return super().step(deaf(samples), *rest)

    assert limit > 0.5, "generated audio is softer"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("wenet_fusion.export.runtime_emulator.RuntimeEmulator", Deaf)
        export_model(tones, tmp_path / "a", wenet(), speech[:1])
        with pytest.raises(
            ValueError, match="is not kept: it differs from the checkpoint by .* and in the best token of"
        ):
            export_model(tones, tmp_path / "b", wenet(), loud)
