"""Uploads whose decoder fails, whose client hangs up, or whose server is killed: other clients are not affected."""

import asyncio
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil
import pytest
import soundfile
from support.runtime import faulty_decoder
from support.runtime.fake_model import SAMPLE_RATE, speak
from support.runtime.server_process import PATIENCE, ServerProcess, encoded, eventually, http, metric

FAULTY = f"""
from wenet_fusion_runtime.server.decoding import decoders
decoders.START = {faulty_decoder.START!r}
"""
STALLED = """
import time
from wenet_fusion_runtime.engine import engine
real = engine.step_streams
engine.step_streams = lambda *arguments: time.sleep(3) or real(*arguments)
"""


@contextmanager
def changed_server(folder: Path, model: Path, change: str, *flags: object, **variables: str) -> Iterator[ServerProcess]:
    """The command `serve` with a change to its code."""
    script = folder / "serve.py"
    script.write_text(
        f"import sys\nsys.path.insert(0, {str(Path(__file__).parents[2])!r})\n{change}\n"
        "from wenet_fusion_runtime.cli.__main__ import main\nsys.exit(main())\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("support.runtime.server_process.PROGRAM", [sys.executable, str(script)])
        started = ServerProcess(model, *flags, environment=variables)
    with started:
        yield started


@pytest.fixture(scope="module")
def faulty(fake_archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with changed_server(tmp_path_factory.mktemp("faulty"), fake_archive, FAULTY) as started:
        yield started


async def upload(server: ServerProcess, body: bytes, query: str = "") -> tuple[int, dict]:
    status, _, answer = await http("POST", f"{server.url}transcribe{query}", data=body)
    return status, json.loads(answer)


async def begun(server: ServerProcess, body: bytes, missing: int = 0) -> asyncio.StreamWriter:
    """Send an upload without its last `missing` bytes."""
    _, writer = await asyncio.open_connection("127.0.0.1", server.port)
    head = b"POST /transcribe HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (len(body) + missing)
    writer.write(head + body)
    await writer.drain()
    return writer


def decoding(server: ServerProcess) -> list[psutil.Process]:
    """The processes that decode uploads."""
    (starter,) = psutil.Process(server.process.pid).children()
    return starter.children()


@pytest.mark.parametrize("fault", [faulty_decoder.CRASH, faulty_decoder.MEMORY, faulty_decoder.BUG])
def test_a_decoders_fault_costs_its_upload_only(faulty: ServerProcess, fault: bytes) -> None:
    async def run() -> None:
        before = await metric(faulty.url, 'refusals_total{reason="decoder"}')
        bad, good = encoded(speak("ab"), SAMPLE_RATE) + fault, encoded(speak("abcd"), SAMPLE_RATE)
        (status, answer), *others = await asyncio.gather(*(upload(faulty, body) for body in (bad, good, good)))
        assert status == 400 and answer["text"] == "a b" and answer["message"].startswith("upload: "), answer
        assert answer["message"].endswith("; convert the file to wav or flac")
        assert [(status, answer["text"]) for status, answer in others] == [(200, "a b c d")] * 2
        assert await metric(faulty.url, 'refusals_total{reason="decoder"}') == before + 1
        assert any("WARNING" in line and answer["message"] in line for line in faulty.log), faulty.log

    asyncio.run(run())


def test_a_client_that_hangs_up_while_its_file_is_decoded_ends_the_decoder(faulty: ServerProcess) -> None:
    async def run() -> None:
        for body in (faulty_decoder.HANG, encoded(speak("ab"), SAMPLE_RATE) + faulty_decoder.HANG):
            writer = await begun(faulty, body)
            assert await eventually(lambda: are_decoding(1))
            writer.transport.abort()
            assert await eventually(lambda: are_decoding(0))
        assert await eventually(lambda: _is_empty(faulty))
        assert (await upload(faulty, encoded(speak("dc"), SAMPLE_RATE)))[1]["text"] == "d c"

    async def are_decoding(count: int) -> bool:
        return len(decoding(faulty)) == count

    asyncio.run(run())


async def _is_empty(server: ServerProcess) -> bool:
    return await metric(server.url, "sessions") == 0


def test_files_of_few_bytes_that_state_much_audio_are_answered(faulty: ServerProcess) -> None:
    """At 1 Hz, 80 bytes are 40 s, which stay in the resampler; at 2 GHz, a buffer of two seconds is 16 GB."""

    async def run() -> None:
        files = [encoded(np.zeros(40, np.float32), rate) for rate in (1, 1, 1, 1, 2_000_000_000, 2**31 - 1)]
        before = faulty.memory
        assert {status for status, _ in await asyncio.gather(*(upload(faulty, body) for body in files))} <= {200, 400}
        assert faulty.memory < before + 100 and await eventually(lambda: _is_empty(faulty))

    asyncio.run(run())


def test_a_channel_can_be_chosen(faulty: ServerProcess) -> None:
    samples = speak("abcd")
    opposite = encoded(np.stack([samples, -samples], axis=1), SAMPLE_RATE)

    async def run() -> None:
        status, answer = await upload(faulty, opposite)
        assert status == 400 and "upload: channel=1" in answer["message"]
        for channel, expected in (("1", "a b c d"), ("2", "a b c d"), ("0", "")):
            assert (await upload(faulty, opposite, f"?channel={channel}"))[1]["text"] == expected
        for channel, message in (("3", "upload: "), ("x", "channel must be an integer from 0 to 32, found")):
            status, answer = await upload(faulty, opposite, f"?channel={channel}")
            assert status == 400 and answer["message"].startswith(message), answer

    asyncio.run(run())


def test_recognition_that_makes_no_progress_ends(fake_archive: Path, tmp_path: Path) -> None:
    with changed_server(tmp_path, fake_archive, STALLED, "--progress_seconds", 1) as server:
        status, answer = asyncio.run(upload(server, encoded(speak("ab"), SAMPLE_RATE)))
        assert status == 503 and answer["message"] == "recognition made no progress for 1 s; try again later"


def test_a_killed_server_leaves_no_files_and_no_processes(fake_archive: Path, tmp_path: Path) -> None:
    folder = tmp_path / "temporary"
    folder.mkdir()

    async def run(server: ServerProcess) -> list[psutil.Process]:
        writers = [await begun(server, faulty_decoder.HANG), await begun(server, b"RIFF" * 30_000, missing=1000)]

        async def is_decoding() -> bool:
            return len(decoding(server)) == 1

        assert await eventually(is_decoding)
        found = psutil.Process(server.process.pid).children(recursive=True)
        server.kill()
        for writer in writers:
            writer.transport.abort()
        return found

    with changed_server(tmp_path, fake_archive, FAULTY, TMPDIR=str(folder)) as server:
        processes = asyncio.run(run(server))
        assert len(processes) == 2
        _, alive = psutil.wait_procs(processes, PATIENCE)
        assert alive == []
        assert sum(path.stat().st_size for path in folder.iterdir()) < 1000, "the upload has 120,000 bytes"


def test_a_server_that_stops_leaves_no_processes(fake_archive: Path) -> None:
    with ServerProcess(fake_archive) as server:
        assert asyncio.run(upload(server, encoded(speak("ab"), SAMPLE_RATE)))[0] == 200
        found = psutil.Process(server.process.pid).children(recursive=True)
        server.stop()
        assert server.wait() == 0 and found and psutil.wait_procs(found, PATIENCE)[1] == []


@pytest.mark.slow
@pytest.mark.parametrize("form, subtype", [("FLAC", None), ("OGG", "OPUS"), ("MP3", None)])
def test_clients_that_hang_up_do_not_crash_the_server(
    fake_archive: Path, tmp_path: Path, form: str, subtype: str | None
) -> None:
    """Ten minutes of each format. In the server's own process, closing a file that libsndfile reads would crash it."""
    noise = np.random.default_rng(0).normal(0, 0.1, (600 * 48000, 2)).astype(np.float32)
    soundfile.write(tmp_path / "audio", noise, 48000, format=form, subtype=subtype)
    body = (tmp_path / "audio").read_bytes()

    async def run(server: ServerProcess) -> None:
        for number in range(20):
            opened = await metric(server.url, "sessions_opened_total")
            writer = await begun(server, body)
            while await metric(server.url, "sessions_opened_total") == opened:
                await asyncio.sleep(0.005)
            await asyncio.sleep(0.015 * number)
            writer.transport.abort()
            assert await eventually(lambda: _is_empty(server))

    with ServerProcess(fake_archive) as server:
        asyncio.run(run(server))
        server.stop()
        assert server.wait() == 0
