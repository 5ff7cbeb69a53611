"""Decide whether training can use an utterance, in the same way for `check data`, training and averaging."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from wenet_fusion_runtime.files import printable

from wenet_fusion.data.sources import AudioHeader, Utterance, read_samples
from wenet_fusion.model.ctc import frames_needed
from wenet_fusion.text.tokenizer import Tokenizer, UnknownToken


class FrontendGeometry(NamedTuple):
    """The sample rate and frame length of a model."""

    sample_rate: int  # Hz
    frame_samples: int  # samples per encoder frame
    right_padding_samples: int  # zeros appended to every utterance


class Skip(NamedTuple):
    """An unusable utterance and its reason.

    >>> print(Skip("u1", "u1.wav: is empty"))
    u1: u1.wav: is empty
    """

    key: str
    reason: str

    def __str__(self) -> str:
        return f"{self.key}: {self.reason}"


class Judge:
    """Judge utterances twice: by header and transcript when a list is read, by their samples when they are decoded.

    Args:
        tokenizer: encodes the transcripts.
        frontend: sample rate and frame length of the model.
        fastest: highest speed factor of the augmentation; faster speech has fewer frames.

    >>> import inspect
    >>> list(inspect.signature(Judge.read).parameters)
    ['self', 'utterance', 'tokens']
    """

    def __init__(self, tokenizer: Tokenizer, frontend: FrontendGeometry, fastest: float) -> None:
        self._tokenizer, self._frontend, self._fastest = tokenizer, frontend, fastest

    def check(self, utterance: Utterance, header: AudioHeader | str) -> tuple[Utterance, list[int]] | Skip:
        """Return the utterance with its duration and its token ids, or the reason why it cannot be used.

        Args:
            utterance: an entry of a list.
            header: the header of its audio, or the reason why it cannot be read.
        """
        if isinstance(header, str):
            return Skip(utterance.key, header)
        try:
            tokens = self._tokenizer.encode(utterance.text)
        except UnknownToken as error:
            return Skip(utterance.key, str(error))
        skip = self._too_short(utterance, int(header.seconds * self._frontend.sample_rate), tokens)
        return skip or (replace(utterance, seconds=header.seconds), tokens)

    def read(self, utterance: Utterance, tokens: Sequence[int]) -> np.ndarray | Skip:
        """Return the samples of an utterance that `check` found usable, (N,) float32; or the reason why not."""
        try:
            samples = read_samples(utterance, self._frontend.sample_rate)
        except (ValueError, OSError) as error:
            return Skip(utterance.key, str(error))
        # Headers of compressed audio may promise a little more than there is.
        return self._too_short(utterance, samples.size, tokens) or samples

    def _too_short(self, utterance: Utterance, samples: int, tokens: Sequence[int]) -> Skip | None:
        shortest = int(samples / self._fastest)
        frames = -(-(shortest + self._frontend.right_padding_samples) // self._frontend.frame_samples)
        needed = frames_needed(tokens)
        if frames >= needed:
            return None
        speed = f" at the highest speed factor {self._fastest:g}" if self._fastest > 1 else ""
        return Skip(
            utterance.key,
            f"{printable(utterance.source.path)}: {frames} frames{speed} are too few for the {needed} that its "
            f"{len(tokens)} tokens need",
        )
