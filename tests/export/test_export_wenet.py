"""Files for WeNet's C++ runtimes, run by emulations: scores, tokens and rescoring equal the model in memory."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchaudio
from conftest import default_dtype, tiny_recipe, tiny_trained
from hypothesis import example, given, settings
from support.model import laws
from support.model.encoders import Geometry, geometries
from support.model.streams import audio
from support.model.wenet_expected import (
    KEEP_ALL,
    ended,
    expected_frames,
    expected_log_probs,
    model_features,
    our_tokens,
)
from support.model.wenet_runtime import AsrModel, OnnxAsrModel, TorchAsrModel, greedy

from wenet_fusion.export.flow import export_model
from wenet_fusion.export.kernels.torch_kernels import QUANTIZED_ENGINES
from wenet_fusion.export.target import Exported, ExportOptions
from wenet_fusion.export.targets.torchscript import script
from wenet_fusion.export.verification import relative_difference
from wenet_fusion.export.wenet_methods import WENET_METHODS, WenetModel
from wenet_fusion.model.chunking import FULL_CONTEXT, Chunking
from wenet_fusion.model.decoder import DecoderConfig
from wenet_fusion.model.encoder_config import EncoderConfig
from wenet_fusion.recipe import RecipeConfig
from wenet_fusion.trained_model import TrainedModel, acoustic_model, folded

pytestmark = pytest.mark.usefixtures("float32")

SUPPORTED = torch.backends.quantized.supported_engines
CHUNKINGS = [Chunking(8, 2), Chunking(4, 4), Chunking(8, KEEP_ALL), Chunking(8, 0)]
EXACT = 1e-5


def wenet(chunking: Chunking = Chunking(8, 2), precision: str = "float32", **options: Any) -> ExportOptions:
    return ExportOptions("wenet-onnx", precision, chunking, **options)


@pytest.fixture(scope="module")
def torch_file(exported: Path) -> Path:
    """The file that serves both our runtime and WeNet's."""
    return exported


def save_torch(trained: TrainedModel, path: Path, precision: str = "float32") -> Path:
    sound = audio(2.0)  # calibrates int8
    torch.jit.save(script(trained, precision, [sound]), str(path))
    return path


@pytest.fixture(scope="module")
def exports(trained: TrainedModel, tmp_path_factory: pytest.TempPathFactory) -> dict[Chunking, Exported]:
    """A folder for each chunking."""
    folder = tmp_path_factory.mktemp("wenet")
    with default_dtype(torch.float32):
        return {chunking: export_model(trained, folder / f"{chunking.left}", wenet(chunking)) for chunking in CHUNKINGS}


def folder(exported: Exported) -> Path:
    return exported.files[0].parent


Opener = Callable[[Chunking], AsrModel]


@pytest.fixture(params=["libtorch", "onnxruntime"])
def open_model(request: pytest.FixtureRequest, torch_file: Path, exports: dict[Chunking, Exported]) -> Opener:
    if request.param == "libtorch":
        return lambda chunking: TorchAsrModel(torch_file, *chunking)
    return lambda chunking: OnnxAsrModel(folder(exports[chunking]))


@pytest.mark.parametrize(
    "precision", [name for name, engine in QUANTIZED_ENGINES.items() if engine in ("none", *SUPPORTED)]
)
def test_the_eight_methods_in_every_precision(trained: TrainedModel, tmp_path: Path, precision: str) -> None:
    path = save_torch(trained, tmp_path / "final.zip", precision)
    model = torch.jit.load(str(path))
    assert all(hasattr(model, name) for name in (*WENET_METHODS, "step"))
    assert [getattr(model, name)() for name in WENET_METHODS[:5]] == [4, 3, 2, 2, True]
    features = model_features(trained, audio())
    difference = relative_difference(
        TorchAsrModel(path, 8, 2).decode(features), expected_log_probs(trained, features, Chunking(8, 2))
    )
    assert difference < {"float32": EXACT, "float16-packed": 4e-3}.get(precision, 0.2)


