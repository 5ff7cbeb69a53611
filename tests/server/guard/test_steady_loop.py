"""The event loop's clock."""

import asyncio
import time

import pytest
from support.runtime.server_process import PATIENCE
from wenet_fusion_runtime.server.guard import steady_loop
from wenet_fusion_runtime.server.guard.steady_loop import run_steadily


def test_a_clock_that_stood_still_ends_no_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process is suspended for 100 s of the system's clock."""
    away, clock = [0.0], asyncio.SelectorEventLoop.time
    monkeypatch.setattr(asyncio.SelectorEventLoop, "time", lambda self: clock(self) + away[0])
    ended: list[bool] = []

    async def run() -> None:
        event, loop = asyncio.Event(), asyncio.get_running_loop()
        waiting = asyncio.ensure_future(asyncio.wait_for(event.wait(), 20))
        begun = loop.time()
        await asyncio.sleep(0)
        away[0] = 100.0
        await asyncio.sleep(0.01)
        assert not waiting.done() and loop.time() - begun < 20
        event.set()
        ended.append(await waiting)

    run_steadily(run())
    assert ended == [True]


def test_time_goes_on_while_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    """A long wait of the event loop does not count as a suspension."""
    monkeypatch.setattr(steady_loop, "STAND_STILL", 0.2)
    monkeypatch.setattr(steady_loop, "TICK_SECONDS", 0.02)
    before = time.monotonic()
    run_steadily(asyncio.sleep(0.5))
    assert 0.4 < time.monotonic() - before < PATIENCE
