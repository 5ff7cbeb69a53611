"""Hash a data list for the training state, and describe later changes of the list."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

_SHOWN_KEYS = 3


class DataContents(NamedTuple):
    """Keys of the N utterances of a list, and hashes of the key, extent and token ids of each; see `list_contents`.

    >>> contents = list_contents(["u1", "u2"], ["1.000 s", "2.000 s"], ["[3, 4]", "[5]"])
    >>> describe_changes(contents.hashes, list_contents(["u1", "u3"], ["1.000 s", "1.000 s"], ["[3, 3]", "[]"]))
    'the transcript of u1 changed; u3 was added; 1 utterance is missing'
    """

    keys: Sequence[str]
    hashes: Tensor  # (N, 3) int64


def list_contents(keys: Sequence[str], extents: Iterable[str], tokens: Iterable[str]) -> DataContents:
    """Return the contents of a list, given key, extent (duration, start, channel) and token ids of each utterance."""
    digests = bytearray()
    for key, extent, ids in zip(keys, extents, tokens):
        digests += _hash(key) + _hash(extent) + _hash(ids)
    hashes = np.frombuffer(digests, dtype=">i8").astype(np.int64).reshape(-1, 3)
    return DataContents(keys, torch.from_numpy(hashes))


def describe_changes(before: Tensor, now: DataContents) -> str:
    """Describe the differences between a list and the hashes of an earlier list; empty if they are equal."""
    if torch.equal(before, now.hashes):
        return ""
    earlier = {key: (extent, ids) for key, extent, ids in before.tolist()}
    changed, extents, added = [], [], []
    for name, (key, extent, ids) in zip(now.keys, now.hashes.tolist()):
        old = earlier.pop(key, None)
        if old is None:
            added.append(name)
            continue
        if old[0] != extent:
            extents.append(name)
        if old[1] != ids:
            changed.append(name)
    found = [f"the transcript of {_names(changed)} changed"] * bool(changed)
    found += [f"the duration, start or channel of {_names(extents)} changed"] * bool(extents)
    found += [f"{_names(added)} {'was' if len(added) == 1 else 'were'} added"] * bool(added)
    found += [f"{len(earlier)} utterance{' is' if len(earlier) == 1 else 's are'} missing"] * bool(earlier)
    return "; ".join(found) or "the order changed"


def without_extents(contents: DataContents) -> DataContents:
    """Return contents without extents, to compare only keys, token ids and order.

    >>> one, other = (list_contents(["u1"], [extent], ["[3, 4]"]) for extent in ("1.000 s", "1.004 s"))
    >>> describe_changes(one.hashes, other)
    'the duration, start or channel of u1 changed'
    >>> describe_changes(without_extents(one).hashes, without_extents(other))
    ''
    """
    return contents._replace(hashes=contents.hashes * torch.tensor([1, 0, 1]))


def _hash(text: str) -> bytes:
    """Return 8 bytes, a signed number with its most significant byte first."""
    return hashlib.blake2b(text.encode(), digest_size=8).digest()


def _names(keys: Sequence[str]) -> str:
    more = len(keys) - _SHOWN_KEYS
    return ", ".join(keys[:_SHOWN_KEYS]) + f" and {more} more" * (more > 0)