# --- the encoder


@pytest.mark.parametrize("chunking", CHUNKINGS, ids=str)
@pytest.mark.parametrize("frames", [330, 331, 333, 6])
def test_scores_are_the_models(open_model: Opener, trained: TrainedModel, chunking: Chunking, frames: int) -> None:
    """Cases: whole chunks, a short last chunk, one that is no multiple of 4 feature frames, and only such a chunk."""
    features = model_features(trained, audio())[:frames]
    found = open_model(chunking).decode(features)
    expected = expected_log_probs(trained, features, chunking)
    assert relative_difference(found, expected) < EXACT
    assert greedy(found) == greedy(expected) and (frames < 100 or len(greedy(found)) > 10)


@pytest.mark.parametrize("chunking", CHUNKINGS[:2], ids=str)
def test_tokens_are_those_of_our_runtime(open_model: Opener, trained: TrainedModel, chunking: Chunking) -> None:
    sound = audio()
    found = open_model(chunking).decode(model_features(trained, ended(trained, sound)))
    assert greedy(found) == our_tokens(trained, sound, chunking)


@pytest.mark.parametrize("chunking", CHUNKINGS[:2], ids=str)
def test_tokens_from_kaldis_features(open_model: Opener, trained: TrainedModel, chunking: Chunking) -> None:
    """Kaldi's first frame starts with the audio, ours ends one hop later: leading zeros give both the same windows."""
    sound, frontend, fbank = audio(), trained.config.model.frontend, trained.model.fbank
    overlap = np.zeros(fbank.window_samples - fbank.hop_samples, np.float32)
    wave = torch.from_numpy(np.concatenate([overlap, ended(trained, sound)]) * 32768).unsqueeze(0)
    features = torchaudio.compliance.kaldi.fbank(
        wave, num_mel_bins=frontend.num_mel_bins, sample_frequency=frontend.sample_rate, dither=0.0
    ).numpy()
    assert features.shape == model_features(trained, ended(trained, sound)).shape
    assert greedy(open_model(chunking).decode(features)) == our_tokens(trained, sound, chunking)


@pytest.mark.parametrize("chunking", [Chunking(3, 5), Chunking(1000, 1), Chunking(-1, -1), Chunking(8, 100)], ids=str)
def test_libtorch_takes_any_chunking(torch_file: Path, trained: TrainedModel, chunking: Chunking) -> None:
    """Chunkings with and without precomputed biases, whole utterances (-1), and a cache longer than the stream."""
    features = model_features(trained, audio())[:-1]
    context = chunking if chunking.size > 0 else FULL_CONTEXT
    found = TorchAsrModel(torch_file, *chunking).decode(features)
    assert relative_difference(found, expected_log_probs(trained, features, context)) < EXACT


def test_onnxruntime_takes_whole_utterances(trained: TrainedModel, tmp_path: Path) -> None:
    exported = export_model(trained, tmp_path, wenet(FULL_CONTEXT))
    model, features = OnnxAsrModel(tmp_path), model_features(trained, audio())[:-1]
    assert (model.chunk_size, model.num_left_chunks) == (-1, -1)
    assert relative_difference(model.decode(features), expected_log_probs(trained, features, FULL_CONTEXT)) < EXACT
    assert "--chunk_size -1 --num_left_chunks -1" in exported.command


def test_one_graph_serves_other_chunks(exports: dict[Chunking, Exported], trained: TrainedModel) -> None:
    features = model_features(trained, audio())
    model = OnnxAsrModel(folder(exports[Chunking(8, 2)]))
    model.chunk_size, model.num_left_chunks = 4, 4
    assert relative_difference(model.decode(features), expected_log_probs(trained, features, Chunking(4, 4))) < EXACT


