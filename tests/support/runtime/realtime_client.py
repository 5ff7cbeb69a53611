"""OpenAI's official client of the realtime protocol, with a record of all events."""

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import soxr
from support.runtime.fake_model import SAMPLE_RATE, speak
from support.runtime.server_process import PATIENCE, ServerProcess, pcm

RATE = 24000  # Hz, the protocol's
DELTA, COMPLETED = (f"conversation.item.input_audio_transcription.{kind}" for kind in ("delta", "completed"))


def encoded(samples: np.ndarray) -> str:
    return base64.b64encode(pcm(samples).tobytes()).decode()


def spoken(text: str, rate: int = RATE) -> np.ndarray:
    return soxr.resample(speak(text), SAMPLE_RATE, rate, quality="VHQ").astype(np.float32)


def silence(seconds: float, rate: int = RATE) -> np.ndarray:
    return np.zeros(round(seconds * rate), np.float32)


class Realtime:
    """A connection of the official client that keeps every received event."""

    def __init__(self, connection: Any) -> None:
        self.connection = connection
        self.events: list[Any] = []

    async def append(self, samples: np.ndarray, piece: int = 4800) -> None:
        for start in range(0, len(samples), piece):
            await self.connection.input_audio_buffer.append(audio=encoded(samples[start : start + piece]))

    async def update(self, **audio_input: Any) -> None:
        session = {"type": "transcription", "audio": {"input": audio_input}}
        await self.connection.session.update(session=session)
        await self.until("session.updated")

    async def until(self, kind: str) -> Any:
        while True:
            event = await asyncio.wait_for(self.connection.recv(), PATIENCE)
            self.events.append(event)
            if event.type == kind:
                return event
            assert event.type != "error" or kind == "error", event

    def of(self, kind: str) -> list[Any]:
        return [event for event in self.events if event.type == kind]

    def deltas(self, item_id: str) -> str:
        return "".join(event.delta for event in self.of(DELTA) if event.item_id == item_id)


@asynccontextmanager
async def realtime(server: ServerProcess) -> AsyncIterator[Realtime]:
    import openai

    client = openai.AsyncOpenAI(api_key="s3cret", base_url=f"{server.url}v1", max_retries=0)
    async with client.realtime.connect(extra_query={"intent": "transcription"}) as connection:
        opened = Realtime(connection)
        await opened.until("session.created")
        yield opened
