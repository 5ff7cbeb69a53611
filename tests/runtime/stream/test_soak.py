"""A stream of any length: its state is bounded, its memory stays flat, and the time per second stays the same."""

import time
from statistics import median

import numpy as np
import psutil
import pytest
from support.model.tones import HERTZ, RATE, speak
from wenet_fusion_runtime import Recognizer
from wenet_fusion_runtime.stream.segment_decoder import SegmentDecoder

from wenet_fusion.export.flow import export_model
from wenet_fusion.trained_model import load_trained

BEAM = 10
LONGEST_SEGMENT_FRAMES = 750  # 30 s: 20 s of speech, then at most 10 s until a silence


@pytest.fixture(scope="module")
def recognizer(tone_run, tmp_path_factory):
    path = tmp_path_factory.mktemp("soak") / "tones.pt"
    export_model(load_trained(tone_run.checkpoint), path)
    return Recognizer(path)


def seconds_of_speech(seed):
    """Endless pieces of a second: words, half a second of pause after every twelve, and noise that never repeats."""
    rng = np.random.default_rng(seed)
    sentences = [speak(rng.choice(list(HERTZ), 12).tolist(), rng) for _ in range(20)]
    speech = np.concatenate([np.append(sentence, np.zeros(RATE // 2, np.float32)) for sentence in sentences])
    position = 0
    while True:
        piece = np.take(speech, range(position, position + RATE), mode="wrap")
        position = (position + RATE) % len(speech)
        yield piece + np.float32(0.003) * rng.standard_normal(RATE, dtype=np.float32)


# ---- counts: what a stream holds


def count_nodes(search):
    """Count the prefixes that a beam search holds, including prefixes that left the beam."""
    root = search._beam[0]
    while root.parent is not None:
        root = root.parent
    count, open_nodes = 0, [root]
    while open_nodes:
        count += 1
        open_nodes.extend(open_nodes.pop().children.values())
    return count


def beginnings(search):
    """Return the sequences in the beam and all their beginnings."""
    sequences = [node.tokens() for node in search._beam]
    return {tokens[:length] for tokens in sequences for length in range(len(tokens) + 1)}


def count_emissions(search):
    """Count the links of best alignments that a beam search holds."""
    seen = set()
    for emission in [emission for node in search._beam for emission in node.sums[5:7]]:
        while emission is not None and id(emission) not in seen:
            seen.add(id(emission))
            emission = emission.previous
    return len(seen)


def count_values(state):
    """Count the numbers in a nested state."""
    if isinstance(state, int):
        return 0  # the size for which the state was made
    return state.numel() if hasattr(state, "numel") else sum(map(count_values, state))


def excesses(stream, state_values):
    """Return the bounds that a stream exceeds, as text."""
    decoder = stream._decoder
    frames = decoder._counts.frames
    encoded = sum(block.shape[1] for block in decoder._search._encoder_blocks)
    bounds = {
        "frames of the open segment": (frames, LONGEST_SEGMENT_FRAMES),
        "encoder frames": (encoded, frames),
        "prefixes": (count_nodes(decoder._search._first_pass), len(beginnings(decoder._search._first_pass))),
        "tokens of a prefix": (max(len(node.tokens()) for node in decoder._search._first_pass._beam), frames),
        "emissions": (count_emissions(decoder._search._first_pass), 2 * BEAM * (frames + 1)),
        "values of the state": (count_values(stream._state), state_values),
        "kept hypotheses": (max([len(result.hypotheses) for result in stream.finals], default=0), 1),
    }
    return [f"{name}: {found} above {bound}" for name, (found, bound) in bounds.items() if found > bound]


def stream_and_check(recognizer, seconds):
    """Check the bounds at every other second of a stream; return the exceeded ones and the results."""
    stream, speech = recognizer.create_stream(), seconds_of_speech(0)
    state_values = count_values(stream._state)
    found = []
    for number in range(seconds):
        stream.accept_waveform(next(speech))
        if number % 2:
            found += excesses(stream, state_values)
    return found, stream.finals


def test_what_a_stream_keeps_is_bounded(recognizer):
    found, finals = stream_and_check(recognizer, 60)
    assert found == [] and len(finals) >= 2


class KeepsEncoderFrames(SegmentDecoder):
    """Seeded bug: the encoder outputs of closed segments stay."""

    def close(self, endpoint):
        blocks = list(self._search._encoder_blocks)
        result = super().close(endpoint)
        self._search._encoder_blocks = blocks
        return result


class KeepsTheSearch(SegmentDecoder):
    """Seeded bug: a segment's search goes on with the next one."""

    def close(self, endpoint):
        search = self._search
        result = super().close(endpoint)
        self._search = search
        return result


@pytest.mark.parametrize(
    "leak, message", [(KeepsEncoderFrames, "encoder frames"), (KeepsTheSearch, "tokens of a prefix")]
)
def test_the_check_sees_a_leak(recognizer, monkeypatch, leak, message):
    monkeypatch.setattr("wenet_fusion_runtime.stream.stream.SegmentDecoder", leak)
    found, _ = stream_and_check(recognizer, 60)
    assert any(line.startswith(message) for line in found)


# ---- half an hour (an hour: tools/measure/measure_memory.py)


@pytest.mark.slow
def test_half_an_hour_through_one_stream(recognizer):
    process, memory = psutil.Process(), []
    stream, speech = recognizer.create_stream(), seconds_of_speech(0)
    state_values = count_values(stream._state)
    for second in range(1800):
        stream.accept_waveform(next(speech))
        if second % 60 == 59:
            memory.append(process.memory_info().rss)
            assert excesses(stream, state_values) == []
    assert len(stream.finals) > 50 and all(result.text for result in stream.finals)
    growth = max(memory[20:]) - memory[9]
    assert growth < 0.02 * memory[9], f"{growth / 1e6:.1f} MB in 20 minutes on {memory[9] / 1e6:.0f} MB"

    # A busy machine is slow in phases, so the old stream and a new one take turns on the same audio.
    young, costs = recognizer.create_stream(), {"old": [], "young": []}
    for _ in range(200):
        piece = next(speech)
        for name, each in (("old", stream), ("young", young)):
            begin = time.process_time()
            each.accept_waveform(piece)
            costs[name].append(time.process_time() - begin)
    # If the time per second grew with the stream, it would be many times that of the new stream by now.
    assert median(costs["old"]) < 1.5 * median(costs["young"])
