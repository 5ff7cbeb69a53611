"""Measure the memory of a training step; step_time.py calls this in a new process for each form."""

from pathlib import Path
from typing import NamedTuple

import torch
from parts.training.training_subject import Form, Plan, saved_bytes
from parts.training.wenet_subject import make_subject

from wenet_fusion.data.batching import BatchSize
from wenet_fusion.model.decoder import DecoderConfig
from wenet_fusion.model.encoder_config import EncoderConfig

TOY = EncoderConfig(
    dim=16, layers=2, heads=2, feed_forward=32, conv_kernel=4, subsampling_channels=4, max_distance=8, dropout=0.1
)
TOY_DECODER = DecoderConfig(layers=1, reverse_layers=1, heads=2, feed_forward=32)


class Memory(NamedTuple):
    """The memory of a training step, bytes."""

    saved: int  # bytes that the forward pass keeps for the backward pass
    peak: int  # most memory that the process uses for the model: weights, optimiser and activations


def memory_here(plan: Plan, form: Form) -> Memory:
    """Measure the memory of a step in this process.

    The first of two steps creates the optimiser's state, so only the second holds it during forward and backward.
    """
    torch.set_num_threads(1)
    toy = Plan(TOY, TOY_DECODER, BatchSize(rows=1, seconds=0.5, tokens=1), plan.seed, plan.wenet)
    make_subject(toy, (form.precision,)).call(form.precision, form.kept)()  # loads libraries
    before = _status("VmRSS")
    subject = make_subject(plan, (form.precision,))
    step = subject.call(form.precision, form.kept)
    step()
    step()
    peak = _status("VmHWM") - before
    return Memory(saved_bytes(subject.model, step), peak)


def _status(name: str) -> int:
    """Return a value in bytes from Linux's status of this process."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))
