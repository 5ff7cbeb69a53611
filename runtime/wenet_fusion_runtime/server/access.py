"""Access control: the token, the origins of browser pages, and the host names that clients may use for the server."""

from __future__ import annotations

import hmac
import ipaddress
from dataclasses import dataclass
from urllib.parse import urlsplit

_PORTS = {"http": 80, "https": 443}
# Pages within apps and browser extensions have origins with these schemes, e.g. tauri://localhost. The framework of the
# app, or the browser, chooses the scheme.
_APP_SCHEMES = ("tauri", "capacitor", "ionic", "chrome-extension", "moz-extension", "safari-web-extension")
_NO_ORIGIN = "null"  # origin of sandboxed pages, of files and of some apps


def check_token(token: str) -> None:
    """Check that a header of HTTP can hold a token.

    Raises:
        ValueError: the token is empty, or has spaces (even at its ends), control or non-ASCII characters.

    >>> check_token("3f9c")
    """
    if not (token.isascii() and token.isprintable() and token.split() == [token]):
        raise ValueError(
            "the token must consist of ASCII characters without spaces and control characters: remove them, or choose "
            "another token"
        )


@dataclass(frozen=True)
class Access:
    """The token, origins and host names that a server accepts.

    Raises:
        ValueError: the token is empty, or has spaces (even at its ends) or non-ASCII characters; or an origin or a host
            name is invalid.

    >>> access = Access(token="s3cret", origins=("https://example.org",))
    >>> access.allows_token("Bearer s3cret", query=None), access.allows_token(None, query="wrong")
    (True, False)
    >>> access.allows_origin("https://example.org", host="speech.example.org")
    True
    >>> access.allows_host("127.0.0.1:10086"), access.allows_host("evil.example")
    (True, False)
    """

    token: str | None = None  # None: no token is needed
    origins: tuple[str, ...] = ()  # origins of other pages and apps, e.g. "https://example.org"; "*": all
    hosts: tuple[str, ...] = ()  # names of the server, e.g. "speech.example.org"; "*": any

    def __post_init__(self) -> None:
        for origin in self.origins:
            if origin not in ("*", _NO_ORIGIN) and _parse(origin) is None and _app(origin) is None:
                raise ValueError(
                    f"'{origin}' is not an origin, expected one such as https://example.org or http://host:8000, of "
                    f"an app such as tauri://localhost (schemes {', '.join(_APP_SCHEMES)}), or null"
                )
        for host in self.hosts:
            if host != "*" and _hostname(host) != host.lower():
                raise ValueError(f"'{host}' is not the name of a host, expected one such as speech.example.org")
        if self.token is not None:
            check_token(self.token)

    def allows_token(self, authorization: str | None, query: str | None) -> bool:
        """Return whether a request contains the token, or no token is needed.

        Args:
            authorization: header `Authorization` of the request.
            query: the token of a WebSocket's subprotocol, or else the parameter `token` of the request's query; used if
                the header has no bearer token.
        """
        if self.token is None:
            return True
        scheme, _, given = (authorization or "").partition(" ")
        given = given.strip() if scheme.lower() == "bearer" else query or ""
        return hmac.compare_digest(given.encode("utf-8", "replace"), self.token.encode())

    def allows_host(self, host: str | None) -> bool:
        """Return whether clients may use a host name for the server.

        A page can make its own host name resolve to the server's address (DNS rebinding). The header `Host` then has
        the page's host name. Addresses, names without a dot and names that end in .localhost are accepted: the DNS of
        the Internet resolves none of them.

        Args:
            host: header `Host` of the request; None if it has none (browsers always send one).
        """
        if host is None or "*" in self.hosts:
            return True
        name = _hostname(host)
        if not name:
            return False
        if "." not in name or name.endswith(".localhost") or name in map(str.lower, self.hosts):
            return True
        try:
            return bool(ipaddress.ip_address(name))
        except ValueError:
            return False

    def allows_origin(self, origin: str | None, host: str | None) -> bool:
        """Return whether a page may use the server.

        A request from the server's own page has the same host and port in `Origin` and `Host`. Schemes are not
        compared, because a proxy may speak https in front of a server that speaks http.

        Args:
            origin: header `Origin` of the request; only browsers send it.
            host: header `Host` of the request.
        """
        if origin is None or "*" in self.origins:
            return True
        parsed = _parse(origin)
        if parsed is None:  # not a web page
            app = _NO_ORIGIN if origin == _NO_ORIGIN else _app(origin)
            return app is not None and app in [_app(allowed) or allowed for allowed in self.origins]
        own = _parse(f"{urlsplit(origin).scheme}://{host}")
        return parsed == own or parsed in [_parse(allowed) for allowed in self.origins]


def _hostname(host: str) -> str | None:
    """Return the name in a header `Host` in lower case, without its port; None if it is invalid."""
    try:
        parts = urlsplit(f"//{host}")
        return None if parts.path or parts.query or parts.username else (parts.hostname or "").rstrip(".")
    except ValueError:
        return None


def _parse(origin: str) -> tuple[str, int] | None:
    """Return host and port of an origin; None if it is invalid."""
    try:
        parts = urlsplit(origin)
        if parts.scheme not in _PORTS or not parts.hostname or parts.path.strip("/") or parts.query or parts.username:
            return None
        return parts.hostname, parts.port or _PORTS[parts.scheme]
    except ValueError:
        return None


def _app(origin: str) -> str | None:
    """Return an origin in lower case if it belongs to an app, else None."""
    scheme, _, host = origin.lower().partition("://")
    return f"{scheme}://{host}" if scheme in _APP_SCHEMES and _hostname(host) and "@" not in host else None
