"""Limits of a server: sessions, sizes and times."""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Limits:
    """Limits for clients; the server ends a request or session that exceeds one, with a reason.

    Raises:
        ValueError: a value is not positive.

    >>> Limits(sessions=10).sockets, Limits(sessions=10).sessions_of_one_address
    (168, 5)
    >>> Limits(idle_seconds=0)
    Traceback (most recent call last):
    ValueError: idle_seconds must be positive, found 0
    """

    sessions: int = 100  # open at once, uploads included
    message_bytes: int = 2 * 1024 * 1024  # size of a WebSocket message
    upload_bytes: int = 100 * 1024 * 1024  # size of an audio file
    upload_seconds: float = 300.0  # time from the first to the last byte of an upload
    audio_seconds: float = 4 * 3600.0  # audio per session or upload
    start_seconds: float = 5.0  # time from the connection to the start signal, or to the end of the request's header
    idle_seconds: float = 60.0  # time in which a client must send at least 1 % of real time
    send_seconds: float = 10.0  # time in which a client must read a message
    progress_seconds: float = 120.0  # time in which decoding and recognition of an upload must make progress
    address_sessions: int | None = None  # open at once for one address, uploads included; None: half of `sessions`
    decoders: int | None = None  # processes of uploads that decode at once; None: one per core
    frames_per_second: float = 500.0  # WebSocket frames, or HTTP requests, of one connection; further ones wait
    bytes_per_second: float = 16.0 * 1024 * 1024  # of one connection; further ones wait

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None and not value > 0:
                raise ValueError(f"{field.name} must be positive, found {value:g}")

    @property
    def sessions_of_one_address(self) -> int:
        """Open sessions of one address."""
        return self.address_sessions or (self.sessions + 1) // 2

    @property
    def connections(self) -> int:
        """Smallest number of connections that a server needs."""
        return 2 * self.sessions + 32

    @property
    def sockets(self) -> int:
        """Open connections of any kind, those before their first request included."""
        return 2 * self.connections + 64
