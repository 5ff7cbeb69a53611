"""An update of the weights: the gradient of one or several batches, over all ranks."""

import random
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from numpy.random import Generator
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from wenet_fusion.data.augmentation.feature_masks import SpecAugmentConfig, feature_masks
from wenet_fusion.data.augmentation.feature_substitution import substituted_frames
from wenet_fusion.data.augmentation.feature_trim import trimmed_lengths
from wenet_fusion.data.batch import Batch
from wenet_fusion.model.asr_model import AsrModel
from wenet_fusion.model.chunking import draw_chunking
from wenet_fusion.model.ctc import frames_needed
from wenet_fusion.model.layers.norm import synchronise_statistics
from wenet_fusion.model.layers.recomputation import recompute_activations
from wenet_fusion.model.layers.subsampling import FACTOR
from wenet_fusion.model.losses import LossConfig, Losses
from wenet_fusion.ranks import Ranks
from wenet_fusion.training.optimisation.freezing import drop_frozen_gradients
from wenet_fusion.training.training_config import AUTOCAST, TrainingConfig


class Gradient(NamedTuple):
    """The losses of an update, and the norm of its gradient before clipping. All ranks get the same values."""

    loss: float  # mean over the utterances of all batches and ranks
    ctc_loss: float
    attention_loss: float
    intermediate_loss: float  # CTC loss of the intermediate layers
    consistency_loss: float  # CR-CTC loss
    norm: float
    stop: bool  # a rank was asked to stop

    def losses(self, config: LossConfig) -> dict[str, float]:
        """Return the losses that a configuration uses, by the names of their curves."""
        unused = ["intermediate_loss"] * (not config.intermediate_layers)
        unused += ["consistency_loss"] * (not config.consistency_weight)
        return {name: getattr(self, name) for name in self._fields[:5] if name not in unused}


