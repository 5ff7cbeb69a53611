"""Calibration of int8: runs a model over typical speech, with the attention context of streaming."""

from collections.abc import Callable, Sequence

import numpy as np
import torch

from wenet_fusion.model.chunking import Chunking
from wenet_fusion.model.ctc import BLANK
from wenet_fusion.model.streaming import StepOutput, StreamingModel

MAX_UTTERANCES = 100  # more utterances hardly change a scale
LEVELS = (1.0, 4.0, 0.25)  # gains: constant scales must also suit louder and softer speakers


def calibration(speech: Sequence[np.ndarray], chunkings: Sequence[Chunking]) -> Callable[[StreamingModel], None]:
    """Return a function that runs a model over the first MAX_UTTERANCES utterances, decoders included.

    Each utterance takes the next chunking and the next level (gain) in turn.

    Args:
        speech: float32 mono (n,) at the model's rate.
        chunkings: chunkings to use in turn.

    Raises:
        ValueError: `speech` is empty.
    """
    if not speech:
        raise ValueError("int8 needs speech to calibrate its scales on: give --data data.list")

    def run(model: StreamingModel) -> None:
        for index, samples in enumerate(speech[:MAX_UTTERANCES]):
            chunking = chunkings[index % len(chunkings)]
            samples = np.clip(LEVELS[index % len(LEVELS)] * samples, -1.0, 1.0, dtype=np.float32)
            padded = torch.from_numpy(np.pad(samples, (0, -len(samples) % model.frame_samples))).unsqueeze(0)
            scores, _ = model.step(padded, torch.tensor([len(samples)]), *chunking, model.init_state(1, 1, 0))
            out = StepOutput(*scores)
            best = torch.unique_consecutive(out.top_ids[0, :, 0])
            tokens = best[best != BLANK].unsqueeze(0)
            model.rescore(out.encoder_out, tokens, torch.tensor([tokens.size(1)]))

    return run
