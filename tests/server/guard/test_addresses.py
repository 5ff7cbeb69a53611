"""Addresses of clients, and names and ports of the server."""

import contextlib
from types import SimpleNamespace

import pytest
from wenet_fusion_runtime.server.access import Access
from wenet_fusion_runtime.server.bind import BindOptions, bind
from wenet_fusion_runtime.server.errors import ClientError, Reason
from wenet_fusion_runtime.server.guard.addresses import Proxies, Sessions, Visitor, group
from wenet_fusion_runtime.server.limits import Limits


def test_the_client_behind_proxies_is_the_last_address_that_no_proxy_has() -> None:
    proxies = Proxies(("127.0.0.1", "10.0.0.0/8", "::1"))
    for peer, forwarded, expected in (
        ("127.0.0.1", ["1.2.3.4"], "1.2.3.4"),
        ("127.0.0.1", ["6.6.6.6, 1.2.3.4", "10.0.0.7"], "1.2.3.4"),  # the client's own entries are on the left
        ("::1", ["[2001:db8::7]:4711"], "2001:db8::7"),
        ("127.0.0.1", ["1.2.3.4:80"], "1.2.3.4"),
        ("127.0.0.1", ["nonsense"], "127.0.0.1"),
        ("127.0.0.1", [], "127.0.0.1"),
        ("8.8.8.8", ["1.2.3.4"], "8.8.8.8"),  # not a trusted proxy
    ):
        assert proxies.client(peer, forwarded) == expected, (peer, forwarded)
    assert group("::ffff:1.2.3.4") == "1.2.3.4" and group("2001:db8::7") == group("2001:db8::8")
    with pytest.raises(ValueError, match="'proxy' is not the address of a proxy"):
        Proxies(("proxy",))


def test_an_address_has_its_share_of_sessions() -> None:
    assert Limits(sessions=9).sessions_of_one_address == 5 and Limits(address_sessions=3).sessions_of_one_address == 3
    sessions, seat = Sessions(2), SimpleNamespace(is_busy=False, address="")
    with sessions.open(Visitor("1.2.3.4", seat)), sessions.open(Visitor("1.2.3.4")):
        assert seat.is_busy
        full = pytest.raises(ClientError, match="the limit of 2 sessions of one address")
        with full as caught, sessions.open(Visitor("1.2.3.4")):
            pass
        assert caught.value.reason is Reason.FULL
        with sessions.open(Visitor("1.2.3.5")), contextlib.ExitStack() as stack:  # another, and one without a limit
            for _ in range(3):
                stack.enter_context(sessions.open(Visitor()))
    assert not seat.is_busy
    with sessions.open(Visitor("1.2.3.4")):
        pass


@pytest.mark.parametrize(
    "host, is_allowed",
    [
        ("127.0.0.1:10086", True),
        ("[::1]:80", True),
        ("LOCALHOST:1", True),
        ("page.localhost", True),
        ("recognition:10086", True),
        ("Speech.Example.org:443", True),
        ("speech.example.org.", True),
        (None, True),
        ("evil.com", False),
        ("evil.com:10086", False),
        ("127.0.0.1.evil.com", False),
        ("speech.example.org@evil.com", False),
        ("evil.com/127.0.0.1", False),
        ("", False),
        ("[", False),
    ],
)
def test_names_of_the_server(host: str | None, is_allowed: bool) -> None:
    assert Access(hosts=("speech.example.org",)).allows_host(host) == is_allowed
    assert Access(hosts=("*",)).allows_host(host)
    with pytest.raises(ValueError, match="'https://a.org' is not the name of a host"):
        Access(hosts=("https://a.org",))


def test_a_second_server_on_a_port_fails_before_it_loads_a_model() -> None:
    (first,) = bind(BindOptions(port=0))
    with first:
        port = first.getsockname()[1]
        with pytest.raises(OSError, match=f"127.0.0.1:{port}: cannot be bound .Address already in use.; choose"):
            bind(BindOptions(port=port))
