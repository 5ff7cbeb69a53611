"""Hot words that change while a recording is sent: a lost session passes its changes to the next one."""

import asyncio
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from aiohttp import WSMessage, WSMsgType
from test_outages import PATIENCE, numbered
from test_reconnecting import OPTIONS, RATE, SECOND, CountingServer, counted, running
from wenet_fusion_runtime import HotWord
from wenet_fusion_runtime.server.session_options import MAX_TEXT, HotWordUpdate
from wenet_fusion_runtime.server.websocket import client_session, websocket_client
from wenet_fusion_runtime.server.websocket.client_session import ServerResult
from wenet_fusion_runtime.server.websocket.kept_audio import KeptAudio, Recording
from wenet_fusion_runtime.server.websocket.websocket_client import ServerAddress, recognise


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(websocket_client, "_FIRST_WAIT", 0.01)
    monkeypatch.setattr(client_session, "UPDATE_SECONDS", 0.01)


@pytest.mark.parametrize("is_late", [False, True])  # late: the connection is lost while `changed` runs
def test_hot_words_that_could_not_be_sent_are_kept_for_the_next_session(is_late: bool) -> None:
    found: list[Any] = []

    class Once:
        def __init__(self) -> None:
            self.is_told = False

        def changed(self) -> HotWordUpdate | None:
            if self.is_told:
                return None
            self.is_told = True
            is_looking.set()
            time.sleep(0.1 if is_late else 0)
            return HotWordUpdate((HotWord("ANNA", 2.0),), None)

        def refused(self, message: str) -> None:
            raise AssertionError(message)

    class Broken:
        """A socket that fails at the first text after the start signal."""

        close_code = 1006

        def __init__(self) -> None:
            self.is_started = False

        async def send_str(self, text: str) -> None:
            if self.is_started:
                raise ConnectionResetError("closing")
            self.is_started = True

        async def send_bytes(self, data: bytes) -> None:
            pass

        async def receive(self) -> Any:
            if not hasattr(self, "ready"):
                self.ready = True
                return WSMessage(WSMsgType.TEXT, '{"status":"ok","type":"server_ready"}', None)
            await asyncio.to_thread(is_looking.wait, PATIENCE)
            await asyncio.sleep(0 if is_late else 0.1)
            return WSMessage(WSMsgType.CLOSED, None, None)

        def exception(self) -> None:
            return None

    def blocks() -> Iterator[np.ndarray]:
        yield np.zeros(RATE, np.float32)
        is_looking.wait(PATIENCE)
        time.sleep(0.3)

    is_looking = threading.Event()

    async def run() -> None:
        audio = KeptAudio(Recording(blocks()), RATE)
        socket: Any = Broken()
        session = client_session.ClientSession(
            socket, OPTIONS, audio, client_session.Timing(), lambda result: None, Once()
        )
        with pytest.raises(client_session.ConnectionLost):
            await session.run("{}", lambda: None)
        found.extend([*session.unanswered, session.options])
        await audio.end()

    asyncio.run(run())
    assert found == [HotWordUpdate((HotWord("ANNA", 2.0),), None), OPTIONS]


class Script:
    """Returns updates one after the other, and keeps the server's refusals."""

    def __init__(self, *updates: HotWordUpdate) -> None:
        self.updates, self.refusals = list(updates), list[str]()

    def changed(self) -> HotWordUpdate | None:
        return self.updates.pop(0) if self.updates else None

    def refused(self, message: str) -> None:
        self.refusals.append(message)


def followed(server: CountingServer, script: Script) -> dict[str, int]:
    """Send 3 s in pieces while the script makes updates; return the counts in the final texts."""
    finals = list[ServerResult]()

    def slowly() -> Iterator[np.ndarray]:
        for piece in np.split(numbered(3), 12):
            time.sleep(0.03)
            yield piece

    async def run() -> None:
        async with running(server) as url:
            await recognise(ServerAddress(url), Recording(slowly()), OPTIONS, finals.append, updates=script)

    asyncio.run(run())
    return counted([final.text for final in finals if final.text])


def test_refused_hot_words_do_not_end_the_recording() -> None:
    """A new session must not begin with the refused hot words, because the server would refuse the session too."""
    server = CountingServer([2 * SECOND])
    server.unspellable = "x"
    script = Script(HotWordUpdate((HotWord("ANNA", 2.0),), None), HotWordUpdate((HotWord("x"),), "Anna"))
    assert followed(server, script) == {f"{second}": SECOND for second in range(3)}
    assert server.sessions == 2 and script.refusals == ["cannot be used"]
    assert server.starts[1]["hot_words"] == [{"phrase": "ANNA", "boost": 2.0}] and "context" not in server.starts[1]


def test_changes_that_a_lost_session_did_not_answer_reach_the_next_one_before_its_audio() -> None:
    update = HotWordUpdate((HotWord("ANNA", 2.0),), None)
    server, finals = CountingServer([]), list[ServerResult]()

    async def run() -> None:
        async with running(server) as url, websocket_client._connected(ServerAddress(url), 5.0) as socket:
            audio = KeptAudio(Recording(iter([numbered(1)])), RATE)
            session = client_session.ClientSession(
                socket, OPTIONS, audio, client_session.Timing(), finals.append, unanswered=[update]
            )
            await session.run(client_session.protocol.start_signal(OPTIONS), lambda: None)
            assert not session.unanswered and session.options.hot_words == update.hot_words
            await audio.end()

    asyncio.run(run())
    assert [each["hot_words"] for each in server.updates] == [[{"phrase": "ANNA", "boost": 2.0}]]
    assert server.samples_before_update == 0 and counted([final.text for final in finals]) == {"0": SECOND}


def test_hot_words_that_are_too_long_for_a_session_are_not_sent() -> None:
    """The server would end the session, because it does not parse a text message of that length."""
    server, script = CountingServer([]), Script(HotWordUpdate(None, "Anna " * (MAX_TEXT // 5)))
    assert followed(server, script) == {f"{second}": SECOND for second in range(3)}
    (refusal,) = script.refusals
    assert server.updates == [] and f"and a session takes {MAX_TEXT}" in refusal
