"""All that a server can be told. Knows no sockets, and needs none of the server's packages."""

from __future__ import annotations

from dataclasses import dataclass

from wenet_fusion_runtime.engine.engine import EngineOptions
from wenet_fusion_runtime.server.access import Access
from wenet_fusion_runtime.server.bind import Listening
from wenet_fusion_runtime.server.limits import Limits


@dataclass(frozen=True)
class ChunkChoice:
    """Chunks of sessions that say nothing of them."""

    chunk: int | None = None  # encoder frames; None: the model's default
    left: int | None = None  # chunks; None: as in training
    allow_untrained: bool = False  # sessions may ask for chunks that the model was not trained for


@dataclass(frozen=True)
class Settings:
    """A server, but for its recognizer."""

    listening: Listening = Listening()
    limits: Limits = Limits()
    access: Access = Access()
    chunks: ChunkChoice = ChunkChoice()
    engine: EngineOptions = EngineOptions()  # but for max_sessions, which the limits say
