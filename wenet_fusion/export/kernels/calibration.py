"""Runs a model over typical speech as streams will, so that its int8 scales can be found. Knows no quantised layer."""

from collections.abc import Callable, Sequence

import numpy as np
import torch

from wenet_fusion.model.chunking import Chunking
from wenet_fusion.model.ctc import BLANK
from wenet_fusion.model.streaming import DeployedModel

MAX_UTTERANCES = 100  # more moves no scale
LEVELS = (1.0, 4.0, 0.25)  # constant scales must also suit speakers who are louder or softer


def calibration(speech: Sequence[np.ndarray], chunkings: Sequence[Chunking]) -> Callable[[DeployedModel], None]:
    """A function that shows a model every utterance under one chunking at one level, and its decoders what was heard.

    Args:
        speech: float32 mono at the model's rate, tails included.
        chunkings: taken in turn.

    Raises:
        ValueError: if there is no speech.
    """
    if not speech:
        raise ValueError("int8 needs speech to calibrate its scales on: give --data data.list")

    def run(model: DeployedModel) -> None:
        for index, samples in enumerate(speech[:MAX_UTTERANCES]):
            chunking = chunkings[index % len(chunkings)]
            samples = np.clip(LEVELS[index % len(LEVELS)] * samples, -1.0, 1.0, dtype=np.float32)
            padded = torch.from_numpy(np.pad(samples, (0, -len(samples) % model.frame_samples))).unsqueeze(0)
            out, _ = model.step(padded, torch.tensor([len(samples)]), *chunking, model.init_state(1, 1, 0))
            best = torch.unique_consecutive(out.top_ids[0, :, 0])
            heard = best[best != BLANK].unsqueeze(0)
            model.rescore(out.encoder_out, heard, torch.tensor([heard.size(1)]))

    return run
