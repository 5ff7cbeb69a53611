"""Measure the memory of a training step; step_time.py calls this in a new process for each variant."""

from pathlib import Path
from typing import NamedTuple

import torch
from parts.training.training_setup import SetupSpec, StepVariant, saved_bytes
from parts.training.wenet_setup import make_setup

from wenet_fusion.data.batching import BatchSize
from wenet_fusion.model.decoder import DecoderConfig
from wenet_fusion.model.encoder_config import EncoderConfig

TOY_ENCODER = EncoderConfig(
    dim=16, layers=2, heads=2, feed_forward=32, conv_kernel=4, subsampling_channels=4, max_distance=8, dropout=0.1
)
TOY_DECODER = DecoderConfig(layers=1, reverse_layers=1, heads=2, feed_forward=32)


class Memory(NamedTuple):
    """The memory of a training step, in bytes."""

    saved: int  # tensors, except parameters, that the forward pass keeps for the backward pass
    peak: int  # peak memory for the model: weights, batch, activations, gradients and the optimiser's state


def measure_memory_in_this_process(spec: SetupSpec, variant: StepVariant) -> Memory:
    """Measure the memory of a step in this process.

    Two steps run, because the first step creates the optimiser's state only at its end, after its peak.
    """
    torch.set_num_threads(1)
    toy = SetupSpec(TOY_ENCODER, TOY_DECODER, BatchSize(rows=1, seconds=0.5, tokens=1), spec.seed, spec.wenet)
    # A step of a small model loads the libraries before the memory is read.
    make_setup(toy, (variant.precision,)).step_function(variant.precision, variant.activations)()
    before = _status("VmRSS")
    setup = make_setup(spec, (variant.precision,))
    step = setup.step_function(variant.precision, variant.activations)
    step()
    step()
    peak = _status("VmHWM") - before
    return Memory(saved_bytes(setup.model, step), peak)


def _status(name: str) -> int:
    """Return a value in bytes from /proc/self/status."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))
