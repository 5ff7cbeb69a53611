"""The training loop on one process: steps, guard, validation, checkpoints, resume. Knows no YAML and no command line."""

import math
import random
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from wenet_fusion.data.batching import epoch_batches
from wenet_fusion.data.dataset import Batch, SpeechDataset, iterate
from wenet_fusion.data.progress_bar import progress_bar
from wenet_fusion.data.transforms import SpecAugmentConfig, feature_masks
from wenet_fusion.model.asr_model import AsrModel, Losses
from wenet_fusion.model.chunking import ChunkingConfig, draw_chunking
from wenet_fusion.model.layers.norm import freeze_statistics
from wenet_fusion.model.layers.subsampling import FACTOR
from wenet_fusion.training.checkpoint import (
    ModelCheckpoint,
    TrainingState,
    checkpoint_name,
    checkpoint_step,
    list_checkpoints,
    load_training_state,
    load_weights,
    save_atomically,
    save_model,
    save_training_state,
)
from wenet_fusion.training.fingerprint import RunFingerprint, check_same_run
from wenet_fusion.training.optim import OptimConfig, build_optimizer, learning_rate
from wenet_fusion.training.run_log import RunLog
from wenet_fusion.training.validation import validate

MAX_NONFINITE_RUN = 10  # steps in a row without a finite gradient after which training has diverged


@dataclass(frozen=True)
class TrainingConfig:
    max_steps: int = 100_000  # updates of the weights
    max_batch_seconds: float = 400.0  # audio per batch, padding included
    max_batch_rows: int = 200
    accumulate: int = 1  # batches per update
    frozen_statistics_steps: int = 0  # the last steps train with constant BatchNorm statistics, as inference will
    save_interval_steps: int = 500  # of the training state; it is also saved at every validation
    validate_interval_steps: int = 0  # 0: after every epoch
    keep_checkpoints: int = 30
    num_workers: int = 1
    chunking: ChunkingConfig = field(default_factory=ChunkingConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)

    def problems(self) -> list[str]:
        names = ("max_steps", "max_batch_rows", "accumulate", "save_interval_steps", "keep_checkpoints")
        found = [f"{name}: {getattr(self, name)} must be at least 1" for name in names if getattr(self, name) < 1]
        if not 1 <= self.max_batch_seconds < math.inf:
            found.append(
                f"max_batch_seconds: {self.max_batch_seconds} must be at least 1 and finite; 40 suits a small CPU"
            )
        frozen = self.frozen_statistics_steps
        if not 0 <= frozen <= self.max_steps:
            found.append(f"frozen_statistics_steps: {frozen} must lie between 0 and max_steps: {self.max_steps}")
        if self.num_workers < 0:
            found.append(f"num_workers: {self.num_workers} must be at least 0; 0 loads batches in the training process")
        if self.validate_interval_steps < 0:
            found.append(f"validate_interval_steps: {self.validate_interval_steps} is below 0; 0: after every epoch")
        return found


