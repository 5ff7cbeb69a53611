"""Deadlines: a cancellation is never lost."""

import asyncio

import pytest
from support.runtime.server_process import PATIENCE
from wenet_fusion_runtime.server.guard.deadline import within


def test_a_cancellation_in_the_turn_of_the_result_arrives() -> None:
    """E.g. a client hangs up in the iteration of the event loop in which the last byte of its upload arrives."""

    async def run() -> None:
        last_byte = asyncio.get_running_loop().create_future()
        task = asyncio.ensure_future(within(last_byte, PATIENCE))
        await asyncio.sleep(0.01)
        last_byte.set_result(None)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(run())


def test_what_is_late_or_cancelled_is_ended() -> None:
    ended: list[str] = []

    async def slow() -> None:
        try:
            await asyncio.sleep(PATIENCE)
        finally:
            ended.append("slow")

    async def run() -> None:
        with pytest.raises(asyncio.TimeoutError):
            await within(slow(), 0.01)
        task = asyncio.ensure_future(within(slow(), PATIENCE))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        with pytest.raises(KeyError):
            await within(fails(), PATIENCE)

    async def fails() -> None:
        raise KeyError

    asyncio.run(run())
    assert ended == ["slow", "slow"]
