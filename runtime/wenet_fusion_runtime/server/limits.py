"""Limits of a server: sessions, sizes and times."""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Limits:
    """Limits for clients. What exceeds a limit is refused, or ended (usually with a reason); excess data wait.

    Raises:
        ValueError: a value is not positive.

    >>> Limits(sessions=10).sockets, Limits(sessions=10).sessions_of_one_address
    (168, 5)
    >>> Limits(idle_seconds=0)
    Traceback (most recent call last):
    ValueError: idle_seconds must be positive, found 0
    """

    sessions: int = 100  # open sessions, uploads included
    message_bytes: int = 2 * 1024 * 1024  # size of a WebSocket message
    upload_bytes: int = 100 * 1024 * 1024  # size of an audio file
    upload_seconds: float = 300.0  # time from the first to the last byte of an upload
    audio_seconds: float = 4 * 3600.0  # length of the audio per session or upload
    start_seconds: float = 5.0  # time from the connection to the start signal, or to the end of the request's header
    idle_seconds: float = 60.0  # a session ends if less audio than 1 % of this time arrives within this time
    send_seconds: float = 10.0  # longest time that a client may take to read a message
    progress_seconds: float = 120.0  # longest time without progress in decoding or recognising an upload
    address_sessions: int | None = None  # open sessions of one address; None: half of `sessions`
    decoders: int | None = None  # uploads whose decoders compute at the same time; None: one per core
    frames_per_second: float = 500.0  # WebSocket frames or HTTP requests of one connection; the excess waits
    bytes_per_second: float = 16.0 * 1024 * 1024  # bytes of one connection; the excess waits

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None and not value > 0:
                raise ValueError(f"{field.name} must be positive, found {value:g}")

    @property
    def sessions_of_one_address(self) -> int:
        """Largest number of open sessions of one address, uploads included."""
        return self.address_sessions or (self.sessions + 1) // 2

    @property
    def connections(self) -> int:
        """Smallest number of connections that the system must allow for the server to start."""
        return 2 * self.sessions + 32

    @property
    def sockets(self) -> int:
        """Largest number of open connections, including connections without a request so far."""
        return 2 * self.connections + 64
