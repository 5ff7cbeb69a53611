"""Where a server listens: addresses, shared ports, TLS. Knows no HTTP."""

from __future__ import annotations

import os
import socket
import ssl
from dataclasses import dataclass
from pathlib import Path

SEND_BUFFER_BYTES = 64 * 1024  # of the system for each client, so that one who takes nothing is noticed soon


@dataclass(frozen=True)
class Listening:
    """Where a server listens.

    Raises:
        ValueError: values contradict each other.
    """

    host: str = "127.0.0.1"
    port: int = 10086  # 0: any that is free
    reuse_port: bool = False  # share it with other processes that say so too
    certificate: Path | None = None  # of TLS, a PEM file with all of its chain
    key: Path | None = None  # its private key, if it is not in the same file
    drain_seconds: float = 30.0  # that open sessions get when the server is told to stop

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise ValueError(f"the port must be 0 to 65535, found {self.port}")
        if self.key is not None and self.certificate is None:
            raise ValueError("a private key needs its certificate; give both")
        if self.drain_seconds < 0:
            raise ValueError(f"drain_seconds must not be negative, found {self.drain_seconds:g}")


def bind(listening: Listening) -> list[socket.socket]:
    """Sockets that have the port and do not listen yet, one for each address of the host's name.

    Raises:
        OSError: an address cannot be had.
        ValueError: the system cannot share ports.
    """
    if listening.reuse_port and not hasattr(socket, "SO_REUSEPORT"):
        raise ValueError(
            "this system cannot share a port between processes; leave out --reuse_port, give each process a "
            "port and put a balancer in front"
        )
    where = f"{listening.host}:{listening.port}"
    try:
        found = socket.getaddrinfo(listening.host, listening.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except socket.gaierror as error:
        raise OSError(f"{listening.host}: is no address of this computer ({error.strerror})") from None
    sockets: list[socket.socket] = []
    try:
        for family, kind, protocol, _, address in dict.fromkeys(found):
            if listening.port == 0 and sockets:  # the same free port for all addresses
                address = (address[0], sockets[0].getsockname()[1], *address[2:])
            sockets.append(_bind(socket.socket(family, kind, protocol), address, listening.reuse_port))
    except OSError as error:
        for opened in sockets:
            opened.close()
        raise OSError(f"{where}: cannot be listened on ({error.strerror}); choose another --port or --host") from None
    return sockets


def _bind(opened: socket.socket, address: tuple, reuse_port: bool) -> socket.socket:
    try:
        if os.name == "posix":  # on Windows the option lets two programs take one port
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if opened.family == socket.AF_INET6:
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)  # IPv4 has a socket of its own
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)  # accepted ones inherit it
        opened.bind(address)
        opened.setblocking(False)
    except OSError:
        opened.close()
        raise
    return opened


def tls_context(listening: Listening) -> ssl.SSLContext | None:
    """TLS, if there is a certificate.

    Raises:
        OSError, ValueError: the files cannot be used.
    """
    if listening.certificate is None:
        return None
    for path in filter(None, (listening.certificate, listening.key)):
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(listening.certificate, listening.key, password=lambda: "")
    except (ssl.SSLError, ValueError) as error:
        raise ValueError(
            f"{listening.certificate}: is no PEM certificate with its private key, without a password ({error})"
        ) from None
    return context


def url(opened: socket.socket, is_tls: bool) -> str:
    """The address of a bound socket, as a browser wants it."""
    host, port = opened.getsockname()[:2]
    return f"http{'s' * is_tls}://{f'[{host}]' if ':' in host else host}:{port}/"
