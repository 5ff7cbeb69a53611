"""Frames of clients must be masked: RFC 6455, section 5.1."""

import asyncio
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.runtime.fake_model import save_archive
from support.runtime.hostile_clients import START
from support.runtime.server_process import PATIENCE, ServerProcess, frame, raw_socket
from wenet_fusion_runtime.server.websocket.masked_frames import MaskedFrames


class Parser:
    """Keeps the bytes that it gets."""

    def __init__(self) -> None:
        self.data = b""

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        self.data += data
        return False, b""

    def feed_eof(self) -> None:
        pass


def unmasked(opcode: int, payload: bytes) -> bytes:
    masked = frame(opcode, payload)
    head = len(masked) - len(payload) - 4
    return masked[:1] + bytes([masked[1] & 127]) + masked[2:head] + payload


@pytest.mark.parametrize("largest", [1, 3, 9, 5000, 200_000])
def test_any_cut_gives_the_parser_the_same_bytes(largest: int) -> None:
    rng = random.Random(largest)
    sizes = [0, 1, 125, 126, 127, 65535, 65536, 0, *(rng.randrange(300) for _ in range(20))]
    good = b"".join(frame(rng.choice([0, 1, 2, 9]), rng.randbytes(size).replace(b"\xf0", b"x")) for size in sizes)
    for bad in (b"", unmasked(9, b""), unmasked(2, bytes(200)), unmasked(2, bytes(70_000))):
        parser = Parser()
        frames, data, at = MaskedFrames(parser), good + bad, 0
        while at < len(data) and not parser.data.endswith(b"\xf0\x80"):
            size = rng.randint(1, largest)
            frames.feed_data(data[at : at + size])
            at += size
        assert parser.data == good + b"\xf0\x80" * bool(bad)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder: Path = tmp_path_factory.mktemp("masks")
    with ServerProcess(save_archive(folder / "model.zip")) as started:
        yield started


@pytest.mark.parametrize(
    "data", [unmasked(1, b'{"signal":"start"}'), START + unmasked(2, bytes(200)), START + unmasked(9, b"")]
)
def test_an_unmasked_frame_ends_the_connection(server: ServerProcess, data: bytes) -> None:
    async def run() -> bytes:
        loop, raw, found = asyncio.get_running_loop(), await raw_socket(server), b""
        with raw:
            await loop.sock_sendall(raw, data)
            while piece := await asyncio.wait_for(loop.sock_recv(raw, 4096), PATIENCE):
                found += piece
        return found

    found = asyncio.run(run())
    assert b"a frame breaks the rules of WebSockets" in found
    assert (1002).to_bytes(2, "big") + b"Wrong protocol" in found  # the close frame
