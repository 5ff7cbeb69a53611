"""The examples of docs/protocols.md run: the official client, Pipecat and LiveKit agents, where they are installed."""

import asyncio
import importlib.util
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from conftest import absent
from support.runtime.fake_model import SAMPLE_RATE, speak
from support.runtime.realtime_client import RATE, silence, spoken
from support.runtime.server_process import PATIENCE, ServerProcess, pcm

GUIDE = Path(__file__).parents[3] / "docs" / "protocols.md"
ADDRESS = "127.0.0.1:10086"


def example(server: ServerProcess, package: str, begins: str, **replaced: str) -> dict[str, Any]:
    """Run the example that begins with a line; return its variables. Skip without the package that it needs."""
    try:
        found = importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:  # the package that contains it
        found = False
    if not found:
        absent(f"{package} is not installed", "WENET_FUSION_REQUIRE_AGENTS")
    blocks = re.findall(r"```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)
    (source,) = [block for block in blocks if block.startswith(f"{begins}\n")]
    for old, new in {ADDRESS: f"127.0.0.1:{server.port}", **replaced}.items():
        source = source.replace(old, new)
    variables: dict[str, Any] = {}
    exec(compile(source, str(GUIDE), "exec"), variables)
    return variables


@pytest.mark.parametrize("begins", ["from openai import OpenAI", "import asyncio, base64, soundfile"])
def test_the_official_client(
    server: ServerProcess, begins: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    soundfile.write(tmp_path / "a.wav", speak("abcd"), SAMPLE_RATE)
    example(server, "openai", begins, **{"meeting.wav": str(tmp_path / "a.wav")})
    assert capsys.readouterr().out.split() == ["a", "b", "c", "d"]


def pieces() -> list[bytes]:
    """Two turns, in pieces of 50 ms."""
    samples = np.concatenate([spoken("ab" * 4), silence(1.5), spoken("bc" * 4), silence(1.5)])
    return [pcm(samples[start : start + RATE // 20]).tobytes() for start in range(0, len(samples), RATE // 20)]


def check_turns(interim: list[str], final: list[str]) -> None:
    assert len(final) == 2 and final[0].startswith("a b a b") and "c" in final[1], final
    assert interim and all(part and any(part in text for text in final) for part in map(str.strip, interim))


def test_pipecat(server: ServerProcess) -> None:
    begins = "from pipecat.services.openai.stt import OpenAIRealtimeSTTService"
    stt = example(server, "pipecat", begins)["stt"]
    from pipecat.frames import frames
    from pipecat.observers.base_observer import BaseObserver
    from pipecat.pipeline.worker import PipelineParams
    from pipecat.tests.utils import SleepFrame, run_test

    final: dict[int, str] = {}  # by the id of the frame, because a frame passes several processors

    class Observer(BaseObserver):
        async def on_push_frame(self, data: Any) -> None:
            if isinstance(data.frame, frames.TranscriptionFrame):
                final[data.frame.id] = data.frame.text

    def sent() -> Iterator[Any]:
        while not stt._session_ready:
            yield SleepFrame(sleep=0.05)
        for piece in pieces():
            yield frames.InputAudioRawFrame(audio=piece, sample_rate=RATE, num_channels=1)
        while len(final) < 2:
            yield SleepFrame(sleep=0.05)

    async def run() -> Sequence[Any]:
        params = PipelineParams(audio_in_sample_rate=RATE)
        options = {"observers": [Observer()], "pipeline_params": params, "start_timeout": PATIENCE}
        down, _ = await asyncio.wait_for(run_test(stt, frames_to_send=sent(), **options), PATIENCE)
        return down

    down = asyncio.run(run())
    interim = [frame.text for frame in down if isinstance(frame, frames.InterimTranscriptionFrame)]
    check_turns(interim, list(final.values()))
    kinds = (frames.ProposedUserStartedSpeakingFrame, frames.ProposedUserStoppedSpeakingFrame)
    assert [type(frame) for frame in down if isinstance(frame, kinds)] == [*kinds, *kinds]


def test_livekit(server: ServerProcess) -> None:
    stt = example(server, "livekit.plugins.openai", "from livekit.plugins import openai")["stt"]
    from livekit import rtc
    from livekit.agents import stt as speech
    from livekit.agents.utils import http_context

    async def run() -> list[Any]:
        events: list[Any] = []
        async with http_context.open(), stt.stream() as stream:
            for piece in pieces():
                stream.push_frame(rtc.AudioFrame(piece, RATE, 1, len(piece) // 2))
            async for event in stream:
                events.append(event)
                if len([one for one in events if one.type is speech.SpeechEventType.FINAL_TRANSCRIPT]) == 2:
                    break
        await stt.aclose()
        return events

    events = asyncio.run(asyncio.wait_for(run(), PATIENCE))
    kind = speech.SpeechEventType

    def texts(wanted: Any) -> list[str]:
        return [event.alternatives[0].text for event in events if event.type is wanted]

    check_turns(texts(kind.INTERIM_TRANSCRIPT), texts(kind.FINAL_TRANSCRIPT))
    turns = [event.type for event in events if event.type in (kind.START_OF_SPEECH, kind.END_OF_SPEECH)]
    assert turns == [kind.START_OF_SPEECH, kind.END_OF_SPEECH] * 2