class Trainer:
    """Trains `model` in place and leaves its checkpoints in `model_dir`.

    Every draw outside the model (order, augmentation, chunking, masks) is keyed by seed and position, so resuming
    needs only torch's own generator from the training state: n steps equal k steps, a kill, and n - k steps.
    """

    def __init__(
        self,
        model: AsrModel,
        train: SpeechDataset,
        dev: SpeechDataset,
        config: TrainingConfig,
        spec_augment: SpecAugmentConfig,
        fingerprint: RunFingerprint,
        model_dir: Path,
        device: torch.device,
    ):
        self.model = model.to(device)
        self.train_data, self.dev_data = train, dev
        self.config, self.spec_augment, self.fingerprint = config, spec_augment, fingerprint
        self.model_dir, self.device = model_dir, device
        self.optimizer = build_optimizer(config.optim, model)
        self.step = self.epoch = self.batch = 0
        self.skipped_steps = self._nonfinite_run = 0
        self.epoch_loss, self.epoch_updates = 0.0, 0  # of the updates that were not skipped
        self._buffers = [b for name, b in model.named_buffers() if "running_" in name]
        self._resume()
        self._set_future_checkpoints_aside()
        self.log = RunLog(model_dir / "train_log.jsonl", self.step)
        self.board = SummaryWriter(str(model_dir / "tensorboard"), purge_step=self.step + 1)

    def run(self) -> None:
        """Trains up to `max_steps`.

        Raises:
            ValueError: if the loss stays non-finite.
        """
        self._measured_at = time.monotonic()
        try:
            while self.step < self.config.max_steps:
                self._run_epoch()
        except KeyboardInterrupt:
            print(f"interrupted at step {self.step}; the same command goes on from the last saved state")
            raise
        finally:
            self.log.close()
            self.board.close()

    def _run_epoch(self) -> None:
        config = self.config
        plan = epoch_batches(
            self.train_data.seconds, config.max_batch_seconds, config.max_batch_rows, self.fingerprint.seed, self.epoch
        )
        accumulated: list[Batch] = []
        remaining = min(len(plan) - self.batch, (config.max_steps - self.step) * config.accumulate)
        todo = plan[self.batch : self.batch + remaining]
        batches = iterate(self.train_data, todo, self.epoch, config.num_workers)
        self.model.train()
        with progress_bar(None, len(todo), f"epoch {self.epoch}", "batch") as bar:
            for batch in batches:
                accumulated.append(batch)
                self.batch += 1
                if len(accumulated) < config.accumulate and self.batch < len(plan):
                    bar.update()
                    continue
                losses = self._update(accumulated)
                accumulated = []
                bar.set_postfix(loss=f"{losses['loss']:.2f}", lr=f"{losses['lr']:.1e}")
                bar.update()
                last = self.batch == len(plan) or self.step == config.max_steps
                due = config.validate_interval_steps > 0 and self.step % config.validate_interval_steps == 0
                if (due or (last and config.validate_interval_steps == 0)) or self.step == config.max_steps:
                    bar.clear()
                    self._validate()
                    self._advance_epoch_if(self.batch == len(plan))
                    self._save_state()
                elif self.step % config.save_interval_steps == 0:
                    self._save_state()
        self._advance_epoch_if(self.batch >= len(plan))

    def _advance_epoch_if(self, finished: bool) -> None:
        if finished:
            self.epoch, self.batch = self.epoch + 1, 0
            self.epoch_loss, self.epoch_updates = 0.0, 0

    def _update(self, batches: list[Batch]) -> dict[str, float]:
        """One update of the weights from the mean gradient of some batches, or none if it is not finite."""
        started = time.monotonic()
        self.step += 1
        rate = learning_rate(self.config.optim, self.step, self.config.max_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        freeze_statistics(self.model, self.step > self.config.max_steps - self.config.frozen_statistics_steps)
        before = [buffer.clone() for buffer in self._buffers]
        self.optimizer.zero_grad(set_to_none=True)
        losses = [self._backward(batch, index, len(batches)) for index, batch in enumerate(batches)]
        norm = float(torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.optim.clip_norm))
        mean = [float(sum(values)) / len(losses) for values in zip(*losses)]
        if math.isfinite(norm) and math.isfinite(mean[0]):
            self.optimizer.step()
            self._nonfinite_run = 0
            self.epoch_loss += mean[0]
            self.epoch_updates += 1
        else:
            self._skip_nonfinite(batches, before)
        entry = {
            "loss": mean[0],
            "ctc_loss": mean[1],
            "attention_loss": mean[2],
            "lr": rate,
            "grad_norm": norm,
            "seconds": time.monotonic() - started,
        }
        self.log.step(self.step, self.epoch, entry)
        for name, value in entry.items():
            self.board.add_scalar(f"train/{name}", value, self.step)
        return entry

    def _backward(self, batch: Batch, index: int, count: int) -> Losses:
        draw = f"{self.fingerprint.seed}/{self.step}/{index}"
        chunking = draw_chunking(self.config.chunking, random.Random(draw))
        frames = self.model.frames(batch.sample_lengths_B) * FACTOR
        rng = np.random.default_rng([self.fingerprint.seed, self.step, index])
        masks = feature_masks(frames, self.model.config.frontend.num_mel_bins, self.spec_augment, rng)
        losses = self.model(
            batch.samples_BN.to(self.device),
            batch.sample_lengths_B.to(self.device),
            batch.tokens_BU.to(self.device),
            batch.token_lengths_B.to(self.device),
            chunking,
            masks.to(self.device),
        )
        (losses.total / count).backward()
        return Losses(*(loss.detach() for loss in losses))

    def _skip_nonfinite(self, batches: list[Batch], buffers_before: list[Tensor]) -> None:
        """Leaves weights and statistics as they were, keeps the batch for inspection, and gives up after a run of them."""
        for buffer, value in zip(self._buffers, buffers_before):
            buffer.copy_(value)
        self.skipped_steps += 1
        self._nonfinite_run += 1
        path = self.model_dir / "nonfinite_batch.pt"
        save_atomically([batch._asdict() for batch in batches], path)
        keys = ", ".join(key for batch in batches for key in batch.keys[:3])
        print(f"\nstep {self.step}: loss or gradient is not finite; update skipped, batch ({keys}, ...) kept in {path}")
        if self._nonfinite_run >= MAX_NONFINITE_RUN:
            raise ValueError(
                f"training diverged: {MAX_NONFINITE_RUN} updates in a row were not finite, the last batch is in {path}; "
                f"lower training.optim.learning_rate (now {self.config.optim.learning_rate}) or lengthen warmup_steps"
            )

    def _validate(self) -> None:
        seconds = time.monotonic() - self._measured_at  # of training since the last validation
        chunking = self.config.chunking.served()[-1]
        result = validate(self.model, self.dev_data, chunking, self.config.max_batch_seconds, self.device)
        rate = result.errors.rate
        train_loss = self.epoch_loss / max(self.epoch_updates, 1)
        self.log.epoch(
            self.step,
            self.epoch,
            {"train_loss": train_loss, "dev_loss": result.loss, "dev_wer": rate, "seconds": seconds},
        )
        self.board.add_scalar("dev/loss", result.loss, self.step)
        self.board.add_scalar("dev/wer", rate, self.step)
        print(
            f"step {self.step}: train loss {train_loss:.3f}, dev loss {result.loss:.3f}, dev {result.rate_name} {100 * rate:.2f} %",
            flush=True,
        )
        weights = {name: value.detach().cpu() for name, value in self.model.state_dict().items()}
        fingerprint = self.fingerprint
        save_model(
            ModelCheckpoint(
                fingerprint.config_yaml, fingerprint.units, fingerprint.bpe_model, weights, self.step, result.loss, rate
            ),
            self.model_dir / checkpoint_name(self.step),
        )
        for old in list_checkpoints(self.model_dir)[: -self.config.keep_checkpoints]:
            old.unlink()
        self._measured_at = time.monotonic()

    def _save_state(self) -> None:
        cuda = torch.cuda.get_rng_state_all() if self.device.type == "cuda" else []
        save_training_state(
            TrainingState(
                self.fingerprint.config_yaml,
                self.fingerprint.units,
                self.step,
                self.epoch,
                self.batch,
                self.model.state_dict(),
                self.optimizer.state_dict(),
                torch.get_rng_state(),
                cuda,
                self.skipped_steps,
                self.epoch_loss,
                self.epoch_updates,
                self.fingerprint.data_digest,
            ),
            self.model_dir,
        )

    def _resume(self) -> None:
        state = load_training_state(self.model_dir)
        if state is None:
            return
        check_same_run(state, self.fingerprint, self.model_dir)
        load_weights(self.model, state.weights, str(self.model_dir))
        self.optimizer.load_state_dict(state.optimizer)
        torch.set_rng_state(state.rng)
        if state.cuda_rng and self.device.type == "cuda":
            torch.cuda.set_rng_state_all(state.cuda_rng)
        self.step, self.epoch, self.batch, self.skipped_steps = (
            state.step,
            state.epoch,
            state.batch,
            state.skipped_steps,
        )
        self.epoch_loss, self.epoch_updates = state.epoch_loss, state.epoch_updates
        print(f"resuming {self.model_dir} at step {self.step}")

    def _set_future_checkpoints_aside(self) -> None:
        """Those of later steps are of another run, or will be made again; they would be counted as the newest."""
        future = [path for path in list_checkpoints(self.model_dir) if checkpoint_step(path) > self.step]
        for path in future:
            path.replace(path.with_name(f"old_{path.name}"))
        if future:
            names = future[0].name if len(future) == 1 else f"{future[0].name} to {future[-1].name}"
            print(
                f"{self.model_dir} is at step {self.step}: renamed {len(future)} checkpoints of later steps to old_* ({names})"
            )
