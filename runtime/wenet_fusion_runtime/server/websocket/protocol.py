"""Messages of WeNet's WebSocket protocol, with optional extensions.

A client sends a start signal, audio in binary messages and an end signal; docs/server.md lists the server's messages.
If no extension is used, every message has the keys of WeNet's protocol, in the same order.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

import numpy as np

from wenet_fusion_runtime.audio.pcm_check import PcmCheck
from wenet_fusion_runtime.results.formats import compact_json
from wenet_fusion_runtime.search.hot_words import HotWord
from wenet_fusion_runtime.server.errors import NORMAL, ClientError, Reason
from wenet_fusion_runtime.server.session_options import (
    FLOAT32,
    INT16,
    HotWordUpdate,
    SessionOptions,
    parse_options,
    parse_update,
)
from wenet_fusion_runtime.stream.endpoints import EndpointRules

_DTYPES: dict[str, np.dtype[Any]] = {INT16: np.dtype("<i2"), FLOAT32: np.dtype("<f4")}  # of samples in a message


class EndSignal(NamedTuple):
    """The client sends no more audio."""


class WrongUpdate(ClientError):
    """An update signal whose keys or values are invalid: it changes nothing.

    >>> WrongUpdate(Reason.OPTION, "context must be a text").message
    'context must be a text'
    """


def parse_signal(text: str, rules: EndpointRules) -> SessionOptions | HotWordUpdate | EndSignal:
    """Parse a text message of a client.

    Args:
        text: JSON with the key `signal`.
        rules: the server's endpoint rules, for the rules that the message leaves out.
    Raises:
        WrongUpdate: an update signal is invalid.
        ClientError: another message is invalid; for errors that WeNet's server has too, the text is the same.
    """
    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise protocol_error(f"Wrong protocol: a text message is not JSON ({error})") from None
    if not isinstance(record, dict):
        raise protocol_error("Wrong protocol")
    if "signal" not in record:
        raise protocol_error("Wrong message header")
    signal = record.pop("signal")
    if signal == "start":
        return parse_options(record, rules)
    if signal == "end":
        return EndSignal()
    if signal == "update":
        try:
            return parse_update(record)
        except ClientError as error:
            raise WrongUpdate(error.reason, error.message) from None
    raise protocol_error("Unexpected signal type")


def protocol_error(message: str) -> ClientError:
    """Return the error for a wrong message; it closes the WebSocket with code 1000, as WeNet's server does."""
    return ClientError(Reason.PROTOCOL, message, NORMAL)


class SampleReader:
    """Reads samples from binary messages that may be cut anywhere, even within a sample.

    >>> reader = SampleReader("int16")
    >>> reader.read(bytes([1, 0, 2])).tolist(), reader.read(bytes([0])).tolist()
    ([1], [2])
    """

    def __init__(self, sample_format: str) -> None:
        self._dtype = _DTYPES[sample_format]
        self._rest = b""
        self._check = PcmCheck(judges_samples=sample_format == INT16)

    def read(self, message: bytes) -> np.ndarray:
        """Return the next complete samples, (n,).

        Raises:
            ClientError: the beginning of the bytes shows that they are not samples of this format.
        """
        _checked(self._check.feed, message)
        data = self._rest + message if self._rest else message
        count = len(data) // self._dtype.itemsize
        self._rest = data[count * self._dtype.itemsize :]
        return np.frombuffer(data, self._dtype, count).astype(self._dtype.newbyteorder("="), copy=False)

    def end(self) -> None:
        """Check audio that was too short for `read` to check. Raises: see `read`."""
        _checked(self._check.end)


def _checked(check: Callable[..., None], *arguments: bytes) -> None:
    try:
        check(*arguments)
    except ValueError as error:
        raise ClientError(Reason.SAMPLES, str(error)) from None


def sample_bytes(samples: np.ndarray, sample_format: str) -> bytes:
    """Return a binary message with float32 samples in [-1, 1]."""
    if sample_format == INT16:
        samples = np.clip(np.rint(samples * 32768.0), -32768, 32767)
    return samples.astype(_DTYPES[sample_format]).tobytes()


# ---- messages of the server


def server_ready() -> str:
    """Return the reply to a start signal."""
    return compact_json({"status": "ok", "type": "server_ready"})


def updated(context: Sequence[str] | None) -> str:
    """Return the reply to an accepted update signal, with the terms of its context if it has one."""
    return compact_json({"status": "ok", "type": "updated"} | ({} if context is None else {"context": list(context)}))


def update_refused(message: str) -> str:
    """Return the reply to an update signal that was refused; the session goes on."""
    return compact_json({"status": "ok", "type": "update_refused", "message": message})


def speech_end() -> str:
    """Return the last message of a session."""
    return compact_json({"status": "ok", "type": "speech_end"})


def failed(message: str) -> str:
    """Return the protocol's message that reports an error with this text."""
    return compact_json({"status": "failed", "message": message})


# ---- messages of a client


def start_signal(options: SessionOptions, endpoint: Mapping[str, float | None] | None = None) -> str:
    """Return the start signal for these options, with as few keys as possible.

    Args:
        options: options of the session.
        endpoint: endpoint rules that differ from the server's, by name; used instead of `options.endpoint`.
    """
    record: dict[str, Any] = {
        "signal": "start",
        "nbest": options.nbest,
        "continuous_decoding": options.continuous_decoding,
    }
    defaults = SessionOptions()
    for key, name in (
        ("sample_rate", "sample_rate"),
        ("format", "sample_format"),
        ("chunk", "chunk"),
        ("left", "left"),
        ("timestamps", "timestamps"),
    ):
        if getattr(options, name) != getattr(defaults, name):
            record[key] = getattr(options, name)
    if options.hot_words:
        record["hot_words"] = _hot_word_records(options.hot_words)
    if options.context:
        record["context"] = options.context
    if options.grammar is not None:
        record["grammar"] = options.grammar.text
    if endpoint:
        record["endpoint"] = dict(endpoint)
    elif options.endpoint is not None:
        record["endpoint"] = asdict(options.endpoint)
    return compact_json(record)


def update_signal(update: HotWordUpdate) -> str:
    """Return the signal that changes hot words and context of a running session."""
    record: dict[str, Any] = {"signal": "update"}
    if update.hot_words is not None:
        record["hot_words"] = _hot_word_records(update.hot_words)
    if update.context is not None:
        record["context"] = update.context
    return compact_json(record)


def end_signal() -> str:
    """Return the end signal."""
    return compact_json({"signal": "end"})


# ----


def _hot_word_records(words: Sequence[HotWord]) -> list[dict[str, Any]]:
    return [{"phrase": word.phrase, "boost": word.boost} for word in words]
