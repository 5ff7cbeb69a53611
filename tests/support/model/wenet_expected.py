"""Features as WeNet's runtime gives them to the model, and the output of the model in memory for them."""

import numpy as np
import torch
from support.model.wenet_runtime import greedy
from wenet_fusion_runtime.stream.offline import offline_step

from wenet_fusion.model.chunking import Chunking
from wenet_fusion.trained_model import TrainedModel, acoustic_model

KEEP_ALL = -1  # WeNet's default for num_left_chunks
SILENCE = float(np.log(2.0**-23))  # a feature of zeros: the log of Kaldi's energy floor


def model_features(trained: TrainedModel, samples: np.ndarray) -> np.ndarray:
    """Return features (T, F) of the whole hops of samples in [-1, 1], from the model's own front-end."""
    fbank = trained.model.fbank
    whole = torch.from_numpy(samples[None, : len(samples) // fbank.hop_samples * fbank.hop_samples])
    with torch.no_grad():
        return fbank(whole, fbank.init_state(1)).features_BTF[0].numpy()


def ended(trained: TrainedModel, samples: np.ndarray) -> np.ndarray:
    """Return audio with the right padding of training, in whole encoder frames."""
    frontend = trained.config.model.frontend
    count = len(samples) + frontend.right_padding_samples
    return np.pad(samples, (0, frontend.right_padding_samples + -count % frontend.frame_samples)).astype(np.float32)


def expected_frames(trained: TrainedModel, features: np.ndarray, chunking: Chunking) -> torch.Tensor:
    """Return encoder frames (1, M, D) of one step over (T, F), padded to whole encoder frames with digital silence."""
    context = Chunking(chunking.size, 1000) if chunking.left == KEEP_ALL else chunking
    encoder, cmvn = trained.model.encoder, trained.model.cmvn
    padded = np.pad(features, ((0, -len(features) % 4), (0, 0)), constant_values=SILENCE)
    with torch.no_grad():
        x = cmvn(torch.from_numpy(padded[None]))
        return encoder(x, torch.tensor([x.size(1) // 4]), context, encoder.init_state(1, 0)).frames_BTD


def expected_log_probs(trained: TrainedModel, features: np.ndarray, chunking: Chunking) -> np.ndarray:
    """Return log-probabilities (M, V) of the frames of `expected_frames`."""
    with torch.no_grad():
        return trained.model.ctc(expected_frames(trained, features, chunking))[0].numpy()


def our_tokens(trained: TrainedModel, samples: np.ndarray, chunking: Chunking, frames: int | None = None) -> list[int]:
    """Return our runtime's greedy tokens; it adds the right padding itself. `frames`: use only the first frames."""
    step = offline_step(acoustic_model(trained), [samples], *chunking)
    best = step.row(0)[0].ids[:frames, 0]
    return greedy(np.eye(len(trained.tokenizer.vocabulary))[best])
