"""The command `serve`: every argument reaches its setting."""

import gc
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import absent
from support.runtime.fake_model import save_model
from wenet_fusion_runtime.cli.__main__ import main
from wenet_fusion_runtime.cli.serve import COLLECTIONS, TOKEN_VARIABLE, read_token
from wenet_fusion_runtime.engine.engine import EngineOptions
from wenet_fusion_runtime.server import server
from wenet_fusion_runtime.server.access import Access
from wenet_fusion_runtime.server.bind import BindOptions
from wenet_fusion_runtime.server.guard.addresses import Proxies
from wenet_fusion_runtime.server.limits import Limits
from wenet_fusion_runtime.server.settings import ChunkChoice, Settings


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """A function that runs the command up to the server and returns the settings and the recognizer's options."""
    collections = gc.get_threshold()

    def serve(*arguments: str) -> tuple[Settings, Any]:
        found: list[Any] = []

        def run(recognizer: Any, name: str, settings: Settings, sockets: list[Any], announce: Any) -> None:
            found.extend([settings, recognizer.options])
            for each in sockets:
                each.close()

        monkeypatch.setattr(server, "run", run)
        model = save_model(tmp_path / "model.pt")
        assert main(["serve", str(model), "--port", "0", *arguments]) == 0
        return found[0], found[1]

    yield serve
    gc.set_threshold(*collections)


def test_defaults_are_those_of_the_settings(served: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
    settings, options = served("--workers", "1")
    assert settings == Settings(bind=BindOptions(port=0), engine=EngineOptions(workers=1))
    assert (options.endpoint.rule1_seconds, options.commit_seconds) == (5.0, 1.0)


def test_collections_of_garbage_are_rare(served: Any) -> None:
    """They stop all sessions: see benchmarks/results/serving.md."""
    served()
    assert gc.get_threshold() == COLLECTIONS and COLLECTIONS[0] >= 10_000


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "::", "::1"])
def test_it_listens_on_addresses_of_both_kinds(served: Any, host: str) -> None:
    """Clients may always use an address, so it is not added to the allowed names."""
    if ":" in host and not socket.has_ipv6:
        absent("this machine has no IPv6", "WENET_FUSION_REQUIRE_IPV6")
    settings, _ = served("--host", host)
    assert settings.bind.host == host and settings.access.hosts == ()


def test_every_argument_reaches_its_setting(served: Any, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(" secret\n")
    settings, options = served(
        *"--host localhost --reuse_port --drain_seconds 3 --allowed_origin https://a.org --allowed_origin *".split(),
        *("--token_file", str(tmp_path / "token")),
        *"--max_sessions 2 --max_message_bytes 3 --max_upload_bytes 4 --max_upload_seconds 5.5".split(),
        *"--max_audio_seconds 6.5 --start_seconds 7.5 --idle_seconds 8.5 --send_seconds 9.5".split(),
        *"--progress_seconds 9.75 --max_address_sessions 10 --max_decoders 11".split(),
        *"--max_frames_per_second 11.5 --max_bytes_per_second 12.5".split(),
        *"--allowed_hosts a.org,b.org --trusted_proxies 10.0.0.1,10.1.0.0/16".split(),
        *"--workers 2 --max_batch 3 --max_wait_seconds 0.5 --batch_dynamic".split(),
        *"--chunk 5 --left 1 --allow_untrained --beam_size 4 --ctc_weight 0.25 --reverse_weight 0.75".split(),
        *"--rule1_seconds off --rule2_seconds 2 --rule3_seconds 3 --rule3_silence_seconds 0.5".split(),
        *"--rule3_extra_seconds 1.5 --silence_probability 0.9 --commit_seconds off".split(),
    )
    assert settings == Settings(
        BindOptions("localhost", 0, reuse_port=True),
        Limits(2, 3, 4, 5.5, 6.5, 7.5, 8.5, 9.5, 9.75, 10, 11, 11.5, 12.5),
        Access("secret", ("https://a.org", "*"), ("a.org", "b.org")),
        Proxies(("10.0.0.1", "10.1.0.0/16")),
        ChunkChoice(5, 1, allow_untrained=True),
        EngineOptions(workers=2, max_batch=3, max_wait_seconds=0.5, batch_dynamic=True),
        drain_seconds=3.0,
    )
    assert (options.beam_size, options.ctc_weight, options.reverse_weight) == (4, 0.25, 0.75)
    assert options.commit_seconds is None
    endpoint = options.endpoint
    assert (endpoint.rule1_seconds, endpoint.rule2_seconds, endpoint.rule3_seconds) == (None, 2.0, 3.0)
    assert (endpoint.rule3_silence_seconds, endpoint.rule3_extra_seconds) == (0.5, 1.5)
    assert endpoint.silence_probability == 0.9


def test_a_token_is_read_from_a_file_or_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TOKEN_VARIABLE, "from_environment")
    assert read_token(None) == "from_environment"
    (tmp_path / "token").write_text("from_file\n")
    assert read_token(tmp_path / "token") == "from_file"
    (tmp_path / "token").write_text("\n")
    with pytest.raises(ValueError, match="token: is empty, expected a token"):
        read_token(tmp_path / "token")
    (tmp_path / "token").write_text("sec ret\n")
    with pytest.raises(ValueError, match="token: the token must consist of ASCII characters without spaces"):
        read_token(tmp_path / "token")
    (tmp_path / "token").write_text("sec\x00ret")
    with pytest.raises(ValueError, match="token: the token must consist of ASCII characters without spaces"):
        read_token(tmp_path / "token")
    monkeypatch.setenv(TOKEN_VARIABLE, "")
    assert read_token(None) is None


def test_spaces_around_a_token_do_not_belong_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable of spaces only is a mistake: without a token, everybody could use the server."""
    (tmp_path / "token").write_text("  secret \r\n")
    monkeypatch.setenv(TOKEN_VARIABLE, "  secret \r\n")
    assert read_token(tmp_path / "token") == read_token(None) == "secret"
    monkeypatch.setenv(TOKEN_VARIABLE, " \n")
    with pytest.raises(ValueError, match=f"^{TOKEN_VARIABLE}: is empty, expected a token$"):
        read_token(None)
