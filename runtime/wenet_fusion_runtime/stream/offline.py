"""Decode whole utterances in batches, with the same tokens as streams."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from wenet_fusion_runtime.model.acoustic_model import AcousticModel, StepScores, join
from wenet_fusion_runtime.results.result import Result
from wenet_fusion_runtime.stream.decoding_options import DecodingOptions
from wenet_fusion_runtime.stream.recognizer import Recognizer
from wenet_fusion_runtime.stream.segment_decoder import SegmentDecoder

OFFLINE_BLOCK_FRAMES = 2048  # 82 s at 40 ms; the memory of attention grows with the square of a block's length


def transcribe_offline(
    model: AcousticModel, samples: np.ndarray, chunk: int, left: int, options: DecodingOptions = DecodingOptions()
) -> list[Result]:
    """Return the segments of one utterance; a stream gives the same tokens.

    Args:
        model: the model.
        samples: (n,) at the model's rate.
        chunk: frames per chunk; see `offline_step`.
        left: chunks of left context.
        options: search mode, weights and endpoint rules.
    Raises:
        ValueError: the chunking or the options do not suit the model.
    """
    if model.meta.restarts:  # a stream takes a fresh state after a segment, which one step cannot do
        stream = Recognizer(model, options).create_stream(chunk, left)
        return [*stream.accept_waveform(samples), *stream.finish()]
    return decode_rows(model, offline_step(model, [samples], chunk, left), options)[0]


def decode_rows(model: AcousticModel, step: StepScores, options: DecodingOptions) -> list[list[Result]]:
    """Return the segments of each row of a step over whole utterances; `offline_step` returns such a step."""
    results, scorers = [], options.scorers(model.meta.vocabulary)
    for index in range(len(step.lengths)):
        decoder = SegmentDecoder(model, options, scorers)
        results.append([*decoder.accept(*step.row(index)), decoder.finish()])
    return results


def offline_step(model: AcousticModel, utterances: Sequence[np.ndarray], chunk: int, left: int) -> StepScores:
    """Run whole utterances as one batch, and return their scores.

    Decode the scores with `decode_rows`; you can do this several times, with other options each time, without running
    the model again.

    Long audio runs in blocks of whole chunks that pass the state on, so memory grows linearly with the audio's length.
    With full context, the audio is one chunk and runs as one block, so memory grows with the square of its length.

    Args:
        model: the model.
        utterances: samples (n,) of each, at the model's rate; the model's right padding is appended here.
        chunk: frames per chunk; unless the file was exported for one chunk size, a chunk as long as the longest
            utterance (full context) is allowed too.
        left: chunks of left context.
    Raises:
        ValueError: the model was not trained for the chunk with this left context.
    """
    meta = model.meta
    lengths = [len(samples) + meta.right_padding_samples for samples in utterances]
    frames = max(1, -(-max(lengths) // meta.frame_samples))
    meta.check_chunk(chunk, left, allow_untrained=chunk >= frames)
    count, ahead = frames * meta.frame_samples, meta.lookahead_samples
    padded = np.zeros((len(utterances), count + ahead), dtype=np.float32)
    for row, samples in enumerate(utterances):
        padded[row, : len(samples)] = samples
    block = chunk * max(1, OFFLINE_BLOCK_FRAMES // chunk) * meta.frame_samples
    state, steps = model.init_state(len(utterances), chunk, left), []
    for start in range(0, count, block):
        # A row that has ended continues with no samples; its output is ignored.
        valid = [min(max(length - start, 0), block) for length in lengths]
        scores, state = model.step(padded[:, start : start + block + ahead], valid, chunk, left, state)
        steps.append(scores)
    return join(steps)