def test_zero_caches_equal_empty_ones(torch_file: Path, trained: TrainedModel) -> None:
    model = TorchAsrModel(torch_file, 8, 2)
    features = model_features(trained, audio())
    expected = model.decode(features)

    class Zeros(TorchAsrModel):
        def reset(self) -> None:
            super().reset()
            empty = torch.zeros(1, 32, features.shape[1])
            _, att_cache, cnn_cache = self.model.forward_encoder_chunk(empty, 0, 16, self.att_cache, self.cnn_cache)
            self.att_cache, self.cnn_cache = torch.zeros(*att_cache.shape[:2], 16, att_cache.size(3)), 0 * cnn_cache

    assert relative_difference(Zeros(torch_file, 8, 2).decode(features), expected) < EXACT


def test_offsets_of_both_runtimes_give_correct_absolute_positions(tiny_units: Path, tmp_path: Path) -> None:
    """A Conformer for comparison scores absolute positions; WeNet's offset begins at 0, or at the cache's length."""
    recipe, chunking = tiny_recipe(tiny_units), Chunking(8, 2)
    encoder = dataclasses.replace(
        recipe.model.encoder, norm="layer", activation="swish", conv_gate="glu", positions="rel_pos"
    )
    trained = tiny_trained(dataclasses.replace(recipe, model=dataclasses.replace(recipe.model, encoder=encoder)))
    export_model(trained, tmp_path, wenet(chunking))
    features = model_features(trained, audio())[:-1]
    expected = expected_log_probs(trained, features, chunking)
    for model in (TorchAsrModel(save_torch(trained, tmp_path / "final.zip"), *chunking), OnnxAsrModel(tmp_path)):
        assert relative_difference(model.decode(features), expected) < EXACT


def test_seeded_bugs_are_detected(open_model: Opener, trained: TrainedModel) -> None:
    chunking, features = Chunking(8, 2), model_features(trained, audio())
    expected = expected_log_probs(trained, features, chunking)
    for bug in ("offset", "att_cache", "cnn_cache", "frame"):
        model = open_model(chunking)
        forward = model.forward_encoder_func

        def broken(feats: np.ndarray) -> np.ndarray:
            kept = getattr(model, bug, None)
            log_probs = forward(feats[:, :-1] if bug == "frame" else feats)
            if kept is not None and (bug == "offset" or len(kept)):
                setattr(model, bug, kept if bug == "offset" else 0 * getattr(model, bug))
            return log_probs

        model.forward_encoder_func = broken
        assert relative_difference(model.decode(features), expected) > 1e-3, bug


def test_a_last_window_of_four_frames_is_lost_in_the_runtime(open_model: Opener, trained: TrainedModel) -> None:
    """A limit of WeNet's runtime: it skips windows of right_context + 1 frames or fewer."""
    features = model_features(trained, audio())
    for rest, frames in ((4, 80), (5, 82)):
        assert len(open_model(Chunking(8, 2)).decode(features[: 320 + rest])) == frames