class Gradients:
    """Compute the gradients of updates over all ranks.

    Each utterance of an update has the same weight, and BatchNorm uses the frames of all ranks. So several ranks train
    as one process would train on their joined batches.

    Args:
        model: the model, on its device.
        config: settings of the training: chunkings, precision, clipping.
        spec_augment: settings of random changes of features.
        seed: seed of the random draws, which also depend on the step and on the position in the update.
        ranks: this process and the others.

    >>> from wenet_fusion.model.asr_model import ModelConfig
    >>> gradients = Gradients(AsrModel(ModelConfig(), 10), TrainingConfig(), SpecAugmentConfig(), seed=0)
    >>> gradients.scaler.is_enabled()
    False
    """

    def __init__(
        self,
        model: AsrModel,
        config: TrainingConfig,
        spec_augment: SpecAugmentConfig,
        seed: int,
        ranks: Ranks = Ranks(),
    ) -> None:
        self.model, self._config, self._spec_augment, self._seed = model, config, spec_augment, seed
        self._ranks = ranks
        self._device = next(model.parameters()).device
        self._parallel: nn.Module = model
        self._trained: list[bool] = []  # for each parameter, whether `_parallel` expects a gradient
        self.scaler = torch.amp.GradScaler(self._device.type, enabled=config.precision == "float16")
        if config.checkpoint_activations:
            recompute_activations(model)
        if ranks.world > 1:
            synchronise_statistics(model)

    def _share_gradients(self) -> None:
        """Wrap the model so that ranks average their gradients; wrap it again if the frozen parameters change."""
        trained = [parameter.requires_grad for parameter in self.model.parameters()]
        if self._ranks.world > 1 and trained != self._trained:
            self._parallel = model = self.model  # drops the old wrapper: only one at a time may watch a parameter
            unused = model.reverse_decoder is not None and model.config.loss.reverse_weight == 0
            # BatchNorm statistics need no broadcast: every rank computes the same ones from the same numbers.
            self._parallel = DistributedDataParallel(model, broadcast_buffers=False, find_unused_parameters=unused)
        self._trained = trained

    def compute(self, step: int, batches: Sequence[Batch], optimizer: torch.optim.Optimizer, stop: bool) -> Gradient:
        """Compute the mean gradient over all utterances of the batches, clip it and store it in the parameters' `grad`.

        Args:
            step: number of the update.
            batches: batches of this rank; every rank must pass the same number.
            optimizer: holds the parameters.
            stop: this rank was asked to stop.
        """
        self._share_gradients()
        rows = self._rows(batches)
        optimizer.zero_grad(set_to_none=True)
        sums = torch.zeros(len(Losses._fields) + 1, dtype=torch.float64)
        for index, batch in enumerate(batches):
            share = len(batch.keys) / int(rows.sum())
            with self._synchronised_at(index == len(batches) - 1):
                losses = self._losses(batch, step, index, first_row=int(rows[: self._ranks.rank, index].sum()))
                # The ranks' gradients are averaged, not summed.
                scaled = losses.total * (share * self._ranks.world)
                self.scaler.scale(scaled).backward()
            sums[:-1] += share * torch.stack([loss.detach() for loss in losses]).double().cpu()
        sums[-1] = stop
        if self._ranks.world > 1:
            shared = sums.to(self._device)
            dist.all_reduce(shared)
            sums = shared.cpu()
        self.scaler.unscale_(optimizer)
        drop_frozen_gradients(self.model, step, self._config.freeze)
        norm = float(nn.utils.clip_grad_norm_(self.model.parameters(), self._config.optim.clip_norm))
        total, ctc, attention, intermediate, consistency, stopped = sums.tolist()
        return Gradient(total, ctc, attention, intermediate, consistency, norm, stopped > 0)

    def repeat(self, step: int, batches: Sequence[Batch]) -> None:
        """Run the forward and backward passes of an update, without averaging gradients over ranks."""
        self._share_gradients()
        rows = self._rows(batches)
        for index, batch in enumerate(batches):
            with self._synchronised_at(False):
                first_row = int(rows[: self._ranks.rank, index].sum())
                self._losses(batch, step, index, first_row).total.backward()

    def apply(self, optimizer: torch.optim.Optimizer) -> None:
        """Update the weights with a finite gradient."""
        self.scaler.step(optimizer)
        self.scaler.update()

    def lower_scale(self) -> bool:
        """Lower the loss scale of float16 after a gradient that is not finite; return whether the scale was above 1.

        The scale starts so high that some of the first gradients overflow.
        """
        before = self.scaler.get_scale()
        self.scaler.update()
        return self.scaler.is_enabled() and before > 1

    def _rows(self, batches: Sequence[Batch]) -> Tensor:
        """Return (ranks, batches): the number of utterances in each batch of each rank."""
        own = torch.tensor([len(batch.keys) for batch in batches], device=self._device)
        if self._ranks.world == 1:
            return own[None].cpu()
        gathered = [torch.empty_like(own) for _ in range(self._ranks.world)]
        dist.all_gather(gathered, own)
        return torch.stack(gathered).cpu()

    @contextmanager
    def _synchronised_at(self, last: bool) -> Iterator[None]:
        """Average gradients over ranks only at the last batch of an update: one transfer instead of several."""
        if last or not isinstance(self._parallel, DistributedDataParallel):
            yield
        else:
            with self._parallel.no_sync():
                yield

    def _losses(self, batch: Batch, step: int, index: int, first_row: int) -> Losses:
        """Return the losses of an update's batch `index`, of which lower ranks hold `first_row` rows."""
        chunking = draw_chunking(self._config.chunking, random.Random(f"{self._seed}/{step}/{index}"))
        rngs = [np.random.default_rng([self._seed, step, index, first_row + row]) for row in range(len(batch.keys))]
        # Separate generators: the masks of a run stay the same when substitution or trimming is switched on.
        substitution_rngs, trim_rngs = zip(*(rng.spawn(2) for rng in rngs))
        batch = self._trimmed(batch, trim_rngs)
        masks, sources = self._feature_changes(batch, rngs, substitution_rngs)
        weight = self.model.config.loss.consistency_at(step)
        if weight:  # a second view of each utterance
            views = (rng.spawn(2) for rng in rngs)
            others = self._feature_changes(batch, *zip(*views))
            masks = torch.cat([masks, others[0]])
            sources = None if sources is None or others[1] is None else torch.cat([sources, others[1]])
        dtype = AUTOCAST[self._config.precision]
        with torch.autocast(self._device.type, dtype=dtype, enabled=dtype is not None):
            return self._parallel(
                batch.samples_BN.to(self._device),
                batch.sample_lengths_B.to(self._device),
                batch.tokens_BU.to(self._device),
                batch.token_lengths_B.to(self._device),
                chunking,
                masks.to(self._device),
                None if sources is None else sources.to(self._device),
                weight,
            )

    def _feature_changes(
        self, batch: Batch, mask_rngs: Sequence[Generator], substitution_rngs: Sequence[Generator]
    ) -> tuple[Tensor, Tensor | None]:
        """Draw the masks and substitutions of one view of each utterance."""
        frames, config = (self.model.frames(batch.sample_lengths_B) * FACTOR).tolist(), self._spec_augment
        masks = feature_masks(frames, self.model.config.frontend.num_mel_bins, config, mask_rngs)
        return masks, substituted_frames(frames, config.substitution, substitution_rngs)

    def _trimmed(self, batch: Batch, rngs: Iterable[Generator]) -> Batch:
        """Cut off the ends of utterances. The remaining features stay the same: none depends on later samples."""
        if not self._spec_augment.trim.max_frames:
            return batch
        hop = self.model.config.frontend.frame_samples // FACTOR
        tokens = [ids[:length] for ids, length in zip(batch.tokens_BU.tolist(), batch.token_lengths_B.tolist())]
        shortest = [FACTOR * frames_needed(ids) for ids in tokens]
        feature_frames = (batch.sample_lengths_B.add(hop - 1) // hop).tolist()
        trimmed = trimmed_lengths(feature_frames, shortest, self._spec_augment.trim, rngs)
        lengths = torch.minimum(batch.sample_lengths_B, hop * torch.tensor(trimmed))
        return batch._replace(samples_BN=batch.samples_BN[:, : int(lengths.max())], sample_lengths_B=lengths)
