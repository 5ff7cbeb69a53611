"""Decode an utterance in our runtime, in WeNet's runtimes and in sherpa-onnx.

Shapes: M encoder frames, V tokens, N hypotheses.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torchaudio
from wenet_fusion_runtime.model.acoustic_model import AcousticModel, StepScores
from wenet_fusion_runtime.results.result import joined_ids
from wenet_fusion_runtime.search.modes import GREEDY, RESCORING
from wenet_fusion_runtime.stream.decoding_options import DecodingOptions
from wenet_fusion_runtime.stream.offline import decode_rows
from wenet_fusion_runtime.stream.recognizer import Recognizer

from wenet_fusion.export.speech import Speech
from wenet_fusion.export.targets.sherpa_onnx import TOKENS
from wenet_fusion.model.chunking import Chunking
from wenet_fusion.trained_model import TrainedModel

try:
    import sherpa_onnx
    from sherpa_onnx import online_recognizer
except ImportError as error:
    raise ImportError("this benchmark needs more: pip install -c constraints.txt -e '.[test,recipes]'") from error

sys.path.append(str(Path(__file__).resolve().parents[2] / "tests"))  # for our emulators of WeNet's runtimes
from support.model.wenet_runtime import OnnxAsrModel, TorchAsrModel

INT16_SCALE = 32768.0
MODES = (GREEDY, RESCORING)
Decode = Callable[[Speech], "Texts"]


class Texts(NamedTuple):
    """The texts of one utterance."""

    greedy: str
    rescored: str | None  # None: there is no rescoring


class Silence(NamedTuple):
    """Numbers of zero samples before and after an utterance."""

    before: int
    after: int

    def around(self, samples: np.ndarray) -> np.ndarray:
        """Return the samples with silence before and after."""
        return np.pad(samples, self)


class OurRuntime:
    """Decodes utterances in our runtime, as streams."""

    def __init__(self, model: AcousticModel, chunking: Chunking):
        self.recognizers = [Recognizer(model, DecodingOptions(mode=mode)) for mode in MODES]
        self.chunking = chunking

    def decode(self, utterance: Speech) -> Texts:
        texts = []
        for recognizer in self.recognizers:
            with recognizer.create_stream(*self.chunking, allow_untrained=True) as stream:
                stream.accept_waveform(utterance.samples)
            texts.append(stream.text)
        return Texts(*texts)


class WenetRuntime:
    """Decodes utterances in an emulator of a WeNet runtime, with Kaldi's features of samples in the int16 range.

    Args:
        runtime: the emulator, with its model.
        known: the same checkpoint in our runtime, for vocabulary and rescoring weights.
        mel_bins: number of mel bins of the features.
    """

    def __init__(self, runtime: TorchAsrModel | OnnxAsrModel, known: AcousticModel, mel_bins: int):
        self.runtime, self.known, self.mel_bins = runtime, known, mel_bins
        self.searched = AcousticModel(self, known.meta)

    def decoder_with(self, silence: Silence) -> Decode:
        """Return a function that decodes utterances with this silence around them."""
        return lambda utterance: self._decode(silence.around(utterance.samples))

    def rescore(self, encoder_out: np.ndarray, hyps: np.ndarray, hyp_lengths: np.ndarray) -> np.ndarray:
        """Rescore hypotheses; see `Backend`. `encoder_out` is unused, because the emulator keeps the encoder frames."""
        ids = [row[:length].tolist() for row, length in zip(hyps, hyp_lengths)]
        return np.array([self.runtime.attention_rescoring(ids, weight) for weight in (0.0, 1.0)]).T

    def _decode(self, samples: np.ndarray) -> Texts:
        features = torchaudio.compliance.kaldi.fbank(
            torch.from_numpy(samples * INT16_SCALE).unsqueeze(0),
            num_mel_bins=self.mel_bins,
            sample_frequency=self.known.meta.sample_rate,
            dither=0.0,
        )
        scores = step_scores(self.runtime.decode(features.numpy()))
        texts = []
        for mode in MODES:
            (segments,) = decode_rows(self.searched, scores, DecodingOptions(mode=mode))
            texts.append(self.known.meta.vocabulary.text(joined_ids(segments)))
        return Texts(*texts)


def step_scores(log_probs: np.ndarray) -> StepScores:
    """Convert log-probabilities (M, V) to the input of our searches."""
    ids = np.argsort(-log_probs, axis=1, kind="stable")
    best = np.take_along_axis(log_probs, ids, axis=1)
    frames = len(log_probs)
    return StepScores(
        np.zeros((1, frames, 0), np.float32), np.array([frames]), best[None], ids[None], log_probs[None, :, 0]
    )


class SherpaRuntime:
    """Decodes utterances in the package sherpa_onnx, as streams.

    Args:
        path: path of the graph.
        high_freq: upper end of the mel filters in Hz, which has no parameter in the package; None: the default.
    """

    def __init__(self, path: Path, trained: TrainedModel, chunking: Chunking, high_freq: float | None):
        frontend = trained.config.model.frontend
        self.sample_rate = frontend.sample_rate
        default = online_recognizer.FeatureExtractorConfig
        if high_freq is not None:
            online_recognizer.FeatureExtractorConfig = functools.partial(default, high_freq=high_freq)
        try:
            self.recognizer = sherpa_onnx.OnlineRecognizer.from_wenet_ctc(
                tokens=str(path.with_name(TOKENS)),
                model=str(path),
                chunk_size=chunking.size,
                num_threads=1,
                num_left_chunks=chunking.left,
                sample_rate=frontend.sample_rate,
                feature_dim=frontend.num_mel_bins,
            )
        finally:
            online_recognizer.FeatureExtractorConfig = default

    def decoder_with(self, silence: Silence) -> Decode:
        """Return a function that decodes utterances with this silence around them."""
        return lambda utterance: self._decode(silence.around(utterance.samples))

    def _decode(self, samples: np.ndarray) -> Texts:
        stream = self.recognizer.create_stream()
        stream.accept_waveform(self.sample_rate, samples)
        stream.input_finished()
        while self.recognizer.is_ready(stream):
            self.recognizer.decode_stream(stream)
        return Texts(" ".join(self.recognizer.get_result(stream).split()), None)
