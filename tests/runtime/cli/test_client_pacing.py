"""The command `client` sends recordings in real time unless --fast is given; streams get the requested chunks."""

import argparse
import contextlib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from support.runtime.fake_model import make_model
from wenet_fusion_runtime.cli import client
from wenet_fusion_runtime.cli.__main__ import main
from wenet_fusion_runtime.cli.recognition_arguments import create_stream
from wenet_fusion_runtime.server.websocket import websocket_client
from wenet_fusion_runtime.stream.recognizer import Recognizer


@pytest.mark.parametrize("flags, is_live, expected", [([], False, True), (["--fast"], False, False), ([], True, False)])
def test_pacing(flags: list[str], is_live: bool, expected: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[Any] = []

    async def recognise(server: Any, recording: Any, *rest: Any) -> Any:
        found.append((recording.is_paced, recording.is_live))
        return SimpleNamespace(audio=1.0, delays=[], ending=0.0)

    @contextlib.contextmanager
    def opened(name: str, options: argparse.Namespace) -> Iterator[Any]:
        yield client._Recording(16000, iter([np.zeros(10, np.float32)]), is_live)

    monkeypatch.setattr(websocket_client, "recognise", recognise)
    monkeypatch.setattr(client, "_opened", opened)
    assert main(["client", "localhost:1", str(Path("a.wav")), *flags]) == 0
    assert found == [(expected, is_live)]


def test_streams_have_the_chunk_and_the_left_context_of_the_arguments() -> None:
    recognizer = Recognizer(make_model())
    stream = create_stream(recognizer, argparse.Namespace(chunk=5, left=1, allow_untrained=True))
    assert (stream.chunk, stream.left) == (5, 1)