@settings(laws.random_geometries, max_examples=8)
@given(geometries())
@example(Geometry(EncoderConfig(6, 2, 3, 5, conv_kernel=1, subsampling_channels=3), 9, Chunking(2, 3), 1))
@example(Geometry(EncoderConfig(8, 1, 2, 5, conv_kernel=7, subsampling_channels=1), 7, Chunking(3, 1), 2))
def test_any_geometry_fits_the_caches(tiny_units: Path, geometry: Geometry) -> None:
    """Examples: a kernel without context, and a subsampling state that does not fill whole rows."""
    recipe = tiny_recipe(tiny_units)
    frontend = dataclasses.replace(recipe.model.frontend, num_mel_bins=geometry.num_mel_bins)
    no_decoder = DecoderConfig(layers=0, reverse_layers=0)
    config = dataclasses.replace(recipe.model, frontend=frontend, encoder=geometry.config, decoder=no_decoder)
    trained = tiny_trained(dataclasses.replace(recipe, model=config))
    trained.model.double()
    model, chunking = WenetModel(folded(trained)).eval(), geometry.chunking
    features = laws.noise(geometry.seed, 1, 4 * 5 * chunking.size - 3, geometry.num_mel_bins).double()
    att_cache, cnn_cache, found = torch.zeros(0, 0, 0, 0), torch.zeros(0, 0, 0, 0), []
    for start in range(0, features.size(1), 4 * chunking.size):
        block, offset = features[:, start : start + 4 * chunking.size], start // 4
        required = chunking.size * chunking.left
        with torch.no_grad():
            out, att_cache, cnn_cache = model.forward_encoder_chunk(block, offset, required, att_cache, cnn_cache)
        found.append(out)
        assert att_cache.size()[:2] == (model.caches.rows, geometry.config.heads)
        assert cnn_cache.size() == (model.caches.rows, 1, geometry.config.dim, max(geometry.config.conv_kernel - 1, 1))
    expected = expected_frames(trained, features[0].numpy(), chunking)
    assert relative_difference(torch.cat(found, dim=1).numpy(), expected.numpy()) < 1e-10


# --- the decoders


@pytest.mark.parametrize("reverse_weight", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("hyps", [[[3, 4, 3], [], [5], [3, 4]], [[]]], ids=len)
def test_rescoring(open_model: Opener, trained: TrainedModel, reverse_weight: float, hyps: list[list[int]]) -> None:
    model = open_model(Chunking(8, 2))
    model.decode(model_features(trained, audio(1.5)))
    frames = np.concatenate([np.asarray(block) for block in model.encoder_outs], axis=1)
    both = acoustic_model(trained).rescore([frames], hyps)
    expected = (1 - reverse_weight) * both[:, 0] + reverse_weight * both[:, 1]
    assert relative_difference(np.array(model.attention_rescoring(hyps, reverse_weight)), expected) < EXACT


def with_decoders(recipe: RecipeConfig, layers: int, reverse_layers: int) -> TrainedModel:
    decoder = dataclasses.replace(recipe.model.decoder, layers=layers, reverse_layers=reverse_layers)
    return tiny_trained(dataclasses.replace(recipe, model=dataclasses.replace(recipe.model, decoder=decoder)))


def test_without_a_right_to_left_decoder(tiny_units: Path, tmp_path: Path) -> None:
    trained = with_decoders(tiny_recipe(tiny_units), 1, 0)
    export_model(trained, tmp_path / "onnx", wenet(Chunking(8, 2)))
    features, hyps = model_features(trained, audio(1.5)), [[3, 4, 3], [5]]
    for model in (TorchAsrModel(save_torch(trained, tmp_path / "final.zip"), 8, 2), OnnxAsrModel(tmp_path / "onnx")):
        assert not model.is_bidirectional_decoder
        model.decode(features)
        frames = np.concatenate([np.asarray(block) for block in model.encoder_outs], axis=1)
        expected = acoustic_model(trained).rescore([frames], hyps)[:, 0]
        assert relative_difference(np.array(model.attention_rescoring(hyps, 0.0)), expected) < EXACT


def test_without_any_decoder(tiny_units: Path, tmp_path: Path) -> None:
    trained = with_decoders(tiny_recipe(tiny_units), 0, 0)
    model = TorchAsrModel(save_torch(trained, tmp_path / "final.zip"), 8, 2)
    features = model_features(trained, audio(1.5))
    assert greedy(model.decode(features)) == greedy(expected_log_probs(trained, features, Chunking(8, 2)))
    assert model.attention_rescoring([[3, 4], []], 0.0) == [0.0, 0.0]  # the CTC score decides
    with pytest.raises(ValueError, match="tiny.pt has no attention decoder; export TorchScript"):
        export_model(trained, tmp_path / "onnx", wenet(Chunking(8, 2)))
    assert not (tmp_path / "onnx").exists()
