"""Addresses that a server binds."""

import socket

import pytest
from conftest import absent
from wenet_fusion_runtime.server.bind import BindOptions, bind


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


def test_all_addresses_of_ipv6_are_those_of_ipv4_too() -> None:
    if not has_ipv6():
        absent("this computer has no IPv6", "WENET_FUSION_REQUIRE_IPV6")
    opened = bind(BindOptions("::", 0))
    try:
        assert {each.family for each in opened} == {socket.AF_INET, socket.AF_INET6}
        (port,) = {each.getsockname()[1] for each in opened}
        for address in ("127.0.0.1", "::1"):
            socket.create_connection((address, port), timeout=5).close()
    finally:
        for each in opened:
            each.close()


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_an_address_of_ipv4_is_one_socket(host: str) -> None:
    (opened,) = bind(BindOptions(host, 0))
    assert opened.family == socket.AF_INET
    opened.close()
