"""Rules for the settings of WeNet's configuration that describe training."""

from __future__ import annotations

import math
from typing import Any

from wenet_fusion.migration.data_rules import seconds_of
from wenet_fusion.migration.rules import Context, Finding, Rule, always, none, number, same, whole

_ROW_SECONDS = 20.0  # assumed seconds per utterance: WeNet limits a static batch only by its number of utterances
_DEFAULT_SECONDS = 400.0  # default of TrainingConfig.max_batch_seconds
_PRECISIONS = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
_WRITTEN = "written by train.py, not a setting"


def _batch_type(value: Any, context: Context) -> Finding:
    if value in ("static", "dynamic"):
        return Finding("same", (), "batches are bounded by seconds and by utterances; see below")
    return Finding("none", (), "batches are bounded by seconds, padding included; no buckets are needed")


def _batch_size(value: Any, context: Context) -> Finding:
    if context.file.get("dataset_conf.batch_conf.batch_type", "static") != "static":
        return Finding("same", (), "batch_type is not static")
    seconds = max(_DEFAULT_SECONDS, _ROW_SECONDS * number(value))
    settings = (("training.max_batch_rows", whole(value)), ("training.max_batch_seconds", seconds))
    return Finding("differs", settings, "long utterances make smaller batches, so memory is bounded")


def _max_frames(value: Any, context: Context) -> Finding:
    if context.file.get("dataset_conf.batch_conf.batch_type", "static") != "dynamic":
        return Finding("same", (), "batch_type is not dynamic")
    return Finding("same", (("training.max_batch_seconds", seconds_of(value, context)),), "frames as seconds")


def _max_epoch(value: Any, context: Context) -> Finding:
    options, get = context.options, context.file.get
    share = max(1, options.num_gpus) * number(get("accum_grad", 1))
    if get("dataset_conf.batch_conf.batch_type", "static") == "dynamic":
        batch = seconds_of(get("dataset_conf.batch_conf.max_frames_in_batch", 12000), context) / 3600
        corpus, option, unit = options.hours, "--hours H", "hours"
    else:
        batch = number(get("dataset_conf.batch_conf.batch_size", 16))
        corpus, option, unit = float(options.utterances), "--utterances N", "utterances"
    if not corpus:
        return Finding("differs", (), f"we count updates: give {option} (and --num_gpus), or training.max_steps=N")
    steps = max(1, math.ceil(number(value) * math.ceil(corpus / (batch * share))))
    remark = f"updates: {number(value):g} epochs of {corpus:g} {unit}, {share:g} batches per update"
    return Finding("same", (("training.max_steps", steps),), remark)


def _save_interval(value: Any, context: Context) -> Finding:
    names = ("save_interval_steps", "validate_interval_steps")
    settings = tuple((f"training.{name}", whole(value)) for name in names)
    return Finding("same", settings, "WeNet validates whenever it saves")


def _optimizer(value: Any, context: Context) -> Finding:
    if value == "adamw":
        return Finding("same", (), "AdamW")
    if value == "adam":
        decay = context.file.get("optim_conf.weight_decay", 0.0)
        return Finding("same", (), "AdamW without weight decay is Adam" if not decay else "see weight_decay")
    return Finding("none", (), "ours are AdamW and Muon")


def _weight_decay(value: Any, context: Context) -> Finding:
    setting = (("training.optim.weight_decay", number(value)),)
    if not number(value):
        return Finding("same", setting)
    if context.file.get("optim") == "adam":
        return Finding("differs", setting, "AdamW's decoupled weight decay, for matrices only")
    return Finding("differs", setting, "for matrices only: norms and biases have none")


def _betas(value: Any, context: Context) -> Finding:
    if not isinstance(value, list) or len(value) != 2:
        raise ValueError(f"expected two numbers, found {value!r}")
    return Finding("same", (("training.optim.beta_1", value[0]), ("training.optim.beta_2", value[1])))


def _decay_steps(context: Context) -> int:
    """Return the number of updates of NoamHoldAnnealing after warm-up and constant part; 0: max_steps is unknown."""
    get = context.file.get
    length = number(get("scheduler_conf.max_steps", 0))
    parts = [
        number(get(f"scheduler_conf.{name}_steps") or number(get(f"scheduler_conf.{name}_ratio") or 0) * length)
        for name in ("warmup", "hold")
    ]
    return max(0, round(length - sum(parts)))


