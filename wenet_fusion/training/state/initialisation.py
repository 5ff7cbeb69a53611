"""Start a run from the weights of a checkpoint: copy tensors, and map the rows of vocabulary tensors by token."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import torch
import yaml

from wenet_fusion.model.asr_model import AsrModel
from wenet_fusion.training.state.checkpoint import ModelCheckpoint

NewTokens = Literal["mean", "fresh"]
_SPECIAL_TOKENS = 3  # <blank>, <unk>, <sos/eos>: excluded from means
_SHOWN = 5


class Origin(NamedTuple):
    """The checkpoint that a run started from.

    >>> Origin("exp/base/final.pt", "9f86d0")._asdict()
    {'path': 'exp/base/final.pt', 'sha256': '9f86d0'}
    """

    path: str
    sha256: str  # checksum of the file; empty if the file is gone


NO_ORIGIN = Origin("", "")


class Transfer(NamedTuple):
    """The result of `transfer_weights`: names of the tensors by the way they were treated, and the tokens."""

    copied: list[str]
    mapped: list[str]  # tensors with a row per token, copied row by row
    known_tokens: int
    new_tokens: list[str]
    new: list[str]  # tensors that the checkpoint lacks; they keep their initial values
    left_over: list[str]  # tensors of the checkpoint that the model lacks


def read_origin(path: Path) -> Origin:
    """Return path and checksum of a checkpoint; without a checksum if the file is gone."""
    if not path.is_file():
        return Origin(str(path), "")
    return Origin(str(path), hashlib.sha256(path.read_bytes()).hexdigest())


def check_same_origin(then: Mapping[str, str], now: Origin, model_dir: Path) -> None:
    """Check that a resumed run is given the --init_from of its first start; do nothing without --init_from.

    Raises:
        ValueError: the run started from another checkpoint, or without one.
    """
    if now == NO_ORIGIN:
        return
    same = then.get("sha256") == now.sha256 if now.sha256 else then.get("path") == now.path
    if not same:
        begun = f"from {then['path']}" if then.get("path") else "without --init_from"
        raise ValueError(
            f"{model_dir} holds a run that started {begun}, not from {now.path}: choose another --model_dir for a new "
            "run, or leave --init_from out to go on with this one"
        )


def transfer_weights(
    model: AsrModel, tokens: Sequence[str], checkpoint: ModelCheckpoint, origin: str, new_tokens: NewTokens = "mean"
) -> Transfer:
    """Copy the weights of a checkpoint into a model with its own vocabulary.

    Args:
        model: receives the weights.
        tokens: vocabulary of the model.
        checkpoint: holds the weights and their vocabulary.
        origin: name of the checkpoint in messages.
        new_tokens: rows of tokens that the checkpoint lacks: the "mean" row of its ordinary tokens, or "fresh" rows.

    Raises:
        ValueError: the checkpoint has other sizes; the message names the settings.
    """
    own, weights = model.state_dict(), checkpoint.weights
    by_token = [name for name in model.vocabulary_parameters() if name in weights]
    common = [name for name in own if name in weights]
    wrong = [name for name in common if weights[name].shape[name in by_token :] != own[name].shape[name in by_token :]]
    if wrong or not any(name.startswith("encoder.layers.") for name in common):
        raise ValueError(_mismatch(model, checkpoint, origin, wrong))
    rows = {token: row for row, token in enumerate(checkpoint.units)}
    known = [row for row, token in enumerate(tokens) if token in rows]
    sources = torch.tensor([rows[tokens[row]] for row in known])
    for name in common:
        value = weights[name].to(own[name].dtype)
        if name not in by_token:
            own[name].copy_(value)
            continue
        if new_tokens == "mean" and len(value) > _SPECIAL_TOKENS:
            own[name][:] = value[_SPECIAL_TOKENS:].mean(dim=0)
        own[name][known] = value[sources]
    copied = [name for name in common if name not in by_token]
    new, left_over = ([n for n in one if n not in other] for one, other in ((own, weights), (weights, own)))
    unknown = [token for token in tokens if token not in rows]
    return Transfer(copied, by_token, len(known), unknown, new, left_over)


def _mismatch(model: AsrModel, checkpoint: ModelCheckpoint, origin: str, wrong: Sequence[str]) -> str:
    settings = yaml.safe_load(checkpoint.config_yaml).get("model", {})
    differences = [
        f"model.{section}.{key}: {value} there, {getattr(getattr(model.config, section), key)} here"
        for section in ("frontend", "encoder", "decoder")
        for key, value in settings.get(section, {}).items()
        if getattr(getattr(model.config, section), key, value) != value and isinstance(value, (int, str))
    ]
    reason = "; ".join(differences[:3]) or f"{', '.join(wrong[:3])}: other sizes"
    return f"{origin}: its weights do not fit the configured model ({reason}): set the same values, or start afresh"


def describe_transfer(transfer: Transfer, origin: str, new_tokens: NewTokens) -> str:
    """Describe a transfer, with a line for each kind of tensor.

    >>> transfer = Transfer(["a"], ["ctc.linear.weight"], 9, ["ten"], ["b.0", "b.1"], [])
    >>> print(describe_transfer(transfer, "base.pt", "mean"))
    base.pt: 1 tensor copied
      mapped by token: 1 tensor; 9 tokens known, 1 new (mean of the others): ten
      new: 2 tensors: b.0, b.1
    """
    lines = [f"{origin}: {_tensors(transfer.copied)} copied"]
    start = "mean of the others" if new_tokens == "mean" else "fresh"
    added = f", {len(transfer.new_tokens)} new ({start}): {_list(transfer.new_tokens)}" if transfer.new_tokens else ""
    lines.append(f"  mapped by token: {_tensors(transfer.mapped)}; {transfer.known_tokens} tokens known{added}")
    others = ("new", transfer.new), ("left over", transfer.left_over)
    lines += [f"  {kind}: {_tensors(names)}: {_list(names)}" for kind, names in others if names]
    return "\n".join(lines)


def _tensors(names: Sequence[str]) -> str:
    return f"{len(names)} tensor{'s' * (len(names) != 1)}"


def _list(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
