"""The methods of an exported file: ours, with a stream's state as a plain list of tensors. Knows no file.

A list crosses into Python as it is. Nested named tuples would cost a new Python class each at every step, and two loads
of one file could not exchange them.

Shapes: B rows, N samples, T encoder frames, D width, K top tokens, U tokens.
"""

from typing import List, Tuple

import torch
from torch import Tensor, nn

from wenet_fusion.model.encoder import EncoderState, LayerState
from wenet_fusion.model.streaming import DeployedModel, StreamState

Scores = Tuple[Tensor, Tensor, Tensor, Tensor, Tensor]  # the fields of StepOutput


class ExportedModel(nn.Module):
    """What an exported file answers; `DeployedModel` says what each method means."""

    def __init__(self, model: DeployedModel):
        super().__init__()
        self.model = model

    @torch.jit.export
    def init_state(self, batch: int, chunk: int, left: int) -> List[Tensor]:
        return flatten_state(self.model.init_state(batch, chunk, left))

    @torch.jit.export
    def step(
        self, samples: Tensor, lengths: Tensor, chunk: int, left: int, state: List[Tensor]
    ) -> Tuple[Scores, List[Tensor]]:
        out, new = self.model.step(samples, lengths, chunk, left, unflatten_state(state))
        scores = (out.encoder_out, out.lengths, out.top_log_probs, out.top_ids, out.blank_log_probs)
        return scores, flatten_state(new)

    @torch.jit.export
    def rescore(self, encoder_out: Tensor, hyps: Tensor, hyp_lengths: Tensor) -> Tensor:
        return self.model.rescore(encoder_out, hyps, hyp_lengths)

    @torch.jit.export
    def concat_states(self, states: List[List[Tensor]]) -> List[Tensor]:
        """Rows of several states as one: streams may be out of step, but share one chunking."""
        return [torch.cat([state[i] for state in states]) for i in range(len(states[0]))]

    @torch.jit.export
    def split_state(self, state: List[Tensor]) -> List[List[Tensor]]:
        """The inverse of `concat_states`: one state per row. Copies, for a view would keep the whole batch alive."""
        return [[tensor[b : b + 1].clone() for tensor in state] for b in range(state[0].size(0))]


def flatten_state(state: StreamState) -> List[Tensor]:
    """Every tensor of a stream's state, rows first: samples, position, subsampling, then each layer's."""
    flat = [state.samples, state.encoder.position]
    flat.extend(state.encoder.subsampling)
    for layer in state.encoder.layers:
        flat.append(layer.keys_values)
        flat.append(layer.conv)
    return flat


def unflatten_state(flat: List[Tensor]) -> StreamState:
    """The inverse of `flatten_state`."""
    layers: List[LayerState] = []
    for i in range(4, len(flat), 2):
        layers.append(LayerState(flat[i], flat[i + 1]))
    return StreamState(flat[0], EncoderState(flat[1], [flat[2], flat[3]], layers))
