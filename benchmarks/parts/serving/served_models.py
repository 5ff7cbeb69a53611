"""The models and recordings of the serving benchmark, and the expected text of each recording."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from parts.exported_files import write_int8_archive, write_script
from parts.speed_setup import SAMPLE_RATE, Sizes, peaked_model
from wenet_fusion_runtime import Recognizer
from wenet_fusion_runtime.audio.reader import load_audio
from wenet_fusion_runtime.model.backends import AUTO, TORCH
from wenet_fusion_runtime.model.model_file import load_model
from wenet_fusion_runtime.server.settings import SERVER_OPTIONS
from wenet_fusion_runtime.stream.offline import transcribe_offline

LARGE, TRAINED = "large encoder", "trained model"
NOISES = 6  # number of noise recordings, all of different lengths


class ServedModel(NamedTuple):
    """A model to serve, and its recordings."""

    name: str
    path: Path
    recognizer: Recognizer
    chunk: int  # encoder frames
    recordings: list[np.ndarray]  # int16 at the model's rate
    texts: list[str]  # expected text of each recording
    backend: str = AUTO  # see `load_model`

    @property
    def sample_rate(self) -> int:
        return self.recognizer.model.meta.sample_rate


def make_large_model(sizes: Sizes, folder: Path, longest_seconds: float, seed: int, backend: str) -> ServedModel:
    """Return an encoder with random weights, in int8 with constant scales, and recordings of noise. Its file is
    TorchScript for the backend TORCH, otherwise an ONNX archive. The expected texts are those of single streams, not of
    offline evaluation, which may round int8 differently: random weights amplify the difference.
    """
    rng, longest = np.random.default_rng(seed), round(SAMPLE_RATE * longest_seconds)
    noise = [rng.normal(0, 0.1, longest * (NOISES - i) // NOISES).astype(np.float32) for i in range(NOISES)]
    model = peaked_model(sizes, noise[0], seed)
    path = folder / f"{backend}.zip"
    if backend == TORCH:
        write_script(model, "int8", noise[0], path)
    else:
        write_int8_archive(model, noise[0], path)
    recognizer, chunk = Recognizer(load_model(path, backend=backend), SERVER_OPTIONS), sizes.chunkings[0].size
    recordings = [_to_int16(samples) for samples in noise]
    texts = streamed_texts(recognizer, recordings, chunk)
    name = LARGE if backend == TORCH else f"{LARGE}, {backend}"
    return ServedModel(name, path, recognizer, chunk, recordings, texts, backend)


def load_trained_model(path: Path, data_list: Path, count: int | None) -> ServedModel:
    """Return a trained model and the first `count` recordings of a list; expect the texts of offline evaluation.

    Raises:
        OSError, ValueError: the model or a recording cannot be read.
    """
    recognizer = Recognizer(path, SERVER_OPTIONS)
    meta = recognizer.model.meta
    lines = data_list.read_text(encoding="utf-8").splitlines()[:count]
    recordings = [_to_int16(load_audio(data_list.parent / json.loads(line)["wav"], meta.sample_rate)) for line in lines]
    if not recordings:
        raise ValueError(f"{data_list}: lists no recording")
    chunk = meta.default_chunk
    texts = []
    for samples in map(to_float, recordings):
        results = transcribe_offline(recognizer.model, samples, chunk, meta.left(chunk), recognizer.options)
        texts.append(" ".join(result.text for result in results if result.text))
    return ServedModel(TRAINED, path, recognizer, chunk, recordings, texts)


def streamed_texts(recognizer: Recognizer, recordings: Sequence[np.ndarray], chunk: int) -> list[str]:
    """Return the text of each recording, decoded as a single stream without an engine."""
    texts = []
    for samples in recordings:
        with recognizer.create_stream(chunk) as stream:
            stream.accept_waveform(samples)
        texts.append(" ".join(result.text for result in stream.finals))
    return texts


def _to_int16(samples: np.ndarray) -> np.ndarray:
    return (32768 * samples).clip(-32768, 32767).astype(np.int16)


def to_float(samples: np.ndarray) -> np.ndarray:
    """Convert int16 samples to float32 like the runtime."""
    return samples.astype(np.float32) / 32768
