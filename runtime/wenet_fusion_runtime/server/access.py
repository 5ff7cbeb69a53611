"""Who may use a server: tokens and browser origins. Knows no sockets."""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from urllib.parse import urlsplit

_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True)
class Access:
    """What a request must show.

    Raises:
        ValueError: an origin is none.
    """

    token: str | None = None  # None: everybody may come
    origins: tuple[str, ...] = ()  # web pages of these may come too, "*": of all; "https://example.org"

    def __post_init__(self) -> None:
        for origin in self.origins:
            if origin != "*" and _parse(origin) is None:
                raise ValueError(f"'{origin}' is no origin, expected one like https://example.org or http://host:8000")
        if self.token is not None and (not self.token.isascii() or len(self.token.split()) != 1):
            raise ValueError("the token must be a word of ASCII characters without spaces")

    def allows_token(self, authorization: str | None, query: str | None) -> bool:
        """Whether a request may come with this header `Authorization` or this `token` of its query."""
        if self.token is None:
            return True
        scheme, _, given = (authorization or "").partition(" ")
        given = given.strip() if scheme.lower() == "bearer" else query or ""
        return hmac.compare_digest(given.encode("utf-8", "replace"), self.token.encode())

    def allows_origin(self, origin: str | None, host: str | None) -> bool:
        """Whether a request may come with these headers `Origin` and `Host`. Only browsers send the first one.

        A page of the server itself has its name and port in both. The scheme is not compared: a proxy in front of the
        server may be the one that speaks https.
        """
        if origin is None or "*" in self.origins:
            return True
        parsed = _parse(origin)
        if parsed is None:  # "null": sandboxed pages, files
            return False
        own = _parse(f"{urlsplit(origin).scheme}://{host}")
        return parsed == own or parsed in [_parse(allowed) for allowed in self.origins]


def _parse(origin: str) -> tuple[str, int] | None:
    """Name and port of an origin, None if it is none."""
    try:
        parts = urlsplit(origin)
        if parts.scheme not in _PORTS or not parts.hostname or parts.path.strip("/") or parts.query or parts.username:
            return None
        return parts.hostname, parts.port or _PORTS[parts.scheme]
    except ValueError:
        return None