def _scheduler(value: Any, context: Context) -> Finding:
    if value == "warmuplr":
        return Finding("same", (("training.optim.decay", "inverse_sqrt"),), "the same formula")
    decay_steps = _decay_steps(context) if value == "NoamHoldAnnealing" else 0
    if decay_steps:
        settings = (("training.optim.decay", "wsd"), ("training.optim.decay_steps", decay_steps))
        return Finding("differs", settings, "the same warm-up and constant part, then a linear fall to 0")
    remark = f"no {value} here; linear warm-up, then the inverse square root of the step"
    return Finding("differs", (("training.optim.decay", "inverse_sqrt"),), remark)


def _hold(value: Any, context: Context) -> Finding:
    return Finding("same", (), "see scheduler") if _decay_steps(context) else Finding("none", (), "give max_steps")


def _warmup(value: Any, context: Context) -> Finding:
    return Finding("same", (("training.optim.warmup_steps", whole(number(value))),))


def _warmup_ratio(value: Any, context: Context) -> Finding:
    steps = context.file.get("scheduler_conf.max_steps")
    if steps is None or context.file.get("scheduler_conf.warmup_steps") is not None:
        return Finding("same", (), "see warmup_steps")
    warmup = max(1, round(number(value) * number(steps)))
    return Finding("same", (("training.optim.warmup_steps", warmup),), "as updates")


def _schedule_steps(value: Any, context: Context) -> Finding:
    return Finding("same", (("training.max_steps", whole(number(value))),), "the length of the schedule")


def _precision(value: Any, context: Context) -> Finding:
    if value in _PRECISIONS:
        return Finding("same", (("training.precision", _PRECISIONS[value]),))
    return Finding("none", (), f"ours: {', '.join(_PRECISIONS.values())}")


def _amp(value: Any, context: Context) -> Finding:
    if value and context.file.get("dtype") is None:
        return Finding("same", (("training.precision", "float16"),), "prefer bfloat16 if the GPU supports it")
    return Finding("same", (), "see dtype" if value else "off")


def _written(reason: str = _WRITTEN) -> Rule:
    return lambda value, context: Finding("same", (), reason)


TRAINING = {
    "dataset_conf.batch_conf.batch_type": _batch_type,
    "dataset_conf.batch_conf.batch_size": _batch_size,
    "dataset_conf.batch_conf.max_frames_in_batch": _max_frames,
    "dataset_conf.batch_conf.bucket_boundaries": none("no buckets are needed"),
    "dataset_conf.batch_conf.bucket_batch_sizes": none("no buckets are needed"),
    "grad_clip": same("training.optim.clip_norm"),
    "accum_grad": same("training.accumulate", whole),
    "max_epoch": _max_epoch,
    "log_interval": none("not needed: train_log.jsonl and TensorBoard hold every update"),
    "save_interval": _save_interval,
    "optim": _optimizer,
    "optim_conf.lr": same("training.optim.learning_rate"),
    "optim_conf.weight_decay": _weight_decay,
    "optim_conf.betas": _betas,
    "optim_conf.eps": always((1e-8, "1e-8"), "ours is 1e-8"),
    "scheduler": _scheduler,
    "scheduler_conf.warmup_steps": _warmup,
    "scheduler_conf.warmup_ratio": _warmup_ratio,
    "scheduler_conf.hold_ratio": _hold,
    "scheduler_conf.hold_steps": _hold,
    "scheduler_conf.max_steps": _schedule_steps,
    "scheduler_conf.decay_rate": none("wsd falls linearly"),
    "scheduler_conf.min_lr": none("the rate falls without a floor"),
    "dtype": _precision,
    "use_amp": _amp,
    "train_engine": always("torch_ddp", "ranks of torchrun hold the whole model; no sharding"),
    "input_dim": _written("follows from num_mel_bins"),
    "output_dim": _written("follows from the vocabulary"),
    "vocab_size": _written("follows from the vocabulary"),
    "model_dir": _written("the option --model_dir of wenet-fusion train"),
    "fp16_grad_sync": none("gradients are exchanged in float32"),
    **{name: _written() for name in "save_states init_infos epoch step tag save_time lr lrs cv_loss loss_dict".split()},
}

TRAINING_DEFAULTS: dict[str, Any] = {
    "dataset_conf.batch_conf.batch_size": 16,
    "dataset_conf.batch_conf.max_frames_in_batch": 12000,
    "grad_clip": 50.0,
    "optim": "adam",
    "scheduler": "warmuplr",
    "max_epoch": 100,
    "optim_conf.betas": [0.9, 0.999],
    "optim_conf.weight_decay": 0.0,
}
