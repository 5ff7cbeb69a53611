"""Turns a trained model into what the runtime runs, in memory or ready to export, and describes it as meta.json does."""

import copy
from typing import Any, NamedTuple

import torch
import torchaudio
from wenet_fusion_runtime.model.acoustic_model import AcousticModel
from wenet_fusion_runtime.model.metadata import FORMAT, TORCHSCRIPT, parse_meta
from wenet_fusion_runtime.model.torch_backend import TorchBackend
from wenet_fusion_runtime.results.timestamps import WordTimes

from wenet_fusion.config import to_yaml
from wenet_fusion.model.asr_model import SOS_EOS
from wenet_fusion.model.chunking import Chunking
from wenet_fusion.model.ctc import BLANK
from wenet_fusion.model.exported import ExportedModel
from wenet_fusion.model.layers.norm import fuse_norms
from wenet_fusion.model.layers.position_bias import PrecomputedBias
from wenet_fusion.model.streaming import DeployedModel
from wenet_fusion.recipe import TrainedModel


def fused_model(trained: TrainedModel) -> DeployedModel:
    """A fused copy in eval mode, the biases of its chunk sizes computed; the trained model stays as it is.

    Raises:
        ValueError: if the model's configuration, one of those for comparisons, has BatchNorms that cannot be folded.
    """
    model = fuse_norms(copy.deepcopy(trained.model).eval())
    encoder = model.encoder
    if encoder.position_bias is not None:
        served = trained.config.training.chunking.served()
        steps = [(chunking.size, chunking.size * (chunking.left + 1)) for chunking in served]
        encoder.position_bias = PrecomputedBias(encoder.position_bias, steps)
    return DeployedModel(model).eval()


def acoustic_model(trained: TrainedModel, device: str = "cpu") -> AcousticModel:
    """The unfused model behind the runtime's interface: offline evaluation decodes with the code that is shipped."""
    exported = ExportedModel(DeployedModel(trained.model.to(device))).eval()
    return AcousticModel(TorchBackend(exported, device), parse_meta(meta_record(trained, {}), str(trained.path)))


class FileForm(NamedTuple):
    """What runs an exported file."""

    kind: str = TORCHSCRIPT
    precision: str = "float32"
    engine: str = "none"  # what torch must have been built with, or another runtime's name


def meta_record(
    trained: TrainedModel,
    verification: dict[str, Any],
    form: FileForm = FileForm(),
    word_times: WordTimes | None = None,
) -> dict[str, Any]:
    """Contents of meta.json: all that a program needs to use the file, and where it came from.

    `word_times` None: nobody told when words are spoken, so they are dated by when they are emitted.
    """
    model, tokenizer = trained.config.model, trained.tokenizer
    frontend, drawn = model.frontend, trained.config.training.chunking
    served = drawn.served()
    return {
        "kind": form.kind,
        "format": FORMAT,
        "sample_rate": frontend.sample_rate,
        "frame_samples": frontend.frame_samples,
        "tail_samples": frontend.tail_samples,
        "chunkings": [chunking._asdict() for chunking in drawn.trained()],
        "default_chunking": served[-1]._asdict(),
        "units": list(tokenizer.vocabulary.tokens),
        "tokenizer": {"kind": tokenizer.kind, "join": tokenizer.join},
        "blank": BLANK,
        "sos_eos": SOS_EOS,
        "decoder": model.decoder.layers > 0,
        "reverse_decoder": model.decoder.reverse_layers > 0,
        "decoding": {
            "ctc_weight": model.rescoring.ctc_weight,
            "reverse_weight": model.rescoring.reverse_weight if model.decoder.reverse_layers else 0.0,
        },
        "word_times": None if word_times is None else word_times._asdict(),
        "features": {
            "num_mel_bins": frontend.num_mel_bins,
            "window_ms": frontend.window_ms,
            "hop_ms": frontend.hop_ms,
            "low_freq": frontend.low_freq,
            "high_freq": frontend.high_freq,
        },
        "encoder": {
            "dim": model.encoder.dim,
            "layers": model.encoder.layers,
            "heads": model.encoder.heads,
            "conv_kernel": model.encoder.conv_kernel,
        },
        "precision": form.precision,
        "engine": form.engine,
        "latency": {
            str(chunking.size): latency(frontend.frame_samples / frontend.sample_rate, chunking) for chunking in served
        },
        "config": to_yaml(trained.config),
        "versions": {"torch": torch.__version__, "torchaudio": torchaudio.__version__},
        "verification": verification,
    }


def latency(frame_seconds: float, chunking: Chunking) -> dict[str, float]:
    """What a chunk size costs before any computation, in milliseconds.

    A frame waits for the end of its chunk; the front-end and the subsampling look at the past only.
    """
    chunk_ms = 1000 * frame_seconds * chunking.size
    return {"longest_wait_ms": chunk_ms, "mean_wait_ms": chunk_ms / 2, "look_ahead_ms": 0.0}
