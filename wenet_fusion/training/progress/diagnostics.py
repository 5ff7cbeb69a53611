"""Diagnostics of a run: speed, memory, and losses with BatchNorm's batch statistics and its running statistics."""

import resource
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta

import torch

from wenet_fusion.data.batch import Batch
from wenet_fusion.data.batching import epoch_batches
from wenet_fusion.data.dataset import SpeechDataset
from wenet_fusion.model.asr_model import AsrModel
from wenet_fusion.model.chunking import Chunking
from wenet_fusion.model.layers.norm import MaskedBatchNorm, norms
from wenet_fusion.ranks import Placement


class Speedometer:
    """Measure the speed of a training (hours of audio per hour, loading included) and the share of padding.

    Args:
        sample_rate: rate of the audio, Hz.
        placement: the device, whose memory is measured, and the ranks, which are assumed to have similar batches.

    >>> meter = Speedometer(16000, Placement(torch.device("cpu")))
    >>> meter.restart()
    >>> sorted(meter.update([]))
    ['audio_hours_per_hour', 'padding', 'peak_memory_gb']
    """

    def __init__(self, sample_rate: int, placement: Placement) -> None:
        self._rate, self._placement = sample_rate, placement
        self.begin_epoch()

    def begin_epoch(self) -> None:
        """Reset the counts of `of_epoch`."""
        self._began, self._batches, self._audio, self._padded = time.monotonic(), 0, 0.0, 0.0
        self.restart()

    def of_epoch(self) -> str:
        """Return batches, audio, padding and time since the epoch began, as text."""
        padding, taken = 1 - self._audio / max(self._padded, 1e-9), round(time.monotonic() - self._began)
        audio = f"{self._audio / 3600:.2f} h of audio and {100 * padding:.1f} % padding"
        return f"{self._batches} batch{'es' * (self._batches != 1)}, {audio}, in {timedelta(seconds=taken)}"

    def restart(self) -> None:
        """Exclude the time since the last update, e.g. of a validation, from the next speed."""
        self._since = time.monotonic()

    def update(self, batches: Sequence[Batch]) -> dict[str, float]:
        """Return the speed since the last update, the share of padding in the batches, and the peak memory so far."""
        scale = self._placement.ranks.world / self._rate
        audio = scale * sum(int(batch.sample_lengths_B.sum()) for batch in batches)
        padded = scale * sum(batch.samples_BN.numel() for batch in batches)
        now = time.monotonic()
        taken, self._since = now - self._since, now
        self._batches += len(batches)
        self._audio, self._padded = self._audio + audio, self._padded + padded
        return {
            "audio_hours_per_hour": audio / taken if taken > 0 else 0.0,
            "padding": 1 - audio / padded if padded else 0.0,
            "peak_memory_gb": peak_memory(self._placement.device) / 1e9,
        }


def peak_memory(device: torch.device) -> int:
    """Return the peak memory in bytes: of this process's tensors on a GPU, or of the whole process on the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most


@torch.no_grad()
def norm_statistics(
    model: AsrModel, dataset: SpeechDataset, chunking: Chunking, max_batch_seconds: float, placement: Placement
) -> dict[str, float]:
    """Return the losses with batch and with running statistics, and the mean running variance of each norm.

    The loss of one dev batch is computed with the batch's own statistics, as in training, and with the running ones, as
    in inference, both without dropout. A growing gap means that the running statistics do not follow the weights.

    Args:
        model: a model on the device of `placement`; its mode and statistics are restored.
        dataset: held-out data.
        chunking: chunk size and left context of the encoder.
        max_batch_seconds: audio of the batch, padding included, seconds.
        placement: the device, and the ranks: each must call this function, with the same dataset.
    """
    found = {name: module for name, module in model.named_modules() if isinstance(module, MaskedBatchNorm)}
    if not found:
        return {}
    indices = epoch_batches(dataset.seconds, max_batch_seconds, max_batch_rows=1000, seed=0, epoch=0)[0]
    batch, _ = dataset.load(indices, epoch=0)
    was_training = model.training
    model.eval()
    running = _loss(model, batch, chunking, placement.device)
    with _batch_statistics(model):
        own = _loss(model, batch, chunking, placement.device)
    model.train(was_training)
    losses = {"norm/loss_batch_statistics": own, "norm/loss_running_statistics": running, "norm/gap": running - own}
    variances = {
        f"running_variance/{name}": float(norm.state_dict()["running_var"].mean()) for name, norm in found.items()
    }
    return {**losses, **variances}


def _loss(model: AsrModel, batch: Batch, chunking: Chunking, device: torch.device) -> float:
    encoded = model.encode(batch.samples_BN.to(device), batch.sample_lengths_B.to(device), chunking)
    return float(model.losses(encoded, batch.tokens_BU.to(device), batch.token_lengths_B.to(device)).total)


@contextmanager
def _batch_statistics(model: AsrModel) -> Iterator[None]:
    """Make the norms of a model in eval mode use batch statistics; restore the running statistics afterwards."""
    found = norms(model)
    frozen = [norm.frozen for norm in found]
    running = [{name: value.clone() for name, value in norm.state_dict().items()} for norm in found]
    for norm in found:
        norm.train()
        norm.frozen = False
    try:
        yield
    finally:
        for norm, was_frozen, before in zip(found, frozen, running):
            norm.eval()
            norm.frozen = was_frozen
            norm.load_state_dict(before)
