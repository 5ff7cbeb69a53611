"""The batch law: streams stepped together, out of step and of any length, have the same tokens as alone."""

import importlib.util
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.model.tones import HERTZ, RATE, ToneRun, speak
from support.runtime.fake_model import LoudnessModel, make_model
from wenet_fusion_runtime import DecodingOptions, Recognizer, Result
from wenet_fusion_runtime.engine.batched_step import step_streams
from wenet_fusion_runtime.search.modes import MODES, RESCORING
from wenet_fusion_runtime.stream.endpoints import EndpointRules

from wenet_fusion.export.flow import export_model
from wenet_fusion.export.speech import read_speech
from wenet_fusion.export.target import ExportOptions
from wenet_fusion.trained_model import load_trained

pytestmark = pytest.mark.usefixtures("float32")

SHORT_SEGMENTS = EndpointRules(rule3_seconds=0.4, rule3_silence_seconds=0.08, rule3_extra_seconds=0.2)
# A sum in float32 may round differently in another batch, and then to another step of the next int8 scale. Noise of
# the size of the rounding, added to the spectrum, changed scores by at most 0.015.
INT8_LIMIT = 0.1
WORDS = st.lists(st.sampled_from(sorted(HERTZ)), max_size=5)


class Client(NamedTuple):
    """A stream of the simulation."""

    words: list[str]
    seed: int  # seed of the speech
    chunk: int  # index among the model's chunk sizes
    start: int  # tick of its first samples
    piece: int  # samples for each tick
    stays: int  # ticks until the client disconnects
    gain: float


CLIENTS = st.lists(
    st.builds(
        Client,
        words=WORDS,
        seed=st.integers(0, 99),
        chunk=st.integers(0, 1),
        start=st.integers(0, 8),
        piece=st.integers(100, 4000),
        stays=st.sampled_from([3, 10, 10**6, 10**6, 10**6]),
        gain=st.sampled_from([0.1, 1.0, 3.0]),
    ),
    min_size=2,
    max_size=6,
)


def alone(recognizer: Recognizer, client: Client, samples: np.ndarray) -> list[Result]:
    stream = recognizer.create_stream(recognizer.model.meta.chunk_sizes[client.chunk])
    return stream.accept_waveform(samples) + stream.finish()


def together(recognizer: Recognizer, clients: list[Client], recordings: list[np.ndarray]) -> list[list[Result] | None]:
    """Return the results of each client; None if the client disconnected. In every tick each client pushes a piece, and
    all streams that are ready and may share a step share it."""
    sizes = recognizer.model.meta.chunk_sizes
    streams = [recognizer.create_stream(sizes[client.chunk]) for client in clients]
    results: list[list[Result] | None] = [[] for _ in clients]
    open_ones, tick = set(range(len(clients))), 0
    while open_ones:
        for index in sorted(open_ones):
            client, position = clients[index], (tick - clients[index].start) * clients[index].piece
            if tick - client.start >= client.stays:
                results[index] = None
                open_ones.remove(index)
            elif position >= len(recordings[index]):
                streams[index].end_input()
            elif position >= 0:
                streams[index].push(recordings[index][position : position + client.piece])
        for chunk in sizes:
            ready = [i for i in sorted(open_ones) if streams[i].chunk == chunk and streams[i].ready_block() is not None]
            found = step_streams(recognizer.model, [streams[index] for index in ready]) if ready else []
            for index, stepped in zip(ready, found):
                is_last = streams[index].ready_block().is_last
                results[index] += streams[index].advance(*stepped)
                if is_last:
                    results[index] += streams[index].finish()
                    open_ones.remove(index)
        tick += 1
    return results


def differences(recognizer: Recognizer, clients: list[Client]) -> list[str]:
    """Return the breaches of the law as text."""
    recordings = [
        np.clip(client.gain * speak(client.words, np.random.default_rng(client.seed)), -1, 1) for client in clients
    ]
    found = []
    for client, samples, results in zip(clients, recordings, together(recognizer, clients, recordings)):
        if results is not None:
            expected = alone(recognizer, client, samples)
            limit = INT8_LIMIT if recognizer.model.meta.precision == "int8" else 1e-4
            found += [f"{client}: {problem}" for problem in result_differences(expected, results, limit)]
    return found


def result_differences(expected: list[Result], found: list[Result], limit: float) -> list[str]:
    kept = [
        [(r.text, r.endpoint, r.start_seconds, r.end_seconds, [t[:4] for t in r.tokens]) for r in results]
        for results in (expected, found)
    ]
    if kept[0] != kept[1]:
        return [f"{kept[1]} instead of {kept[0]}"]
    scores = [(one.hypotheses[0].score, other.hypotheses[0].score) for one, other in zip(expected, found)]
    return [f"score {other} instead of {one}" for one, other in scores if abs(other - one) > limit]


