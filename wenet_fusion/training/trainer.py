"""The training loop: update, validate, save, resume."""

import itertools
import math
import random
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch.utils.tensorboard import SummaryWriter
from wenet_fusion_runtime.files import hold_lock

from wenet_fusion.data.augmentation import SpecAugmentConfig, feature_masks
from wenet_fusion.data.batching import epoch_batches
from wenet_fusion.data.dataset import Batch, SpeechDataset
from wenet_fusion.data.loading import iterate
from wenet_fusion.data.progress_bar import progress_bar
from wenet_fusion.model.asr_model import AsrModel, Losses
from wenet_fusion.model.chunking import draw_chunking
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
    save_model,
    save_training_state,
)
from wenet_fusion.training.failures import describe_update, explaining_failures
from wenet_fusion.training.fingerprint import RunFingerprint, check_same_run, has_same_batches
from wenet_fusion.training.nonfinite_guard import NonFiniteGuard
from wenet_fusion.training.optim import build_optimizer, learning_rate
from wenet_fusion.training.run_log import RunLog
from wenet_fusion.training.training_config import TrainingConfig
from wenet_fusion.training.validation import validate


class Trainer:
    """Train a model in place and write its checkpoints to a folder; resume if the folder holds a training state.

    Every random draw outside the model (order of utterances, augmentation, chunking, masks) is keyed by seed and
    position. So a resumed run needs only torch's own generator from the training state, and on the CPU n steps equal
    k steps, a kill, and n - k steps, bit for bit.

    Args:
        model: trained in place, moved to `device`.
        train, dev: data to train on and to validate on.
        config: length of the run, batches, schedule.
        spec_augment: masks on the features.
        fingerprint: configuration, vocabulary and data, which a resumed run must share.
        model_dir: an existing folder for checkpoints, logs and TensorBoard files.
        device: CPU or GPU.

    Raises:
        ValueError: `model_dir` holds the training state of another run.
        OSError: another process trains in `model_dir`, or the disk is full.

    `wenet_fusion.recipe.build_trainer` builds one from a configuration and two data lists; `run` trains.

    >>> [name for name in vars(Trainer) if not name.startswith("_")]
    ['run']
    >>> trainer = build_trainer(config, train_list, dev_list, model_dir, torch.device("cpu"))  # doctest: +SKIP
    >>> trainer.run()  # doctest: +SKIP
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
    ) -> None:
        self.model = model.to(device)
        self.train_data, self.dev_data = train, dev
        self.config, self.spec_augment, self.fingerprint = config, spec_augment, fingerprint
        self.model_dir, self.device = model_dir, device
        self.optimizer = build_optimizer(config.optim, model)
        self.guard = NonFiniteGuard(model, model_dir, config.optim.learning_rate)
        self.step = 0  # updates so far, skipped ones included
        self.epoch = 0
        self.batch = 0  # batches of the epoch that are done
        self.skipped_steps = 0
        self.epoch_loss, self.epoch_updates = 0.0, 0  # sum and number of the epoch's updates, without skipped ones
        self._measured_at = time.monotonic()
        self._updating: Sequence[Batch] = ()  # batches of the update that is being made
        taken = f"{model_dir} is being trained by another process (number {{holder}}): wait for its end, or choose "
        self._lock = hold_lock(model_dir / "training.lock", f"{taken}another --model_dir")
        self._resume()
        self._set_later_checkpoints_aside()
        self.log = RunLog(model_dir / "train_log.jsonl", self.step)
        self.board = SummaryWriter(str(model_dir / "tensorboard"), purge_step=self.step + 1)

    def run(self) -> None:
        """Train up to `max_steps`.

        Raises:
            ValueError: the loss stays non-finite, or too much audio cannot be read.
            OSError: memory ran out, the disk is full, or a process that loads batches was killed.
        """
        self._measured_at = time.monotonic()
        try:
            with explaining_failures(self._work):
                while self.step < self.config.max_steps:
                    self._run_epoch()
        except KeyboardInterrupt:
            print(f"interrupted at step {self.step}; the same command goes on from the last saved state")
            raise
        finally:
            self.log.close()
            self.board.close()

    def _work(self) -> str:
        rate, seconds = self.train_data.frontend.sample_rate, self.config.max_batch_seconds
        return describe_update(self.step, self._updating, rate, seconds)

    def _run_epoch(self) -> None:
        """Train on the rest of the epoch, or until `max_steps`."""
        config = self.config
        plan = epoch_batches(
            self.train_data.seconds, config.max_batch_seconds, config.max_batch_rows, self.fingerprint.seed, self.epoch
        )
        left = (config.max_steps - self.step) * config.accumulate
        todo = plan[self.batch : self.batch + left]
        self.model.train()
        with progress_bar(None, len(todo), f"epoch {self.epoch}", "batch") as bar:
            for batches in self._batches_of_updates(todo):
                losses = self._update(batches)
                self.batch += len(batches)
                bar.set_postfix(loss=f"{losses['loss']:.2f}", lr=f"{losses['lr']:.1e}")
                bar.update(len(batches))
                finished = self.batch == len(plan)
                if self._validation_is_due(finished):
                    bar.clear()
                    self._validate()
                    if finished:
                        self._start_next_epoch()
                    self._save_state()
                elif self.step % config.save_interval_steps == 0:
                    self._save_state()
        if self.batch >= len(plan):
            self._start_next_epoch()

    def _batches_of_updates(self, plan: Sequence[Sequence[int]]) -> Iterator[list[Batch]]:
        """Yield the batches of each update: `accumulate`, or fewer at the end of the epoch."""
        batches = iterate(self.train_data, plan, self.epoch, self.config.num_workers)
        while group := list(itertools.islice(batches, self.config.accumulate)):
            yield group

    def _validation_is_due(self, epoch_finished: bool) -> bool:
        interval = self.config.validate_interval_steps
        due = self.step % interval == 0 if interval else epoch_finished
        return due or self.step == self.config.max_steps

    def _start_next_epoch(self) -> None:
        self.epoch, self.batch = self.epoch + 1, 0
        self.epoch_loss, self.epoch_updates = 0.0, 0

    # ---- update

    def _update(self, batches: list[Batch]) -> dict[str, float]:
        """Update the weights with the mean gradient of the batches, or skip the update if it is not finite."""
        started = time.monotonic()
        self._updating = batches
        self.step += 1
        rate = learning_rate(self.config.optim, self.step, self.config.max_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        freeze_statistics(self.model, self.step > self.config.max_steps - self.config.frozen_statistics_steps)
        self.guard.start_update()
        self.optimizer.zero_grad(set_to_none=True)
        losses = [self._backward(batch, index, len(batches)) for index, batch in enumerate(batches)]
        norm = float(torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.optim.clip_norm))
        total, ctc, attention = (float(sum(values)) / len(losses) for values in zip(*losses))
        if math.isfinite(norm) and math.isfinite(total):
            self.optimizer.step()
            self.guard.accept()
            self.epoch_loss += total
            self.epoch_updates += 1
        else:
            self.skipped_steps += 1
            self.guard.skip(self.step, batches)
        seconds = time.monotonic() - started
        entry = {"loss": total, "ctc_loss": ctc, "attention_loss": attention}
        entry |= {"lr": rate, "grad_norm": norm, "seconds": seconds}
        self.log.step(self.step, self.epoch, entry)
        for name, value in entry.items():
            self.board.add_scalar(f"train/{name}", value, self.step)
        self._updating = ()
        return entry

    def _backward(self, batch: Batch, index: int, count: int) -> Losses:
        """Add the gradient of a batch, the `index`-th of `count` in its update, divided by `count`."""
        seed = self.fingerprint.seed
        chunking = draw_chunking(self.config.chunking, random.Random(f"{seed}/{self.step}/{index}"))
        feature_frames = (self.model.frames(batch.sample_lengths_B) * FACTOR).tolist()
        rng = np.random.default_rng([seed, self.step, index])
        masks = feature_masks(feature_frames, self.model.config.frontend.num_mel_bins, self.spec_augment, rng)
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

    # ---- validation and checkpoints

    def _validate(self) -> None:
        """Measure the model on the dev set, log it, and write a checkpoint."""
        seconds = time.monotonic() - self._measured_at  # of training since the last validation
        chunking = self.config.chunking.served()[-1]
        result = validate(self.model, self.dev_data, chunking, self.config.max_batch_seconds, self.device)
        rate = result.errors.rate
        train_loss = self.epoch_loss / max(self.epoch_updates, 1)
        entry = {"train_loss": train_loss, "dev_loss": result.loss, "dev_wer": rate, "seconds": seconds}
        self.log.epoch(self.step, self.epoch, entry)
        self.board.add_scalar("dev/loss", result.loss, self.step)
        self.board.add_scalar("dev/wer", rate, self.step)
        error_rate = f"dev {result.rate_name} {100 * rate:.2f} %"
        print(
            f"step {self.step}: train loss {train_loss:.3f}, dev loss {result.loss:.3f}, {error_rate}",
            flush=True,
        )
        self._save_model(result.loss, rate)
        self._measured_at = time.monotonic()

    def _save_model(self, dev_loss: float, dev_error_rate: float) -> None:
        """Write step_N.pt, and delete the oldest checkpoints beyond `keep_checkpoints`."""
        weights = {name: value.detach().cpu() for name, value in self.model.state_dict().items()}
        run = self.fingerprint
        checkpoint = ModelCheckpoint(
            run.config_yaml, run.units, run.bpe_model, weights, self.step, dev_loss, dev_error_rate
        )
        save_model(checkpoint, self.model_dir / checkpoint_name(self.step))
        for old in list_checkpoints(self.model_dir)[: -self.config.keep_checkpoints]:
            old.unlink()

    def _save_state(self) -> None:
        """Write training_state.pt, from which `_resume` goes on."""
        state = TrainingState(
            config_yaml=self.fingerprint.config_yaml,
            units=self.fingerprint.units,
            step=self.step,
            epoch=self.epoch,
            batch=self.batch,
            weights=self.model.state_dict(),
            optimizer=self.optimizer.state_dict(),
            rng=torch.get_rng_state(),
            cuda_rng=torch.cuda.get_rng_state_all() if self.device.type == "cuda" else [],
            skipped_steps=self.skipped_steps,
            epoch_loss=self.epoch_loss,
            epoch_updates=self.epoch_updates,
            data_digest=self.fingerprint.data_digest,
            train_hashes=self.fingerprint.train_contents.hashes,
            dev_hashes=self.fingerprint.dev_contents.hashes,
        )
        save_training_state(state, self.model_dir)

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
        self.step, self.epoch, self.batch = state.step, state.epoch, state.batch
        self.skipped_steps = state.skipped_steps
        self.epoch_loss, self.epoch_updates = state.epoch_loss, state.epoch_updates
        print(f"resuming {self.model_dir} at step {self.step}")
        if self.batch and not has_same_batches(state, self.fingerprint):
            print(f"the size of the batches has changed: epoch {self.epoch} starts again")
            self.batch, self.epoch_loss, self.epoch_updates = 0, 0.0, 0

    def _set_later_checkpoints_aside(self) -> None:
        """Rename checkpoints of later steps to old_*: they belong to another run, or will be made again."""
        later = [path for path in list_checkpoints(self.model_dir) if checkpoint_step(path) > self.step]
        for path in later:
            path.replace(path.with_name(f"old_{path.name}"))
        if later:
            names = later[0].name if len(later) == 1 else f"{later[0].name} to {later[-1].name}"
            renamed = f"renamed {len(later)} checkpoints of later steps to old_* ({names})"
            print(f"{self.model_dir} is at step {self.step}: {renamed}")
