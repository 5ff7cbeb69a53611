"""Streams driven step by step, as an engine does: the same results, and every block is decoded exactly once."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.runtime.fake_model import FRAME, TAIL, make_model, speak
from wenet_fusion_runtime import AcousticModel, DecodingOptions, Recognizer, Stream
from wenet_fusion_runtime.results.result import Endpoint, Result
from wenet_fusion_runtime.search.modes import GREEDY, RESCORING
from wenet_fusion_runtime.stream.blocks import Block, BlockBuffer
from wenet_fusion_runtime.stream.endpoints import LIVE_ENDPOINTS, EndpointRules

CHUNK, LEFT = 8, 2
SHORT = EndpointRules(0.4, 0.12, 1.0, 0.08, 0.2)
MODEL = make_model()
RECOGNIZER = Recognizer(MODEL, DecodingOptions(endpoint=SHORT))
RECORDINGS = [speak("abcd  dcb"), speak("aa"), np.zeros(0, np.float32), speak("cab")[:2001], speak("d c b a abcd dd")]


def step_all(streams: list[Stream]) -> dict[int, list[Result]]:
    """Make one batched step over all streams with a block, as an engine does; return closed segments by stream."""
    blocks = {index: block for index, stream in enumerate(streams) if (block := stream.ready_block()) is not None}
    if not blocks:
        return {}
    samples = np.zeros((len(blocks), max(len(block.samples) for block in blocks.values())), np.float32)
    for row, block in enumerate(blocks.values()):
        samples[row, : len(block.samples)] = block.samples
    state = MODEL.concat_states([streams[index].state for index in blocks])
    scores, state = MODEL.step(samples, [block.length for block in blocks.values()], CHUNK, LEFT, state)
    states = MODEL.split_state(state)
    return {index: streams[index].advance(*scores.row(row), states[row]) for row, index in enumerate(blocks)}


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_streams_stepped_as_one_batch_give_their_own_results(seed: int) -> None:
    rng = np.random.default_rng(seed)
    alone, streams, closed = [], [], [[] for _ in RECORDINGS]
    for recording in RECORDINGS:
        stream = RECOGNIZER.create_stream(CHUNK, LEFT)
        alone.append([*stream.accept_waveform(recording), *stream.finish()])
        streams.append(RECOGNIZER.create_stream(CHUNK, LEFT))
    pieces = [iter(np.split(r, np.sort(rng.integers(0, len(r) + 1, 6)))) for r in RECORDINGS]
    waiting = set(range(len(streams)))
    while waiting:
        for index in [index for index in waiting if rng.random() < 0.7]:  # streams are out of step
            piece = next(pieces[index], None)
            if piece is None:
                streams[index].end_input()
                waiting.discard(index)
            else:
                streams[index].push(piece)
        for index, results in step_all(streams).items():
            closed[index] += results
    while results := step_all(streams):
        for index, more in results.items():
            closed[index] += more
    for index, stream in enumerate(streams):
        assert stream.waiting_seconds == 0
        closed[index] += stream.finish()
        assert texts(closed[index]) == texts(alone[index])


def texts(results: list[Result]) -> list[tuple]:
    return [(r.text, r.endpoint, r.start_seconds, r.end_seconds, [t[:4] for t in r.tokens]) for r in results]


def test_a_block_stays_until_it_is_decoded() -> None:
    stream = RECOGNIZER.create_stream(CHUNK, LEFT)
    assert stream.ready_block() is None
    stream.push(speak("abc"))
    block, before = stream.ready_block(), stream.state
    assert stream.ready_block() is block and (block.length, block.is_last) == (CHUNK * FRAME, False)
    waiting = stream.waiting_seconds
    scores, state = MODEL.step(block.samples[None], [block.length], CHUNK, LEFT, stream.state)
    assert stream.state is before and stream.waiting_seconds == waiting == pytest.approx(len(speak("abc")) / 8000)
    stream.advance(*scores.row(0), state)
    assert stream.state is state and stream.waiting_seconds == pytest.approx(waiting - CHUNK * 0.04)
    assert stream.ready_block() is not block


class FailsOnce(AcousticModel):
    fails = False

    def step(self, *arguments: object) -> tuple:
        fails, self.fails = self.fails, False
        if fails:
            raise RuntimeError("out of memory")
        return super().step(*arguments)


def test_a_failed_step_can_be_repeated() -> None:
    """Nothing changes before `advance`, so after an error of the model the same block can be stepped again."""
    model = FailsOnce(MODEL.backend, MODEL.meta)
    whole, broken = (Recognizer(model, RECOGNIZER.options).create_stream(CHUNK, LEFT) for _ in range(2))
    expected = [*whole.accept_waveform(speak("abcd")), *whole.finish()]
    model.fails = True
    with pytest.raises(RuntimeError, match="out of memory"):
        broken.accept_waveform(speak("abcd"))
    assert texts(broken.finish()) == texts(expected)


def test_scores_of_something_else_are_refused() -> None:
    stream = RECOGNIZER.create_stream(CHUNK, LEFT)
    scores, state = MODEL.step(np.zeros((1, 4 * FRAME), np.float32), [4 * FRAME], CHUNK, LEFT, stream.state)
    with pytest.raises(ValueError, match="scores of 4 frames for a block of 0; step the stream's ready_block"):
        stream.advance(*scores.row(0), state)
    stream.push(speak("abc"))
    with pytest.raises(ValueError, match="scores of 4 frames for a block of 8"):
        stream.advance(*scores.row(0), state)
    assert texts(stream.finish()) == texts(
        [*(s := RECOGNIZER.create_stream()).accept_waveform(speak("abc")), *s.finish()]
    )


def blocks_of(length: int, cuts: list[int], tail: int = TAIL) -> list[Block]:
    samples = np.arange(1, length + 1, dtype=np.float32) / 2**20
    buffer, found = BlockBuffer(8000, FRAME, CHUNK, tail), []

    def take() -> None:
        while (block := buffer.ready()) is not None:
            found.append(block)
            buffer.drop()

    for piece in np.split(samples, sorted(min(cut, length) for cut in cuts)):
        reused = piece.copy()
        buffer.push(reused)
        reused[:] = 9.0  # as a sound card does with its memory
        take()
    buffer.end()
    take()
    assert buffer.waiting_samples == 0
    joined = np.concatenate([block.samples[: block.length] for block in found]) if found else np.zeros(0)
    np.testing.assert_array_equal(joined, np.concatenate([samples, np.zeros(tail)]))
    return found


@settings(max_examples=50, deadline=None)
@given(
    length=st.integers(0, 4 * CHUNK * FRAME) | st.integers(0, 4).map(lambda count: count * CHUNK * FRAME),
    cuts=st.lists(st.integers(0, 4 * CHUNK * FRAME), max_size=40), tail=st.sampled_from([0, 1, TAIL, CHUNK * FRAME]),
)  # fmt: skip
def test_blocks_are_the_samples_in_whole_chunks_for_any_cut(length: int, cuts: list[int], tail: int) -> None:
    found = blocks_of(length, cuts, tail)
    assert len(found) == -(-(length + tail) // (CHUNK * FRAME))
    for block in found[:-1]:
        assert block.length == len(block.samples) == CHUNK * FRAME and not block.is_last
    for block in found[-1:]:
        assert len(block.samples) == -(-block.length // FRAME) * FRAME and not block.samples[block.length :].any()
        # Without right padding, the last chunk may be complete before the end is known.
        assert block.is_last or (tail == 0 and block.length == CHUNK * FRAME)


def test_rules_of_one_stream_are_its_own() -> None:
    recognizer = Recognizer(MODEL, DecodingOptions(GREEDY))
    audio = np.concatenate([speak("ab"), np.zeros(40 * FRAME, np.float32), speak("cd")])
    live, plain = recognizer.create_stream(endpoint=LIVE_ENDPOINTS), recognizer.create_stream()
    results = {name: [*s.accept_waveform(audio), *s.finish()] for name, s in (("live", live), ("plain", plain))}
    assert [(r.text, r.endpoint) for r in results["plain"]] == [("a b c d", Endpoint.END)]
    assert [(r.text, r.endpoint) for r in results["live"]] == [("a b", Endpoint.RULE2), ("c d", Endpoint.END)]
    assert live.text == plain.text == "a b c d"
    assert live.finals[0].end_seconds == pytest.approx(live.finals[0].tokens[-1].end_seconds + 2 * 0.04 + 1.2)


@pytest.mark.parametrize("mode", [GREEDY, RESCORING])
def test_a_segment_closed_on_request(mode: str) -> None:
    stream = Recognizer(MODEL, DecodingOptions(mode)).create_stream(CHUNK, LEFT)
    assert (stream.close_segment().text, stream.finals) == ("", ())  # empty, and legal
    stream.accept_waveform(speak("abcd"))
    closed = stream.close_segment()
    assert (closed.endpoint, closed.segment, closed.is_final) == (Endpoint.REQUEST, 1, True)
    assert stream.finals == (closed,) or stream.finals[0].tokens == closed.tokens
    stream.accept_waveform(speak("dd"))
    last = stream.finish()[-1]
    assert stream.text == "a b c d d d" == f"{closed.text} {last.text}" and closed.end_seconds == last.start_seconds
    with pytest.raises(ValueError, match="the stream is finished"):
        stream.close_segment()
