"""Bind the server's sockets and load its TLS certificate."""

from __future__ import annotations

import os
import socket
import ssl
from dataclasses import dataclass
from pathlib import Path

SEND_BUFFER_BYTES = 64 * 1024  # kernel's send buffer; small, so that a client that stops reading is noticed soon
_ALL_IPV6 = "::"
EARLY_CLIENTS = 16  # connections that may wait before the server accepts any


@dataclass(frozen=True)
class BindOptions:
    """Address, port and TLS certificate of a server.

    Raises:
        ValueError: the port is out of range, or there is a key without a certificate.

    >>> BindOptions(host="0.0.0.0", port=8080).reuse_port
    False
    >>> BindOptions(port=70000)
    Traceback (most recent call last):
    ValueError: the port must be 0 to 65535, found 70000
    """

    host: str = "127.0.0.1"  # "::": all addresses of IPv6 and IPv4
    port: int = 10086  # 0: any free port
    reuse_port: bool = False  # set SO_REUSEPORT
    certificate: Path | None = None  # PEM file with the certificate chain; None: no TLS
    key: Path | None = None  # PEM file with the private key; None: it is in the certificate's file

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise ValueError(f"the port must be 0 to 65535, found {self.port}")
        if self.key is not None and self.certificate is None:
            raise ValueError("a private key needs its certificate; give both")


def bind(options: BindOptions) -> list[socket.socket]:
    """Return bound sockets, one for each address of the host.

    The sockets listen already, because otherwise a second program could bind the same port; clients that connect now
    wait until the server accepts connections. Only the sockets of a shared port (`reuse_port`) do not listen yet.

    Raises:
        OSError: an address cannot be bound.
        ValueError: the system has no SO_REUSEPORT.
    """
    if options.reuse_port and not hasattr(socket, "SO_REUSEPORT"):
        raise ValueError(
            "this system has no SO_REUSEPORT; leave out --reuse_port, give each process its own port and put a load "
            "balancer in front"
        )
    where = f"{options.host}:{options.port}"
    hosts = (options.host, "0.0.0.0") if options.host == _ALL_IPV6 else (options.host,)
    found = []
    try:
        for host in hosts:
            found += socket.getaddrinfo(host, options.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except socket.gaierror as error:
        raise OSError(f"{options.host}: is not an address of this computer ({error.strerror})") from None
    sockets: list[socket.socket] = []
    try:
        for family, kind, protocol, _, address in dict.fromkeys(found):
            if options.port == 0 and sockets:  # the same free port for all addresses
                address = (address[0], sockets[0].getsockname()[1], *address[2:])
            sockets.append(_bind(socket.socket(family, kind, protocol), address, options.reuse_port))
    except OSError as error:
        for opened in sockets:
            opened.close()
        raise OSError(f"{where}: cannot be bound ({error.strerror}); choose another --port or --host") from None
    return sockets


def _bind(opened: socket.socket, address: tuple[object, ...], reuse_port: bool) -> socket.socket:
    try:
        if os.name == "posix":  # on Windows the option lets two programs take one port
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if opened.family == socket.AF_INET6:
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)  # IPv4 has its own socket
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)  # accepted sockets inherit it
        opened.bind(address)
        if not reuse_port:  # with a shared port, clients would wait here although another process could serve them
            opened.listen(EARLY_CLIENTS)
        opened.setblocking(False)
    except OSError:
        opened.close()
        raise
    return opened


def tls_context(options: BindOptions) -> ssl.SSLContext | None:
    """Load the TLS certificate; return None if there is none.

    Raises:
        OSError, ValueError: a file is missing or invalid.
    """
    if options.certificate is None:
        return None
    for path in filter(None, (options.certificate, options.key)):
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(options.certificate, options.key, password=lambda: "")
    except (ssl.SSLError, ValueError) as error:
        raise ValueError(
            f"{options.certificate}: is not a PEM certificate with its private key, without a password ({error})"
        ) from None
    return context


def socket_url(opened: socket.socket, is_tls: bool) -> str:
    """Return the URL of a bound socket."""
    host, port = opened.getsockname()[:2]
    return f"http{'s' * is_tls}://{f'[{host}]' if ':' in host else host}:{port}/"
