"""The training loop: update, validate, save, resume."""

import itertools
import math
import time
from collections.abc import Sequence
from pathlib import Path

from wenet_fusion_runtime.files import hold_lock

from wenet_fusion.data.augmentation.feature_masks import SpecAugmentConfig
from wenet_fusion.data.batch import Batch
from wenet_fusion.data.batch_source import BatchSource, Loading, groups
from wenet_fusion.data.dataset import SpeechDataset
from wenet_fusion.model.asr_model import AsrModel
from wenet_fusion.ranks import Placement
from wenet_fusion.scoring.ctm import read_word_times
from wenet_fusion.training.failures import describe_update, explaining_failures
from wenet_fusion.training.optimisation.freezing import freeze_for
from wenet_fusion.training.optimisation.largest_batch import check_largest_batches
from wenet_fusion.training.optimisation.nonfinite_guard import NonFiniteGuard
from wenet_fusion.training.optimisation.optim import build_optimizer, learning_rate, set_learning_rate
from wenet_fusion.training.optimisation.update import Gradients
from wenet_fusion.training.optimisation.weight_average import WeightAverage
from wenet_fusion.training.progress.diagnostics import Speedometer, norm_statistics
from wenet_fusion.training.progress.loggers import Loggers, open_loggers
from wenet_fusion.training.progress.step_lines import StepLines, epoch_bar
from wenet_fusion.training.progress.validation import validate
from wenet_fusion.training.state.checkpoint import (
    ModelCheckpoint,
    TrainingState,
    load_training_state,
    load_weights,
    restore_optimizer,
    set_later_checkpoints_aside,
)
from wenet_fusion.training.state.fingerprint import RunFingerprint, changed_batches, check_ranks_agree, check_same_run
from wenet_fusion.training.state.random_state import random_states, restore_random_states
from wenet_fusion.training.state.run_files import Keeping, RunFiles
from wenet_fusion.training.training_config import TrainingConfig


