"""Exported files of any kind, and models in memory, in the form that laws.py expects."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from wenet_fusion_runtime.model.acoustic_model import AcousticModel
from wenet_fusion_runtime.model.onnx_backend import OnnxBackend
from wenet_fusion_runtime.model.torch_backend import TorchState


class Scores(NamedTuple):
    encoder_out: Tensor
    lengths: Tensor
    top_log_probs: Tensor
    blank_log_probs: Tensor


class Steps(nn.Module):
    """`step` and `init_state` with torch tensors, without ids of top tokens: nearly equal tokens may change places."""

    def __init__(self, model: AcousticModel):
        super().__init__()
        self.model = model
        self.is_numpy = isinstance(model.backend, OnnxBackend)

    def init_state(self, batch: int, chunk: int, left: int) -> list[Tensor]:
        return self._tensors(self.model.init_state(batch, chunk, left))

    def step(
        self, x: Tensor, lengths: Tensor, chunk: int, left: int, state: list[Tensor]
    ) -> tuple[Scores, list[Tensor]]:
        own = [x.numpy() for x in state] if self.is_numpy else TorchState(state, chunk * left, fresh=True)
        scores, new = self.model.step(x.numpy(), lengths.tolist(), chunk, left, own)
        kept = (scores.encoder_out, scores.lengths, scores.log_probs, scores.blank)
        return Scores(*map(torch.from_numpy, kept)), self._tensors(new)

    def _tensors(self, state: Any) -> list[Tensor]:
        return [torch.as_tensor(x).clone() for x in (state if self.is_numpy else state.tensors)]
