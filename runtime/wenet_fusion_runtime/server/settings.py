"""Settings of a server. This module does not import the server's extra packages."""

from __future__ import annotations

from dataclasses import dataclass, replace

from wenet_fusion_runtime.engine.engine import EngineOptions
from wenet_fusion_runtime.server.access import Access
from wenet_fusion_runtime.server.bind import BindOptions
from wenet_fusion_runtime.server.guard.addresses import Proxies
from wenet_fusion_runtime.server.limits import Limits
from wenet_fusion_runtime.stream.decoding_options import LIVE_OPTIONS
from wenet_fusion_runtime.stream.endpoints import LONGEST_SECONDS

# Without continuous decoding, silence before any text ends a session; WeNet's server waits 5 s for the first word.
SERVER_OPTIONS = replace(LIVE_OPTIONS, endpoint=replace(LIVE_OPTIONS.endpoint, rule1_seconds=5.0))


@dataclass(frozen=True)
class ChunkChoice:
    """Chunk size and left context of sessions that do not choose them.

    >>> ChunkChoice(chunk=16).allow_untrained
    False
    """

    chunk: int | None = None  # encoder frames; None: the model's default
    left: int | None = None  # chunks; None: the largest number used in training
    allow_untrained: bool = False  # also accept sizes that the model was not trained with, for all sessions


@dataclass(frozen=True)
class ModelTitle:
    """The model's name and a sentence to try, as clients see them.

    >>> ModelTitle("final.zip").example
    ''
    """

    name: str
    example: str = ""  # a sentence that the page suggests to say; empty: none


@dataclass(frozen=True)
class Settings:
    """All settings of a server except its recognizer.

    Raises:
        ValueError: `drain_seconds` is negative.

    >>> Settings(BindOptions(port=0), Limits(sessions=10)).limits.sessions
    10
    """

    bind: BindOptions = BindOptions()
    limits: Limits = Limits()
    access: Access = Access()
    proxies: Proxies = Proxies()
    chunks: ChunkChoice = ChunkChoice()
    engine: EngineOptions = EngineOptions()  # limits.sessions replaces its max_sessions
    drain_seconds: float = 30.0  # time for open sessions to finish after SIGTERM, SIGHUP or SIGINT

    def __post_init__(self) -> None:
        if not 0 <= self.drain_seconds <= LONGEST_SECONDS:
            raise ValueError(f"drain_seconds must be 0 to {LONGEST_SECONDS:g}, found {self.drain_seconds:g}")