class Trainer:
    """Train a model and write its checkpoints to a folder; resume if the folder holds a training state.

    Random draws outside the model (order of utterances, augmentation, chunking, masks) depend only on the seed and the
    position in the run, so the training state need not hold generators other than torch's. On the CPU, a run
    that is killed and resumed gives the same weights as a run without a stop, bit for bit.

    Args:
        model: moved to the device of `placement` and trained in place.
        train, dev: training and validation data.
        config: settings of the training.
        spec_augment: settings of random changes of features.
        fingerprint: configuration, vocabulary and data; they decide whether `model_dir` holds the state of this run.
        model_dir: an existing folder for checkpoints, logs and TensorBoard files.
        placement: the device, and the ranks that train together; rank 0 alone writes checkpoints and logs.

    Raises:
        ValueError: `model_dir` holds the training state of another run.
        OSError: another process trains in `model_dir`, or the disk is full.

    `wenet_fusion.recipe.build_trainer` builds one from a configuration and two data lists; `run` trains.

    >>> [name for name in vars(Trainer) if not name.startswith("_")]
    ['run']
    >>> where = Placement(torch.device("cpu"))  # doctest: +SKIP
    >>> trainer = build_trainer(config, train_list, dev_list, model_dir, where)  # doctest: +SKIP
    >>> trainer.run()  # doctest: +SKIP
    """

    def __init__(
        self,
        model: AsrModel,
        train: BatchSource,
        dev: SpeechDataset,
        config: TrainingConfig,
        spec_augment: SpecAugmentConfig,
        fingerprint: RunFingerprint,
        model_dir: Path,
        placement: Placement,
    ) -> None:
        self.device, self.ranks = placement
        self.model = model.to(self.device)
        self.train_data, self.dev_data = train, dev
        self.config, self.fingerprint, self.model_dir = config, fingerprint, model_dir
        ctm = Path(config.dev_ctm) if config.dev_ctm else None
        self._spoken = read_word_times(ctm, dict(zip(dev.utterances.keys, dev.utterances.texts)))
        self.optimizer = build_optimizer(config.optim, model)
        self.gradients = Gradients(self.model, config, spec_augment, fingerprint.seed, self.ranks)
        self.average = WeightAverage(self.model, config.average_decay)
        self.origin = fingerprint.origin._asdict()
        self.guard = NonFiniteGuard(self.model, model_dir, config.optim.learning_rate, self.ranks.rank)
        keeping = Keeping(config.keep_checkpoints, config.keep_best_checkpoints, config.best_by)
        self.files = RunFiles(model_dir, config.save_interval_steps, keeping, config.save_in_background)
        self._speed = Speedometer(train.frontend.sample_rate, placement)
        self._lines = StepLines(config.max_steps)
        self._is_tried = not config.check_largest_batch  # true: the largest batch was tried, or the setting is off
        self.step = 0  # updates so far, skipped ones included
        self.epoch = 0
        self.batch = 0  # position in the epoch after the last update, see `LoadedBatch.position`; 0: start
        self.skipped_steps = 0
        self.epoch_loss, self.epoch_updates = 0.0, 0  # sum of losses and number of updates, without skipped ones
        self.stop_requested = False  # set to True: the run ends after this or the next update, and saves its state
        self._is_stopping = False  # true in every rank after the update that shared the request
        self._measured_at = time.monotonic()
        self._updating: Sequence[Batch] = ()  # batches of the current update
        if self.ranks.is_first:
            taken = f"{model_dir} is being trained by another process (number {{holder}}): wait for its end, or choose "
            self._lock = hold_lock(model_dir / "training.lock", f"{taken}another --model_dir")
        self._resume()
        check_ranks_agree(self.ranks, fingerprint, self.step, model_dir)
        self.log = Loggers([])
        if self.ranks.is_first:
            set_later_checkpoints_aside(model_dir, self.step)
            self.log = open_loggers(config.loggers, model_dir, self.step, fingerprint.config_yaml)

    def run(self) -> None:
        """Train up to `max_steps`, or until `stop_requested` is true in any rank.

        Raises:
            ValueError: the loss stays non-finite, or too much audio cannot be read.
            OSError: memory ran out, the disk is full, or another rank or a process that loads batches has died.
        """
        self._measured_at = time.monotonic()
        try:
            with explaining_failures(self._work):
                while self.step < self.config.max_steps and not self._is_stopping:
                    self._run_epoch()
                self.files.wait()
        except KeyboardInterrupt:
            self._print(f"interrupted at step {self.step}; the same command goes on from the last saved state")
            raise
        finally:
            self.files.close()
            self.log.close()

    def _work(self) -> str:
        rate, seconds = self.train_data.frontend.sample_rate, self.config.max_batch_seconds
        return describe_update(self.step, self._updating, rate, seconds)

    def _run_epoch(self) -> None:
        """Train on the rest of the epoch, or until `max_steps`."""
        config = self.config
        loading = Loading(config.max_batch_seconds, config.max_batch_rows, self.fingerprint.seed, config.num_workers)
        most = (config.max_steps - self.step) * config.accumulate
        epoch = self.train_data.epoch(self.epoch, self.batch, most, loading, self.ranks)
        finished, before, number = False, self.step, self.epoch
        self.files.wait()  # loading processes are forked below: no thread that saves should run then
        self.model.train()
        if not self._is_tried:
            check_largest_batches(epoch.largest, config.max_steps, self.gradients, self.optimizer, self.ranks)
            self._is_tried = True
        self._speed.begin_epoch()
        with epoch_bar(number, epoch.length, self.ranks.is_first) as bar:
            for batches in groups(itertools.islice(epoch.batches, most), config.accumulate):
                losses = self._update([loaded.batch for loaded in batches])
                self.batch, finished = batches[-1].position, batches[-1].is_last
                bar.set_postfix(loss=f"{losses['loss']:.2f}", lr=f"{losses['lr']:.1e}")
                bar.update(len(batches))
                due = self._validation_is_due(finished)
                if due:
                    bar.clear()
                    self._validate()
                if finished:
                    self._start_next_epoch()
                if due or self._is_stopping or self.files.is_due(self.step):
                    self._save_state()
                self.files.step_done(self.step)
                if self._is_stopping:
                    return
        if self.step > before:
            self._print(f"epoch {number}: {self._speed.of_epoch()}")
        else:  # the run resumed after the epoch's last batch
            self._start_next_epoch()

    def _validation_is_due(self, epoch_finished: bool) -> bool:
        interval = self.config.validate_interval_steps
        due = self.step % interval == 0 if interval else epoch_finished
        return due or self.step == self.config.max_steps

    def _start_next_epoch(self) -> None:
        self.epoch, self.batch = self.epoch + 1, 0
        self.epoch_loss, self.epoch_updates = 0.0, 0

    def _print(self, line: str) -> None:
        if self.ranks.is_first:
            print(line, flush=True)

    def _update(self, batches: list[Batch]) -> dict[str, float]:
        """Update the weights with the mean gradient of all utterances; skip an update that is not finite."""
        started = time.monotonic()
        self._updating = batches
        self.step += 1
        rate = learning_rate(self.config.optim, self.step, self.config.max_steps)
        set_learning_rate(self.optimizer, rate)
        freeze_for(self.model, self.step, self.config.freeze, self.config.has_frozen_statistics(self.step))
        self.guard.start_update()
        found = self.gradients.compute(self.step, batches, self.optimizer, self.stop_requested)
        self._is_stopping = found.stop
        if math.isfinite(found.norm) and math.isfinite(found.loss):
            self.gradients.apply(self.optimizer)
            self.guard.accept()
            self.average.update(self.step - self.skipped_steps)
            self.epoch_loss += found.loss
            self.epoch_updates += 1
        else:
            self.skipped_steps += 1
            if self.gradients.lower_scale() and math.isfinite(found.loss):
                self.guard.restore()
            else:
                self.guard.skip(self.step, batches, lambda: self.gradients.repeat(self.step, batches))
        entry = found.losses(self.model.config.loss)
        entry |= {"lr": rate, "grad_norm": found.norm, "seconds": time.monotonic() - started}
        entry |= self._speed.update(batches)
        self.log.step(self.step, self.epoch, entry)
        if line := self._lines.due(self.step, self.epoch, entry):
            self._print(line)
        self._updating = ()
        return entry

    def _validate(self) -> None:
        """Measure the model, or the average of its weights, on the dev set, log the result, and write a checkpoint."""
        with self.average.in_place():
            self._validate_weights()

    def _validate_weights(self) -> None:
        seconds = time.monotonic() - self._measured_at  # training time since the last validation
        chunking = self.config.chunking.served()[-1]
        placement = Placement(self.device, self.ranks)
        result = validate(self.model, self.dev_data, chunking, self.config.max_batch_seconds, placement, self._spoken)
        train_loss = self.epoch_loss / max(self.epoch_updates, 1)
        self.log.epoch(self.step, self.epoch, {"train_loss": train_loss, **result.numbers(), "seconds": seconds})
        details = norm_statistics(self.model, self.dev_data, chunking, self.config.max_batch_seconds, placement)
        self.log.details(self.step, details, result.samples)
        self._print(f"step {self.step}: train loss {train_loss:.3f}, {result.text()}")
        if self.ranks.is_first:
            self._save_model(result.loss, result.errors.rate)
        self._measured_at = time.monotonic()
        self._speed.restart()

    def _save_model(self, dev_loss: float, dev_error_rate: float) -> None:
        """Write step_N.pt, and delete checkpoints that need not be kept."""
        weights = {name: value.detach().cpu() for name, value in self.model.state_dict().items()}
        model = (self.fingerprint.config_yaml, self.fingerprint.units, self.fingerprint.bpe_model, weights)
        self.files.save_model(ModelCheckpoint(*model, self.step, dev_loss, dev_error_rate))

    def _save_state(self) -> None:
        """Write training_state.pt, which `_resume` reads. Every rank must call this: each has its own random state."""
        rng, cuda_rng = random_states(Placement(self.device, self.ranks))
        if not self.ranks.is_first:
            return
        state = TrainingState(
            config_yaml=self.fingerprint.config_yaml,
            units=self.fingerprint.units,
            step=self.step,
            epoch=self.epoch,
            batch=self.batch,
            weights=self.model.state_dict(),
            optimizer=self.optimizer.state_dict(),
            rng=rng,
            cuda_rng=cuda_rng,
            skipped_steps=self.skipped_steps,
            epoch_loss=self.epoch_loss,
            epoch_updates=self.epoch_updates,
            data_digest=self.fingerprint.data_digest,
            train_hashes=self.fingerprint.train_contents.hashes,
            dev_hashes=self.fingerprint.dev_contents.hashes,
            scaler=self.gradients.scaler.state_dict(),
            origin=self.origin,
            average=self.average.average,
            trusts_durations=True,
        )
        self.files.save_state(state)

    def _resume(self) -> None:
        state = load_training_state(self.model_dir)
        if state is None:
            return
        check_same_run(state, self.fingerprint, self.model_dir)
        load_weights(self.model, state.weights, str(self.model_dir))
        restore_optimizer(self.optimizer, state.optimizer, str(self.model_dir))
        self.gradients.scaler.load_state_dict(state.scaler)
        self.average.restore(state.average)
        self.origin = state.origin
        seed = self.fingerprint.seed + 1_000_003 * state.step
        if not restore_random_states(Placement(self.device, self.ranks), state.rng, state.cuda_rng, seed):
            self._print(
                f"{self.model_dir} was trained by {len(state.rng)} ranks and goes on with {self.ranks.world}: batches "
                "and dropout differ from those of an uninterrupted run"
            )
        self.step, self.epoch, self.batch = state.step, state.epoch, state.batch
        self.skipped_steps = state.skipped_steps
        self.epoch_loss, self.epoch_updates = state.epoch_loss, state.epoch_updates
        self._print(f"resuming {self.model_dir} at step {self.step}")
        is_kept = self.train_data.keeps_positions(self.batch, len(state.rng), self.ranks.world)
        changed = changed_batches(state, self.fingerprint) if is_kept else "the number of ranks"
        if self.batch and changed:
            self._print(f"{changed} has changed: epoch {self.epoch} starts again")
            self.batch, self.epoch_loss, self.epoch_updates = 0, 0.0, 0
