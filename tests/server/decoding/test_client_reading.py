"""The client's reading thread: if a session ends early, no file is closed while it is read, and no pipe is awaited."""

import asyncio
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from support.runtime.fake_model import SAMPLE_RATE
from support.runtime.server_process import PATIENCE, PROGRAM, ServerProcess
from wenet_fusion_runtime.server.session_options import SessionOptions
from wenet_fusion_runtime.server.websocket import websocket_client


@pytest.fixture(scope="module")
def strict(fake_archive: Path) -> Iterator[ServerProcess]:
    """A server that ends sessions after half a second of audio, or after a second without audio."""
    with ServerProcess(fake_archive, "--max_audio_seconds", 0.5, "--idle_seconds", 1) as started:
        yield started


def test_a_session_that_ends_early_reads_no_more(strict: ServerProcess) -> None:
    """The caller closes the file that the thread reads."""
    reading = []

    def blocks() -> Iterator[np.ndarray]:
        for _ in range(10):
            reading.append(1)
            time.sleep(0.5)
            reading.pop()
            yield np.zeros(SAMPLE_RATE, np.float32)

    async def run() -> None:
        options = SessionOptions(continuous_decoding=True, sample_rate=SAMPLE_RATE, sample_format="float32")
        address = websocket_client.ServerAddress(strict.url.replace("http", "ws"))
        with pytest.raises(websocket_client.ServerError, match="a session may have 0.5 s of audio"):
            await websocket_client.recognise(address, websocket_client.Recording(blocks()), options, print)
        assert not reading

    asyncio.run(run())


def test_a_pipe_that_stands_still_does_not_hold_the_client(strict: ServerProcess) -> None:
    command = [*PROGRAM, "client", f"127.0.0.1:{strict.port}", "-", "--rate", str(SAMPLE_RATE)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdin.write(bytes(SAMPLE_RATE // 2))
        process.stdin.flush()
        try:
            assert process.wait(PATIENCE) == 1
        finally:
            process.kill()
        assert b"less than 0.01 s of audio came in 1 s" in process.stderr.read()
