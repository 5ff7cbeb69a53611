"""The functions that the runtime benchmark times: streams from audio to text and parts of this work, rescoring, and
the start of new processes.
"""

import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from parts.exported_files import ExportedFile
from parts.random_models import Shape
from wenet_fusion_runtime import AcousticModel, DecodingOptions, Recognizer
from wenet_fusion_runtime.model.acoustic_model import StepScores
from wenet_fusion_runtime.model.backends import AUTO
from wenet_fusion_runtime.results.vocabulary import BLANK
from wenet_fusion_runtime.search.modes import GREEDY, PREFIX_BEAM
from wenet_fusion_runtime.stream.endpoints import EndpointRules

from wenet_fusion.model.chunking import Chunking

FED_SECONDS = 0.1  # seconds of audio per call of accept_waveform
ENCODER, STEP = "encoder alone", "front-end, encoder and CTC head"
PARTS = (ENCODER, STEP, GREEDY, PREFIX_BEAM)
HYPOTHESES = (4, 10)
ONE_SEGMENT = EndpointRules(rule3_seconds=3600.0)

Calls = dict[str, Callable[[], object]]


def steps_of(model: AcousticModel, chunking: Chunking, samples: np.ndarray) -> int:
    """Return the number of steps in which a stream processes the samples and the right padding."""
    return -(-(len(samples) + model.meta.right_padding_samples) // (chunking.size * model.meta.frame_samples))


def whole_chunks(model: AcousticModel, chunking: Chunking, samples: np.ndarray) -> np.ndarray:
    """Shorten the samples so that, with the right padding, they fill whole chunks: all steps have the same size."""
    padding, size = model.meta.right_padding_samples, chunking.size * model.meta.frame_samples
    return samples[: (len(samples) + padding) // size * size - padding]


def whole_calls(exported: Sequence[ExportedFile], chunking: Chunking, samples: np.ndarray) -> Calls:
    """Return functions that run one stream through an exported file: through its encoder alone, through the model
    without search, and through the whole runtime with each search.
    """
    calls: Calls = {}
    for each in exported:
        steps = steps_of(each.model, chunking, samples)
        encoder = each.encoder.prepare(Shape(chunking, 1))
        calls[f"{each.name}: {ENCODER}"] = lambda encoder=encoder, steps=steps: [encoder() for _ in range(steps)]
        calls[f"{each.name}: {STEP}"] = lambda model=each.model, steps=steps: _model_alone(
            model, chunking, samples, steps
        )
        for mode in (GREEDY, PREFIX_BEAM):
            recognizer = Recognizer(each.model, DecodingOptions(mode=mode))
            calls[f"{each.name}: {mode}"] = lambda recognizer=recognizer: transcribe(recognizer, chunking, samples)
    return calls


def _model_alone(model: AcousticModel, chunking: Chunking, samples: np.ndarray, steps: int) -> None:
    size = chunking.size * model.meta.frame_samples
    state = model.init_state(1, *chunking)
    padded = np.resize(samples, steps * size)[None]
    for start in range(0, steps * size, size):
        _, state = model.step(padded[:, start : start + size], [size], *chunking, state)


def transcribe(recognizer: Recognizer, chunking: Chunking, samples: np.ndarray) -> str:
    """Feed a stream FED_SECONDS at a time, like a microphone, and return its text."""
    stream = recognizer.create_stream(*chunking)
    fed = int(FED_SECONDS * recognizer.model.meta.sample_rate)
    for start in range(0, len(samples), fed):
        stream.accept_waveform(samples[start : start + fed])
        _ = stream.result  # include the cost of partial results
    stream.finish()
    return stream.text


class Confidence(NamedTuple):
    """Statistics of CTC posteriors over frames."""

    best: float  # mean probability of the best token of a frame
    blank: float  # share of frames in which the best token is blank


def confidence(model: AcousticModel, chunking: Chunking, samples: np.ndarray) -> Confidence:
    scores = _all_scores(model, chunking, samples)
    return Confidence(float(np.exp(scores.log_probs[0, :, 0]).mean()), float((scores.ids[0, :, 0] == BLANK).mean()))


def rescoring_calls(exported: Sequence[ExportedFile], chunking: Chunking, samples: np.ndarray) -> Calls:
    """Return functions that rescore the n-best list of all samples with both attention decoders."""
    calls: Calls = {}
    for each in exported:
        options = DecodingOptions(PREFIX_BEAM, beam_size=max(HYPOTHESES), endpoint=ONE_SEGMENT)
        stream = Recognizer(each.model, options).create_stream(*chunking)
        stream.accept_waveform(samples)
        found = [hypothesis.ids for hypothesis in stream.finish()[-1].hypotheses]
        frames = _all_scores(each.model, chunking, samples).encoder_out
        for count in HYPOTHESES:
            calls[f"{each.name}: {count}"] = lambda model=each.model, frames=frames, ids=found[:count]: model.rescore(
                [frames], ids
            )
    return calls


def _all_scores(model: AcousticModel, chunking: Chunking, samples: np.ndarray) -> StepScores:
    size = chunking.size * model.meta.frame_samples
    whole = samples[None, : len(samples) // size * size]
    scores, _ = model.step(whole, [whole.shape[1]], *chunking, model.init_state(1, *chunking))
    return scores


_FIRST_TEXT = """
import sys
import numpy as np
import psutil
from wenet_fusion_runtime import Recognizer, load_model
stream = Recognizer(load_model(sys.argv[1], backend=sys.argv[3])).create_stream()
for block in np.array_split(np.load(sys.argv[2]), 200):
    stream.accept_waveform(block)
    if stream.text:
        print(stream.text, flush=True)
        print(psutil.Process().memory_info().rss)
        break
"""


class FirstText(NamedTuple):
    """The start of a new process, until its first text."""

    seconds: float
    resident_bytes: int


def first_text(path: Path, samples: np.ndarray, times: int, backend: str = AUTO) -> FirstText:
    """Start new processes that feed audio as fast as possible; return the medians of their times and of their memory.

    Args:
        path: the exported file.
        samples: the audio.
        times: number of processes.
        backend: see `load_model`.
    Raises:
        ValueError: a process failed, or there was no text.
    """
    audio, seconds, resident = path.with_suffix(".npy"), [], []
    np.save(audio, samples)
    command = [sys.executable, "-c", _FIRST_TEXT, str(path), str(audio), backend]
    for _ in range(times):
        start = time.perf_counter()
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            text = process.stdout.readline()
            seconds.append(time.perf_counter() - start)
            memory = process.stdout.read()
        if process.returncode:
            raise ValueError(f"{path}: the process that runs it ended with {process.returncode}; see its message above")
        if not text.strip():
            raise ValueError(f"{path} gave no text of {len(samples)} samples of noise")
        resident.append(int(memory))
    return FirstText(statistics.median(seconds), int(statistics.median(resident)))
