"""The file for sherpa-onnx: run by an emulation of its source, and by the package itself where it is installed."""

import dataclasses
import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import pytest
import torch
from conftest import default_dtype, tiny_recipe, tiny_trained
from support.model.streams import audio
from support.model.tones import RATE, ToneRun, speak, tone_recipe, train_tones
from support.model.wenet_expected import expected_log_probs, model_features, our_tokens
from support.model.wenet_runtime import SherpaModel, greedy
from wenet_fusion_runtime.results.vocabulary import WORD_START
from wenet_fusion_runtime.stream.decoding_options import DecodingOptions
from wenet_fusion_runtime.stream.offline import transcribe_offline

from wenet_fusion.export.flow import export_model
from wenet_fusion.export.target import Exported, ExportOptions
from wenet_fusion.export.targets import sherpa_onnx
from wenet_fusion.export.targets.wenet_graphs import EncoderWithCtc
from wenet_fusion.export.verification import relative_difference
from wenet_fusion.model.chunking import FULL_CONTEXT, Chunking
from wenet_fusion.trained_model import TrainedModel, acoustic_model, load_trained

pytestmark = pytest.mark.usefixtures("float32")
needs_package = pytest.mark.skipif(
    importlib.util.find_spec("sherpa_onnx") is None, reason="sherpa_onnx is not installed: pip install sherpa-onnx"
)

DEFAULT_HIGH_FREQ = -400.0


def sherpa(precision: str = "float32", chunking: Chunking = Chunking(8, 2)) -> ExportOptions:
    return ExportOptions("sherpa-onnx", precision, chunking)


@pytest.fixture(scope="module")
def like_sherpa(tiny_units: Path) -> TrainedModel:
    """Return the tiny model with sherpa-onnx's default mel filters."""
    recipe = tiny_recipe(tiny_units)
    frontend = dataclasses.replace(recipe.model.frontend, high_freq=DEFAULT_HIGH_FREQ)
    with default_dtype(torch.float32):
        return tiny_trained(dataclasses.replace(recipe, model=dataclasses.replace(recipe.model, frontend=frontend)))