NEEDS_FBGEMM = pytest.mark.skipif(
    "fbgemm" not in torch.backends.quantized.supported_engines, reason="torch has no FBGEMM on this machine"
)
NEEDS_ONNX = pytest.mark.skipif(
    importlib.util.find_spec("onnx") is None, reason="ONNX exports need onnx, an optional extra"
)
FILES = (
    "torchscript float32",
    pytest.param("torchscript float16-packed", marks=NEEDS_FBGEMM),
    pytest.param("torchscript int8", marks=NEEDS_FBGEMM),
    pytest.param("onnx float32", marks=NEEDS_ONNX),
    pytest.param("onnx int8", marks=NEEDS_ONNX),
)


@pytest.fixture(scope="module", params=FILES)
def recognizer(
    request: pytest.FixtureRequest, tone_run: ToneRun, tmp_path_factory: pytest.TempPathFactory
) -> Recognizer:
    kind, precision = request.param.split()
    tones, path = load_trained(tone_run.checkpoint), tmp_path_factory.mktemp("engine") / "model.zip"
    export_model(
        tones, path, ExportOptions(kind, precision, max_wer_increase=0.1), read_speech(tone_run.dev_list, RATE, 30)
    )
    return Recognizer(path, DecodingOptions(RESCORING, endpoint=SHORT_SEGMENTS))


@settings(max_examples=25, deadline=None)
@given(clients=CLIENTS)
def test_a_stream_has_the_same_results_in_any_batch_as_alone(recognizer: Recognizer, clients: list[Client]) -> None:
    assert differences(recognizer, clients) == []


@settings(max_examples=25, deadline=None)
@given(clients=CLIENTS, mode=st.sampled_from(MODES))
def test_the_batch_law_holds_in_every_mode(clients: list[Client], mode: str) -> None:
    assert differences(Recognizer(make_model(), DecodingOptions(mode, endpoint=SHORT_SEGMENTS)), clients) == []


class SwapsStates(LoudnessModel):
    """Seeded bug: the states go back to the wrong rows."""

    def split_state(self, state: list[torch.Tensor]) -> list[list[torch.Tensor]]:
        return super().split_state(state)[::-1]


class SwapsRows(LoudnessModel):
    """Seeded bug: the states join in the wrong order."""

    def concat_states(self, states: list[list[torch.Tensor]]) -> list[torch.Tensor]:
        return super().concat_states(states[::-1])


class CutsTheOthers(LoudnessModel):
    """Seeded bug: all rows are as long as the shortest."""

    def step(self, samples: torch.Tensor, lengths: torch.Tensor, chunk: int, left: int, state: Any) -> Any:
        scores, new = super().step(samples, lengths.clamp(max=int(lengths.min())), chunk, left, state)
        return (scores[0], self.frames(lengths), *scores[2:]), new


BUG_CLIENTS = [
    Client(words, seed, 0, start, 1000, 10**6, 1.0)
    for seed, (words, start) in enumerate([(["one", "two"], 0), (["three"] * 3, 0), (["one"] * 4, 2)])
]


@pytest.mark.parametrize("bug", [SwapsStates, SwapsRows, CutsTheOthers])
def test_the_law_catches_seeded_bugs(bug: type[LoudnessModel]) -> None:
    clients, options = BUG_CLIENTS, DecodingOptions(endpoint=SHORT_SEGMENTS)
    assert differences(Recognizer(make_model(LoudnessModel(shares_past=0.5)), options), clients) == []
    assert differences(Recognizer(make_model(bug(shares_past=0.5)), options), clients) != []


def test_a_failed_batch_fails_only_the_streams_that_fail_alone() -> None:
    class Picky(LoudnessModel):
        def step(self, samples: torch.Tensor, *rest: Any) -> Any:
            if float(samples.abs().max()) > 0.9:
                raise RuntimeError("too loud")
            return super().step(samples, *rest)

    recognizer = Recognizer(make_model(Picky()))
    streams = [recognizer.create_stream() for _ in range(3)]
    for stream, level in zip(streams, (0.2, 1.0, 0.4)):
        stream.push(np.full(8 * 320, level, np.float32))
    found = step_streams(recognizer.model, streams)
    assert [isinstance(each, RuntimeError) for each in found] == [False, True, False]
    assert found[2].scores.ids[0, 0] == 4 and found[0].scores.ids[0, 0] == 3


def test_a_stream_keeps_only_its_own_row_of_a_batch() -> None:
    """Rescoring keeps encoder frames for a whole segment: views would keep those of all neighbours alive."""
    recognizer = Recognizer(make_model())
    streams = [recognizer.create_stream() for _ in range(4)]
    for stream in streams:
        stream.push(np.zeros(8 * 320, np.float32))
    for stepped in step_streams(recognizer.model, streams):
        assert stepped.encoder_out.base is None and stepped.encoder_out.shape[:2] == (1, 8)
