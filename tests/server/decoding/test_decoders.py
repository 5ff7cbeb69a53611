"""Each upload is decoded in its own process: a fault ends one upload only, and no process is left."""

import asyncio
import signal
import struct
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing

import numpy as np
import psutil
import pytest
from support.runtime import faulty_decoder
from support.runtime.server_process import PATIENCE, encoded
from wenet_fusion_runtime.server.decoding import decoders as module
from wenet_fusion_runtime.server.decoding import turns
from wenet_fusion_runtime.server.decoding.decoder_process import BLOCK_SAMPLES
from wenet_fusion_runtime.server.decoding.decoders import DecoderFault, Decoders, DecodersBusy
from wenet_fusion_runtime.server.decoding.turns import Turns

RATE = 8000
NOISE = np.random.default_rng(0).uniform(-0.5, 0.5, 5 * RATE).astype(np.float32)


@pytest.fixture(scope="module")
def shared() -> Iterator[Decoders]:
    """Decoders with the faults of `faulty_decoder.py`. They need no event loop, so all tests share them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "START", faulty_decoder.START)
        decoders = Decoders(PATIENCE)
        decoders.start()
    yield decoders
    starter = starter_of(decoders)
    asyncio.run(decoders.close())
    assert not starter.is_running()


def run(decoders: Decoders, work: Callable[[], Awaitable[None]]) -> None:
    """Call `work`, and check that no process of an upload is left."""

    async def whole() -> None:
        await asyncio.wait_for(work(), PATIENCE)
        assert await eventually(lambda: not starter_of(decoders).children())

    asyncio.run(whole())


def starter_of(decoders: Decoders) -> psutil.Process:
    assert decoders._process is not None
    return psutil.Process(decoders._process.pid)


async def eventually(condition: Callable[[], bool]) -> bool:
    for _ in range(round(PATIENCE / 0.02)):
        if condition():
            return True
        await asyncio.sleep(0.02)
    return False


async def decoded(decoders: Decoders, content: bytes) -> tuple[int, np.ndarray]:
    """Return sample rate and samples of a file."""
    with tempfile.TemporaryFile() as file:
        file.write(content)
        file.flush()
        decoding = await decoders.open(file)
    with closing(decoding):
        blocks = [np.zeros(0, np.float32)]
        try:
            while (block := await decoding.block()) is not None:
                blocks.append(block)
        except (ValueError, DecoderFault) as error:
            error.args = (*error.args, sum(map(len, blocks)))  # samples before the error
            raise
        return decoding.sample_rate, np.concatenate(blocks)


@pytest.mark.parametrize("form", ["WAV", "FLAC", "OGG", "MP3"])
def test_samples_are_those_of_the_reader(shared: Decoders, form: str) -> None:
    content = encoded(NOISE, RATE, form)

    async def work() -> None:
        (rate, samples), again = await asyncio.gather(decoded(shared, content), decoded(shared, content))
        assert rate == RATE and np.array_equal(samples, again[1])
        if form in ("WAV", "FLAC"):
            assert np.abs(samples - NOISE).max() < 1e-4
        assert abs(len(samples) - len(NOISE)) < 0.2 * RATE

    run(shared, work)


def test_a_file_that_is_no_audio_or_damaged_gives_the_readers_message(shared: Decoders) -> None:
    whole = encoded(NOISE, RATE)

    async def work() -> None:
        with pytest.raises(ValueError, match="^upload: cannot be read as audio"):
            await decoded(shared, b"no audio at all")
        with pytest.raises(ValueError, match="upload: is damaged or ends too early") as caught:
            await decoded(shared, whole[: len(whole) // 2])
        assert abs(caught.value.args[-1] - 2.5 * RATE) < 100, "the audio before the damage came"

    run(shared, work)


@pytest.mark.parametrize(
    "fault, message, details",
    [
        (faulty_decoder.CRASH, "the decoder crashed", "SIGSEGV"),
        (faulty_decoder.EXIT, "the decoder crashed", "exit status 3"),
        (faulty_decoder.MEMORY, "decoding needs more than 256 MiB of memory", ""),
        (faulty_decoder.BUG, "the decoder crashed", "KeyError: 'a bug"),
    ],
)
@pytest.mark.parametrize("audio", [b"", encoded(NOISE, RATE)], ids=["open", "middle"])
def test_a_fault_costs_one_upload(shared: Decoders, audio: bytes, fault: bytes, message: str, details: str) -> None:
    async def work() -> None:
        others = [asyncio.ensure_future(decoded(shared, encoded(NOISE, RATE))) for _ in range(2)]
        with pytest.raises(DecoderFault, match=message) as caught:
            await decoded(shared, audio + fault)
        assert details in caught.value.details and "\n" not in caught.value.details
        assert not audio or caught.value.args[-1] == len(NOISE), "the block before the fault came"
        for other in others:
            assert np.array_equal((await other)[1], (await decoded(shared, encoded(NOISE, RATE)))[1])

    run(shared, work)


def test_a_decoder_that_hangs_is_ended(shared: Decoders, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work() -> None:
        await decoded(shared, encoded(NOISE, RATE))
        monkeypatch.setattr(shared, "_seconds", 0.5)  # the starter runs by now
        for audio in (b"", encoded(NOISE, RATE)):
            with pytest.raises(DecoderFault, match=r"the decoder made no progress for 0.5 s"):
                await decoded(shared, audio + faulty_decoder.HANG)

    run(shared, work)


def test_a_cancelled_upload_ends_its_process(shared: Decoders) -> None:
    async def work() -> None:
        for audio in (b"", encoded(NOISE, RATE)):
            waiting = asyncio.ensure_future(decoded(shared, audio + faulty_decoder.HANG))
            assert await eventually(lambda: len(starter_of(shared).children()) == 1)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            assert await eventually(lambda: not starter_of(shared).children())

    run(shared, work)


def test_decoders_compute_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "START", faulty_decoder.START)
    monkeypatch.setattr(turns, "LEASE_SECONDS", 1000.0)
    decoders, good = Decoders(PATIENCE, at_once=2), encoded(NOISE, RATE)

    async def work() -> None:
        await decoded(decoders, good)
        hanging = [asyncio.ensure_future(decoded(decoders, faulty_decoder.HANG)) for _ in range(2)]
        assert await eventually(lambda: decoders._turns.running == 2)
        waiting = asyncio.ensure_future(decoded(decoders, good))
        assert await eventually(lambda: decoders._turns.waiting == 1)
        monkeypatch.setattr(decoders, "_seconds", 0.05)
        with pytest.raises(DecodersBusy, match=r"busy with other uploads for 0.05 s; try again later"):
            await decoded(decoders, good)
        monkeypatch.setattr(decoders, "_seconds", PATIENCE)
        assert not waiting.done()
        hanging[0].cancel()
        await waiting
        # A turn that lasts too long does not block the others.
        monkeypatch.setattr(turns, "LEASE_SECONDS", 0.5)
        hanging[0] = asyncio.ensure_future(decoded(decoders, faulty_decoder.HANG))
        assert await eventually(lambda: decoders._turns.running == 2)
        monkeypatch.setattr(decoders, "_seconds", 10.0)
        await decoded(decoders, good)
        assert not any(one.done() for one in hanging)
        for one in hanging:
            one.cancel()
        await asyncio.gather(*hanging, return_exceptions=True)

    run(decoders, work)
    asyncio.run(decoders.close())


def test_turns_come_in_order_and_none_is_lost() -> None:
    async def work() -> None:
        given, served = Turns(1), []

        async def take(number: int) -> None:
            turn = await given.take(PATIENCE)
            served.append(number)
            await asyncio.sleep(0)
            turn.end()
            turn.end()

        first = await given.take(PATIENCE)
        tasks = [asyncio.ensure_future(take(number)) for number in range(6)]
        await asyncio.sleep(0)
        assert given.waiting == 6
        with pytest.raises(asyncio.TimeoutError):
            await given.take(0.01)
        tasks[3].cancel()
        first.end()
        tasks[0].cancel()  # in the iteration of the loop in which it gets its turn
        await asyncio.gather(*tasks, return_exceptions=True)
        assert served == [1, 2, 4, 5] and given.running == given.waiting == 0

    asyncio.run(asyncio.wait_for(work(), PATIENCE))


def test_a_decoder_that_nobody_reads_waits_with_little_memory(shared: Decoders) -> None:
    long = encoded(np.tile(NOISE, 200), RATE, "FLAC")

    async def work() -> None:
        with tempfile.TemporaryFile() as file:
            file.write(long)
            file.flush()
            decoding = await shared.open(file)
        with closing(decoding):
            await asyncio.sleep(0.3)
            starter = starter_of(shared)
            (process,) = starter.children()
            assert process.memory_info().rss < starter.memory_info().rss + 20 * 2**20
            assert len(await decoding.block()) == BLOCK_SAMPLES

    run(shared, work)


def test_a_killed_starter_is_replaced() -> None:
    decoders = Decoders(PATIENCE)

    async def work() -> None:
        for _ in range(2):
            await decoded(decoders, encoded(NOISE, RATE))
            starter = starter_of(decoders)
            starter.send_signal(signal.SIGTERM)  # as process managers do; the starter ignores it
            await decoded(decoders, encoded(NOISE, RATE))
            assert starter_of(decoders) == starter
            starter.kill()
            assert await eventually(lambda: starter.status() == psutil.STATUS_ZOMBIE)
        await decoders.close()

    asyncio.run(work())


def test_an_upload_that_a_killed_starter_had_taken_is_decoded_by_the_next_one() -> None:
    decoders = Decoders(PATIENCE)

    async def work() -> None:
        await decoded(decoders, encoded(NOISE, RATE))
        starter = starter_of(decoders)
        starter.suspend()
        waiting = asyncio.ensure_future(decoded(decoders, encoded(NOISE, RATE)))
        await asyncio.sleep(0.05)  # the request waits in its socket
        starter.kill()
        assert len((await waiting)[1]) == len(NOISE)
        assert starter_of(decoders) != starter
        await decoders.close()

    asyncio.run(asyncio.wait_for(work(), PATIENCE))


def test_the_starter_has_one_thread_and_bounded_memory(shared: Decoders) -> None:
    """Forking a process with threads may hang."""

    async def work() -> None:
        await decoded(shared, encoded(NOISE, RATE, "MP3"))
        starter = starter_of(shared)
        assert starter.num_threads() == 1
        assert 2**28 < starter.rlimit(psutil.RLIMIT_DATA)[0] < 2**30

    run(shared, work)


@pytest.mark.parametrize("rate", [1, 4000, 384000, 2_000_000_000, 2**32 - 1])
def test_a_stated_rate_costs_no_memory(shared: Decoders, rate: int) -> None:
    """At the last two rates, two seconds would be 16 GB."""
    header = struct.pack("<4sI4s4sIHHIIHH", b"RIFF", 36 + 32000, b"WAVE", b"fmt ", 16, 1, 1, rate, 0, 2, 16)
    header += struct.pack("<4sI", b"data", 32000)

    async def work() -> None:
        try:
            found, samples = await decoded(shared, header + bytes(32000))
            assert found == rate and len(samples) == 16000
        except ValueError as error:
            assert "upload: " in str(error)

    run(shared, work)