@pytest.fixture(scope="module")
def exported(like_sherpa: TrainedModel, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    with default_dtype(torch.float32):
        return export_model(like_sherpa, tmp_path_factory.mktemp("sherpa") / "model.onnx", sherpa())


# --- driven as its source does


@pytest.mark.parametrize("chunking", [Chunking(8, 2), Chunking(4, 4), Chunking(5, 3)], ids=str)
def test_scores_are_the_models(exported: Exported, like_sherpa: TrainedModel, chunking: Chunking) -> None:
    """One graph also works with other flags than those of its export."""
    features = model_features(like_sherpa, audio())
    found = SherpaModel(exported.files[0], *chunking).decode(features)
    expected = expected_log_probs(like_sherpa, features, chunking)[: len(found)]
    assert len(expected) == len(found) > 60
    assert relative_difference(found, expected) < 1e-5
    assert greedy(found) == greedy(expected) and len(greedy(found)) > 10


def test_keys_before_the_start_are_hidden_whatever_the_mask_says(exported: Exported, like_sherpa: TrainedModel) -> None:
    """Their positions hide them, and the runtime's mask hides them too."""
    model, features = SherpaModel(exported.files[0], 8, 2), model_features(like_sherpa, audio())
    expected, session = model.decode(features), model.session

    class SeesAll:
        def get_inputs(self):
            return session.get_inputs()

        def run(self, names, values):
            return session.run(names, {**values, "attn_mask": np.ones_like(values["attn_mask"])})

    model.session = SeesAll()
    assert relative_difference(model.decode(features), expected) < 1e-5


@pytest.mark.parametrize("bug", ["offset", "attn_cache", "conv_cache"])
def test_seeded_bugs_are_detected(exported: Exported, like_sherpa: TrainedModel, bug: str) -> None:
    model = SherpaModel(exported.files[0], 8, 2)
    session = model.session

    class Broken:
        first = None

        def get_inputs(self):
            return session.get_inputs()

        def run(self, names, values):
            if self.first is None:
                self.first = values[bug]
            return session.run(names, {**values, bug: self.first})

    features = model_features(like_sherpa, audio())
    expected = model.decode(features)
    model.session = Broken()
    assert relative_difference(model.decode(features), expected) > 1e-3


def test_the_file_says_what_sherpa_reads(exported: Exported) -> None:
    graph = onnx.load(str(exported.files[0]))
    names = [node.name for node in graph.graph.input]
    assert names == ["x", "offset", "required_cache_size", "attn_cache", "conv_cache", "attn_mask"]
    assert [node.name for node in graph.graph.output] == ["log_probs", "next_att_cache", "next_conv_cache"]
    assert [len(node.type.tensor_type.shape.dim) for node in graph.graph.input[1:3]] == [1, 1]
    known = {item.key: item.value for item in graph.metadata_props}
    read = "head num_blocks output_size cnn_module_kernel right_context subsampling_factor vocab_size".split()
    assert all(re.fullmatch(r"\d+", known[key]) for key in [*read, "chunk_size", "left_chunks"])
    assert known["model_type"] == "wenet_ctc" and known == exported.metadata


def test_export_prints_the_command_and_the_notes(exported: Exported, trained: TrainedModel, tmp_path: Path) -> None:
    model, tokens = exported.files
    assert tokens.name == "tokens.txt" and tokens.read_text(encoding="utf-8").startswith("<blank> 0\n<unk> 1\n")
    assert exported.command == (
        f"sherpa-onnx --wenet-ctc-model={model} --tokens={tokens} --wenet-ctc-chunk-size=8 "
        "--wenet-ctc-num-left-chunks=2 --sample-rate=8000 --feat-dim=40 --low-freq=20 --high-freq=-400 AUDIO.wav"
    )
    assert exported.remarks == ()
    (remark,) = export_model(trained, tmp_path / "model.onnx", sherpa()).remarks
    assert (
        "20-3600 Hz, the model was trained with 20-4000 Hz: expect more errors; give the program sherpa-onnx" in remark
    )


def test_models_that_sherpa_cannot_run_are_refused(trained: TrainedModel, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    for chunking in (Chunking(8, 0), Chunking(8, -1), FULL_CONTEXT):
        with pytest.raises(ValueError, match="left context of at least 1 chunk, such as 8/4, not"):
            export_model(trained, path, sherpa(chunking=chunking))
    with pytest.raises(ValueError, match="has no precision int4; choose from float32, int8-dynamic"):
        export_model(trained, path, ExportOptions("sherpa-onnx", "int4"))
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_graph_is_not_kept(trained: TrainedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Forgets(EncoderWithCtc):
        def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
            log_probs, att_cache, cnn_cache = super().forward(*inputs)
            return log_probs, 0 * att_cache, cnn_cache

    monkeypatch.setattr(sherpa_onnx, "EncoderWithCtc", Forgets)
    with pytest.raises(ValueError, match="model.onnx is not kept: it differs from the checkpoint by"):
        export_model(trained, tmp_path / "model.onnx", sherpa())
    assert list(tmp_path.iterdir()) == []


# --- the package itself

STREAM = """
import functools, json, sys
import numpy as np
import sherpa_onnx
from sherpa_onnx import online_recognizer

model, tokens, samples, arguments, high_freq = sys.argv[1:]
if high_freq:  # from_wenet_ctc has no such argument
    config = functools.partial(online_recognizer.FeatureExtractorConfig, high_freq=float(high_freq))
    online_recognizer.FeatureExtractorConfig = config
recognizer = sherpa_onnx.OnlineRecognizer.from_wenet_ctc(tokens, model, num_threads=1, **json.loads(arguments))
stream, chunks = recognizer.create_stream(), 0
rate = json.loads(arguments)["sample_rate"]
for block in np.array_split(np.load(samples), 37):
    stream.accept_waveform(rate, block)
    while recognizer.is_ready(stream):
        recognizer.decode_stream(stream)
        chunks += 1
print(json.dumps([recognizer.tokens(stream), recognizer.get_result(stream), chunks]))
"""


class Heard(NamedTuple):
    tokens: list[str]
    text: str
    chunks: int


def run_package(
    exported: Exported, folder: Path, samples: np.ndarray, chunking: Chunking, high_freq: float | None = None
) -> Heard:
    """Stream audio (n,) at 8 kHz in a separate process, because invalid input ends the process."""
    np.save(folder / "samples.npy", samples.astype(np.float32))
    arguments = {
        "chunk_size": chunking.size,
        "num_left_chunks": chunking.left,
        "sample_rate": RATE,
        "feature_dim": int(exported.metadata["feature_size"]),
    }
    command = [
        sys.executable,
        "-c",
        STREAM,
        *map(str, exported.files),
        str(folder / "samples.npy"),
        json.dumps(arguments),
        "" if high_freq is None else str(high_freq),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return Heard(*json.loads(done.stdout.splitlines()[-1]))


def shifted(trained: TrainedModel, samples: np.ndarray, seconds: float = 0.0) -> np.ndarray:
    """Prepend half of the windows' overlap in zeros, as sherpa-onnx centres windows; append `seconds` of silence."""
    fbank = trained.model.fbank
    return np.pad(samples, ((fbank.window_samples - fbank.hop_samples) // 2, int(seconds * RATE)))


@needs_package
@pytest.mark.parametrize("chunking", [Chunking(8, 2), Chunking(4, 4)], ids=str)
def test_the_package_finds_the_tokens_of_our_runtime(
    exported: Exported, like_sherpa: TrainedModel, tmp_path: Path, chunking: Chunking
) -> None:
    sound = audio()
    result = run_package(exported, tmp_path, shifted(like_sherpa, sound), chunking)
    units = like_sherpa.tokenizer.vocabulary.tokens
    expected = our_tokens(like_sherpa, sound, chunking, frames=result.chunks * chunking.size)
    assert result.chunks * chunking.size > 64 and len(expected) > 10
    assert [token.strip(f" {WORD_START}") for token in result.tokens] == [units[token] for token in expected]
    assert result.text.split() == [units[token] for token in expected]


@needs_package
def test_other_audio_gives_other_tokens(exported: Exported, like_sherpa: TrainedModel, tmp_path: Path) -> None:
    """Otherwise equal tokens would prove nothing."""
    sound = audio()
    first, second = (run_package(exported, tmp_path, samples, Chunking(8, 2)) for samples in (sound, sound[::-1]))
    assert first.tokens != second.tokens


@pytest.fixture(scope="module")
def tone_model(tone_run: ToneRun) -> TrainedModel:
    return load_trained(tone_run.checkpoint)


@needs_package
@pytest.mark.parametrize("precision", ["float32", "int8-dynamic"])
def test_the_package_transcribes_as_our_runtime(tone_model: TrainedModel, tmp_path: Path, precision: str) -> None:
    """The model is trained; silence after the audio lets sherpa-onnx decode all of it."""
    exported = export_model(tone_model, tmp_path / "tones.onnx", sherpa(precision))
    rng = np.random.default_rng(7)
    for words in (["one", "three", "two", "two"], ["three"]):
        sound = speak(words, rng)
        options = DecodingOptions(mode="ctc_greedy_search")
        ours = " ".join(result.text for result in transcribe_offline(acoustic_model(tone_model), sound, 8, 2, options))
        result = run_package(exported, tmp_path, shifted(tone_model, sound, seconds=0.8), Chunking(8, 2), high_freq=0.0)
        assert result.text.split() == ours.split() == words


@needs_package
@pytest.mark.slow
def test_a_model_trained_with_its_profile_needs_no_remedy(tiny_units: Path, tmp_path: Path) -> None:
    """`high_freq` alone suffices: plain audio, the unchanged package, and the silence that its programs append."""
    recipe = tone_recipe(tiny_recipe(tiny_units))
    frontend = dataclasses.replace(recipe.model.frontend, high_freq=DEFAULT_HIGH_FREQ)
    run = train_tones(dataclasses.replace(recipe, model=dataclasses.replace(recipe.model, frontend=frontend)), tmp_path)
    exported = export_model(load_trained(run.checkpoint), tmp_path / "tones.onnx", sherpa())
    assert exported.remarks == () and "--high-freq=-400 " in exported.command
    rng = np.random.default_rng(7)
    for words in (["one", "three", "two", "two"], ["three"], ["two", "one", "three"]):
        sound = np.pad(speak(words, rng), (0, int(0.8 * RATE)))
        assert run_package(exported, tmp_path, sound, Chunking(8, 2)).text.split() == words
