"""What a server allows its clients. Knows no sockets."""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Limits:
    """What is refused, or ended, with a reason.

    Raises:
        ValueError: a value is not positive.
    """

    sessions: int = 100  # open ones, uploads included
    message_bytes: int = 2 * 1024 * 1024  # of one WebSocket message
    upload_bytes: int = 100 * 1024 * 1024  # of an audio file
    upload_seconds: float = 300.0  # from the first to the last byte of an upload
    audio_seconds: float = 4 * 3600.0  # of audio in one session or upload
    start_seconds: float = 10.0  # from the connection to the start signal, or to the end of a request's header
    idle_seconds: float = 60.0  # in which a client that should send brings hardly any audio
    send_seconds: float = 10.0  # until a client takes what is sent to it

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not value > 0:
                raise ValueError(f"{field.name} must be positive, found {value:g}")

    @property
    def connections(self) -> int:
        """WebSockets that may be open, those without a start signal included."""
        return 2 * self.sessions + 32

    @property
    def sockets(self) -> int:
        """Connections of all kinds that may be open, also those on which nothing was said yet."""
        return 2 * self.connections + 64
