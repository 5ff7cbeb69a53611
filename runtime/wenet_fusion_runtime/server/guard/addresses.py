"""Find the addresses of clients behind trusted proxies, and count the open sessions of each address."""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from wenet_fusion_runtime.server.errors import limit_reached
from wenet_fusion_runtime.server.guard.fair_protocol import Seat

LOCAL = ("127.0.0.1", "::1")  # addresses of proxies on the server's own computer
_IPV6_NETWORK = 64  # bits of a network prefix; one customer usually has all addresses of such a network

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True)
class Proxies:
    """Proxies whose header `X-Forwarded-For` is trusted.

    Args:
        networks: addresses of proxies, or networks such as 10.0.0.0/8.
    Raises:
        ValueError: an entry is neither an address nor a network.

    >>> proxies = Proxies(("127.0.0.1", "10.0.0.0/8"))
    >>> proxies.client("127.0.0.1", ["192.0.2.7, 203.0.113.9, 10.1.2.3"])
    '203.0.113.9'
    >>> proxies.client("192.0.2.1", ["203.0.113.9"])
    '192.0.2.1'
    """

    networks: tuple[str, ...] = LOCAL

    def __post_init__(self) -> None:
        for text in self.networks:
            try:
                ipaddress.ip_network(text)
            except ValueError:
                raise ValueError(
                    f"'{text}' is not the address of a proxy, expected one such as 192.0.2.1 or a network such as "
                    "10.0.0.0/8"
                ) from None

    def client(self, peer: str, forwarded: Sequence[str]) -> str:
        """Return the address of a client.

        Args:
            peer: address of the other end of the connection.
            forwarded: the headers `X-Forwarded-For`. They are read from the right, because each proxy appends the
                address of its client; entries that the client has forged are further left.
        """
        found = peer
        hops = [hop for header in forwarded for hop in header.split(",")]
        while hops and self.is_trusted(found):
            address = _parse(hops.pop())
            if address is None:
                break
            found = str(address)
        return found

    def is_trusted(self, address: str) -> bool:
        """Return whether an address belongs to a trusted proxy."""
        parsed = _parse(address)
        return parsed is not None and any(parsed in ipaddress.ip_network(network) for network in self.networks)


def group(address: str) -> str:
    """Return the part of an address that identifies a client: all of an IPv4 address, the /64 network of IPv6.

    >>> group("192.0.2.7"), group("2001:db8::1:2")
    ('192.0.2.7', '2001:db8::/64')
    """
    parsed = _parse(address)
    if isinstance(parsed, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((parsed, _IPV6_NETWORK), strict=False))
    return address if parsed is None else str(parsed)


def _parse(text: str) -> _Address | None:
    text = text.strip().strip('"')
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:  # IPv4 with a port
        text = text.partition(":")[0]
    try:
        parsed = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    return mapped or parsed


@dataclass(frozen=True)
class Visitor:
    """A client as the limits see it.

    >>> Visitor().address
    ''
    """

    address: str = ""  # result of `group`; "": the client has no limit of its own
    seat: Seat | None = None  # None: the connection has no seat, e.g. in a test


class Sessions:
    """Counts the sessions and uploads of each address.

    Args:
        limit: largest number of sessions and uploads of one address.

    >>> sessions = Sessions(limit=1)
    >>> with sessions.open(Visitor("192.0.2.7")), sessions.open(Visitor("192.0.2.8")):
    ...     print("both are served")
    both are served
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._open: Counter[str] = Counter()

    @contextmanager
    def open(self, visitor: Visitor) -> Iterator[None]:
        """Reserve a place for a session within the block, and mark the visitor's connection as busy.

        Raises:
            ClientError: the address has too many sessions.
        """
        address, seat = visitor.address, visitor.seat
        if address and self._open[address] >= self._limit:
            raise limit_reached(
                f"the limit of {self._limit} sessions of one address is reached (behind a proxy, name it with "
                "--trusted_proxies)"
            )
        self._open[address] += 1
        if seat is not None:
            seat.is_busy = True
        try:
            yield
        finally:
            self._open[address] -= 1
            if not self._open[address]:
                del self._open[address]
            if seat is not None:
                seat.is_busy = False
