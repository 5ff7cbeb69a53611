"""Check the laws of streaming on a trained model: cuts, other rows, padding and fusion do not change the outputs."""

import copy
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from wenet_fusion.model.chunking import Chunking, chunking_label
from wenet_fusion.model.layers.norm import fuse_norms
from wenet_fusion.model.streaming import StepOutput, StreamingModel
from wenet_fusion.trained_model import TrainedModel

BOUND = 1e-10  # in float64; a bug that forgets one frame of context gives about 1e-1
CHECK_CHUNKS = 5  # number of whole chunks to stream; a short one follows


class LawCheck(NamedTuple):
    """The result of checking one law under one chunking."""

    law: str
    chunking: str  # label
    difference: float  # largest difference of encoder outputs, relative to the largest output

    @property
    def holds(self) -> bool:
        """True if the difference can be explained by rounding."""
        return self.difference <= BOUND


def check_model(trained: TrainedModel, samples: np.ndarray | None = None) -> list[LawCheck]:
    """Compare streamed, fused and batched outputs with offline outputs, in float64, at each chunk size of the model.

    Args:
        trained: the model.
        samples: float32 mono (n,) at the model's rate, of which about five chunks are used; None: noise.

    Raises:
        ValueError: `samples` are not longer than one chunk.
    """
    plain = StreamingModel(copy.deepcopy(trained.model).double()).eval()
    folded = copy.deepcopy(trained.model).double().eval()
    fuse_norms(folded)
    fused = StreamingModel(folded).eval()
    checks = []
    for chunking in trained.config.training.chunking.served():
        audio = _audio(samples, chunking, plain.frame_samples)
        label = chunking_label(chunking)
        with torch.inference_mode():
            whole = _whole(plain, audio, chunking)
            checks += [
                LawCheck(
                    "split: chunk by chunk = at once", label, _difference(_streamed(plain, audio, chunking), whole)
                ),
                LawCheck("fusion: fused = unfused", label, _difference(_whole(fused, audio, chunking), whole)),
                LawCheck(
                    "batch and padding: beside a loud, longer neighbour = alone",
                    label,
                    _difference(_beside(plain, audio, chunking), whole),
                ),
            ]
    return checks


def _audio(samples: np.ndarray | None, chunking: Chunking, frame_samples: int) -> Tensor:
    chunk_samples = chunking.size * frame_samples
    length = int((CHECK_CHUNKS + 0.4) * chunk_samples) + 7
    if samples is not None and len(samples) <= chunk_samples:
        raise ValueError(
            f"{len(samples)} samples of audio fit into one chunk of {chunk_samples}, too few to cut: "
            "give longer audio, or none to check on noise"
        )
    if samples is None:
        samples = 0.1 * np.random.default_rng(0).standard_normal(length)
    return torch.from_numpy(np.asarray(samples[:length], dtype=np.float64))


def _whole(model: StreamingModel, audio: Tensor, chunking: Chunking) -> Tensor:
    return _step(model, audio, chunking, model.init_state(1, 1, 0))[0]


def _streamed(model: StreamingModel, audio: Tensor, chunking: Chunking) -> Tensor:
    state, blocks = model.init_state(1, *chunking), []
    for block in audio.split(chunking.size * model.frame_samples):
        out, state = _step(model, block, chunking, state)
        blocks.append(out)
    return torch.cat(blocks, dim=1)


def _step(model: StreamingModel, audio: Tensor, chunking: Chunking, state):
    padded = torch.nn.functional.pad(audio, (0, -len(audio) % model.frame_samples))
    scores, state = model.step(padded.unsqueeze(0), torch.tensor([len(audio)]), *chunking, state)
    return StepOutput(*scores).encoder_out, state


def _beside(model: StreamingModel, audio: Tensor, chunking: Chunking) -> Tensor:
    frames = -(-len(audio) // model.frame_samples)
    rows = torch.randn(
        2, (frames + chunking.size) * model.frame_samples, dtype=audio.dtype, generator=torch.Generator().manual_seed(1)
    )
    rows[0, : len(audio)] = audio
    lengths = torch.tensor([len(audio), rows.size(1)])
    scores, _ = model.step(rows, lengths, *chunking, model.init_state(2, 1, 0))
    return StepOutput(*scores).encoder_out[:1, :frames]


def _difference(value: Tensor, target: Tensor) -> float:
    return float((value - target).abs().max() / target.abs().max().clamp(min=1e-12))
