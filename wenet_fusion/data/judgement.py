"""Decide whether training can use an utterance; `check data`, training and averaging share these rules."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from wenet_fusion_runtime.files import printable

from wenet_fusion.data.filters import Filters
from wenet_fusion.data.lists.keys import key_problem
from wenet_fusion.data.sources import AudioHeader, Utterance, read_samples
from wenet_fusion.model.ctc import frames_needed
from wenet_fusion.text.tokenizer import Tokenizer, UnknownToken

MISSTATED = "misstated"  # `Skip.rule` of utterances that are used although their list states a wrong duration
# Smaller differences between stated and real duration are not reported: lists round, codecs pad.
_STATED_SECONDS, _STATED_SHARE = 0.1, 0.02
_MAX_SHOWN = 10


class FrontendGeometry(NamedTuple):
    """The sample rate, frame length and right padding of a model."""

    sample_rate: int  # Hz
    frame_samples: int  # samples per encoder frame
    right_padding_samples: int  # zeros appended to every utterance


class Skip(NamedTuple):
    """An utterance that is left out, and the reason; or one that is used although its list states a wrong duration.

    >>> print(Skip("u1", "u1.wav: is empty", "data.list:1"))
    data.list:1: u1: u1.wav: is empty
    """

    key: str
    reason: str
    place: str = ""  # list and line, or shard, if known
    rule: str = ""  # the limit of `Filters` that leaves it out, or MISSTATED; empty: it is unusable

    def __str__(self) -> str:
        names = [name for name in (self.place, self.key) if not self.reason.startswith((f"{name}: ", f"{name} ("))]
        return ": ".join(filter(None, [*names, self.reason]))


def too_many_skipped(skips: Sequence[Skip], total: int, what: str, max_skipped: float) -> str:
    """Return the error message for `skips` that exceed the share `max_skipped` of `total`.

    >>> print(too_many_skipped([Skip("u1", "u1.wav: is empty")], 20, "utterances cannot be used", 0.01))
    1 of 20 utterances cannot be used:
      u1: u1.wav: is empty
    more than 1 % is too many: mend them, take them out of the list, or raise data.max_skipped
    """
    lines = list(map(str, skips[:_MAX_SHOWN])) + ["..."] * (len(skips) > _MAX_SHOWN)
    return (
        "\n  ".join([f"{len(skips)} of {total} {what}:", *lines])
        + f"\nmore than {100 * max_skipped:g} % is too many: mend them, take them out of the list, "
        "or raise data.max_skipped"
    )


class Judge:
    """Judge utterances twice: by duration and transcript when a list is read, by their samples when they are decoded.

    Args:
        tokenizer: encodes the transcripts.
        frontend: sample rate and frame length of the model.
        fastest: highest speed factor of the augmentation; faster speech has fewer frames.
        filters: limits beyond which utterances are left out; None: no limits.

    >>> import inspect
    >>> list(inspect.signature(Judge.read).parameters)
    ['self', 'utterance', 'tokens', 'room']
    """

    def __init__(
        self, tokenizer: Tokenizer, frontend: FrontendGeometry, fastest: float, filters: Filters | None = None
    ) -> None:
        self._tokenizer, self._frontend, self._fastest, self._filters = tokenizer, frontend, fastest, filters

    def check(self, utterance: Utterance, header: AudioHeader | str | None) -> tuple[Utterance, list[int]] | Skip:
        """Return the utterance with its duration and its token ids, or the reason why it is left out.

        Args:
            utterance: an entry of a list.
            header: the audio's header, or the reason why it cannot be read; None: trust the list's duration.
        """
        if problem := key_problem(utterance.key):
            return Skip(printable(utterance.key), f"{printable(utterance.source.path)}: {problem}", utterance.place)
        if isinstance(header, str):
            return Skip(utterance.key, header, utterance.place)
        if header is not None:
            utterance = replace(utterance, seconds=header.seconds)
        try:
            tokens = self._tokenizer.encode(utterance.text)
        except UnknownToken as error:
            return Skip(utterance.key, str(error), utterance.place)
        skip = self._too_short(utterance, int(utterance.seconds * self._frontend.sample_rate), tokens)
        return skip or self.filter(utterance, len(tokens), self._filters) or (utterance, tokens)

    def filter(self, utterance: Utterance, tokens: int, filters: Filters | None) -> Skip | None:
        """Return a `Skip` with the limit that a usable utterance exceeds, or None."""
        text = utterance.text
        found = filters and filters.exceeded(utterance.seconds, tokens, len(text) - text.count(" "))
        return Skip(utterance.key, found[1], utterance.place, found[0]) if found else None

    def read(self, utterance: Utterance, tokens: Sequence[int], room: float = math.inf) -> np.ndarray | Skip:
        """Return the samples (N,) float32 of an utterance that passed `check`, or the reason why it is unusable.

        Args:
            utterance: the utterance with its duration.
            tokens: token ids of the transcript.
            room: longest audio that fits into the batch, seconds; longer audio is skipped, without decoding all of it.
        """
        try:
            samples = read_samples(utterance, self._frontend.sample_rate, room)
        except (ValueError, OSError) as error:
            stated = f"; its list states {utterance.seconds:.2f} s" if "lasts more than" in str(error) else ""
            return Skip(utterance.key, f"{error}{stated}", utterance.place)
        # Headers of compressed audio may state slightly more samples than there are.
        return self._too_short(utterance, samples.size, tokens) or samples

    def misstated(self, utterance: Utterance, samples: int) -> Skip | None:
        """Return a `Skip` that names real and stated duration if they differ by more than rounding, else None."""
        seconds, stated = samples / self._frontend.sample_rate, utterance.seconds
        if abs(seconds - stated) <= max(_STATED_SECONDS, _STATED_SHARE * stated):
            return None
        path = printable(utterance.source.path)
        reason = f"{path}: lasts {seconds:.2f} s, its list states {stated:.2f} s"
        return Skip(utterance.key, reason, utterance.place, MISSTATED)

    def _too_short(self, utterance: Utterance, samples: int, tokens: Sequence[int]) -> Skip | None:
        shortest = int(samples / self._fastest)
        frames = -(-(shortest + self._frontend.right_padding_samples) // self._frontend.frame_samples)
        if frames >= 2 * len(tokens):  # enough, even if all tokens are equal
            return None
        needed = frames_needed(tokens)
        if frames >= needed:
            return None
        speed = f" at the highest speed factor {self._fastest:g}" if self._fastest > 1 else ""
        return Skip(
            utterance.key,
            f"{printable(utterance.source.path)}: {frames} frames{speed} are too few for the {needed} that its "
            f"{len(tokens)} tokens need",
            utterance.place,
        )
