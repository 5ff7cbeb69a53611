"""WeNet's WebSocket protocol with optional extensions: parses and writes messages. Knows no sockets and no recognition.

A client sends a start signal, audio in binary messages and an end signal; what the server answers is in docs/runtime.md.
Without one of the extensions' keys every message has the keys, in the order, of those of WeNet's server.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, NamedTuple

import numpy as np

from wenet_fusion_runtime.model.metadata import Meta
from wenet_fusion_runtime.results.formats import result_record
from wenet_fusion_runtime.results.result import Hypothesis, Result, Token
from wenet_fusion_runtime.search.hot_words import DEFAULT_BOOST, HotWord
from wenet_fusion_runtime.server.errors import NORMAL, Reason, Refusal
from wenet_fusion_runtime.stream.endpoints import EndpointRules
from wenet_fusion_runtime.stream.result_building import make_result

SAMPLE_RATE = 16000  # Hz, of WeNet's clients
SAMPLE_RATES = (4000, 384000)  # the least and the highest that a client may send
MAX_NBEST = 1000
MAX_HOT_WORDS = 1000
MAX_PHRASE = 200  # characters of a hot word
MAX_CHARACTERS = 20000  # of all hot words: what is made of them costs time and memory
INT16, FLOAT32 = "int16", "float32"
FORMATS = (INT16, FLOAT32)
_DTYPES = {INT16: np.dtype("<i2"), FLOAT32: np.dtype("<f4")}  # as they are in a message


@dataclass(frozen=True)
class SessionOptions:
    """What a start signal, or the query of an upload, asks for."""

    nbest: int = 1
    continuous_decoding: bool = False  # go on after a segment has closed
    sample_rate: int = SAMPLE_RATE  # Hz
    sample_format: str = INT16  # one of FORMATS
    chunk: int | None = None  # encoder frames; None: the server's
    left: int | None = None  # chunks; None: the server's, or what the chunk was trained with
    hot_words: tuple[HotWord, ...] = ()
    # Of a client also the rules by name that differ from the server's; None: the server's.
    endpoint: EndpointRules | Mapping[str, float | None] | None = None
    timestamps: bool = False  # words with times and confidence in every result


class EndSignal(NamedTuple):
    """No more audio comes."""


def parse_signal(text: str, rules: EndpointRules) -> SessionOptions | EndSignal:
    """What a text message says; `rules` are the server's, for what the message leaves out.

    Raises:
        Refusal: it says nothing that can be understood; the texts of WeNet's server where that has one.
    """
    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _wrong(f"Wrong protocol: a text message is no JSON ({error})") from None
    if not isinstance(record, dict):
        raise _wrong("Wrong protocol")
    if "signal" not in record:
        raise _wrong("Wrong message header")
    signal = record.pop("signal")
    if signal == "start":
        return parse_options(record, rules)
    if signal == "end":
        return EndSignal()
    raise _wrong("Unexpected signal type")


def parse_options(record: Mapping[str, Any], rules: EndpointRules) -> SessionOptions:
    """The options of a session, by their names in the protocol; `rules` as in `parse_signal`.

    Raises:
        Refusal: an option is unknown or its value wrong.
    """
    given, options = dict(record), SessionOptions()
    nbest = given.pop("nbest", options.nbest)
    if type(nbest) is not int:  # True is an int
        raise _wrong("integer is expected for nbest option", Reason.OPTION)
    continuous = given.pop("continuous_decoding", options.continuous_decoding)
    if type(continuous) is not bool:
        raise _wrong("boolean true or false is expected for continuous_decoding option", Reason.OPTION)
    sample_format = given.pop("format", options.sample_format)
    if sample_format not in FORMATS:
        raise _wrong_value("format", sample_format, f"one of {', '.join(FORMATS)}")
    timestamps = given.pop("timestamps", options.timestamps)
    if type(timestamps) is not bool:
        raise _wrong_value("timestamps", timestamps, "true or false")
    found = SessionOptions(
        _within("nbest", nbest, 1, MAX_NBEST),
        continuous,
        _within("sample_rate", given.pop("sample_rate", options.sample_rate), *SAMPLE_RATES),
        sample_format,
        _within("chunk", given.pop("chunk", None), 1, 1 << 20, optional=True),
        _within("left", given.pop("left", None), 0, 1 << 20, optional=True),
        _hot_words(given.pop("hot_words", [])),
        _endpoint(given.pop("endpoint", None), rules),
        timestamps,
    )
    if given:
        raise _wrong(f"unknown key '{next(iter(given))}'; the keys are signal, {', '.join(_keys())}", Reason.OPTION)
    return found


class SampleReader:
    """Takes samples out of binary messages that may be cut anywhere, also within a sample."""

    def __init__(self, sample_format: str) -> None:
        self._dtype = _DTYPES[sample_format]
        self._rest = b""

    def read(self, message: bytes) -> np.ndarray:
        """The next whole samples, (n,)."""
        data = self._rest + message if self._rest else message
        count = len(data) // self._dtype.itemsize
        self._rest = data[count * self._dtype.itemsize :]
        return np.frombuffer(data, self._dtype, count).astype(self._dtype.newbyteorder("="), copy=False)


def sample_bytes(samples: np.ndarray, sample_format: str) -> bytes:
    """What `SampleReader` reads, of float32 samples in [-1, 1]."""
    if sample_format == INT16:
        samples = np.clip(np.rint(samples * 32768.0), -32768, 32767)
    return samples.astype(_DTYPES[sample_format]).tobytes()


# ---- what the server says


def server_ready() -> str:
    return _dump({"status": "ok", "type": "server_ready"})


def partial_result(result: Result, options: SessionOptions, meta: Meta) -> str:
    """The open segment so far; `meta` of the model that made it."""
    nbest = [{"sentence": meta.vocabulary.text(hypothesis.ids)} for hypothesis in result.hypotheses[: options.nbest]]
    return _result_message("partial_result", nbest, result, options)


def final_result(result: Result, options: SessionOptions, meta: Meta) -> str:
    """A closed segment; `meta` of the model that made it."""
    nbest = [
        {
            "sentence": meta.vocabulary.text(hypothesis.ids),
            "word_pieces": [
                {"word": token.text, "start": round(1000 * token.start_seconds), "end": round(1000 * token.end_seconds)}
                for token in _tokens(hypothesis, result, meta)
            ],
        }
        for hypothesis in result.hypotheses[: options.nbest]
    ]
    return _result_message("final_result", nbest, result, options)


def speech_end() -> str:
    return _dump({"status": "ok", "type": "speech_end"})


def failed(message: str) -> str:
    return _dump({"status": "failed", "message": message})


# ---- what a client says


def start_signal(options: SessionOptions) -> str:
    """The start signal that asks for these options, with as few keys as possible."""
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
        record["hot_words"] = [{"phrase": word.phrase, "boost": word.boost} for word in options.hot_words]
    if options.endpoint is not None:
        rules = options.endpoint
        record["endpoint"] = asdict(rules) if isinstance(rules, EndpointRules) else dict(rules)
    return _dump(record)


def end_signal() -> str:
    return _dump({"signal": "end"})


# ----


def _result_message(kind: str, nbest: list[dict[str, Any]], result: Result, options: SessionOptions) -> str:
    message: dict[str, Any] = {"status": "ok", "type": kind, "nbest": _dump(nbest)}  # a string, as WeNet has it
    if options.timestamps:
        record = result_record(result)
        message |= {name: record[name] for name in ("segment", "start", "end", "endpoint")}
        message["words"] = [shown | {"spaced": word.spaced} for shown, word in zip(record["words"], result.words)]
        message["committed"] = result.committed
    return _dump(message)


def _tokens(hypothesis: Hypothesis, result: Result, meta: Meta) -> tuple[Token, ...]:
    """A hypothesis' tokens with the times that it would have as the best one; but none begins before the segment and the
    best one, since a result does not tell where the segment before ended."""
    frames = round(result.start_seconds / meta.frame_seconds), round(result.end_seconds / meta.frame_seconds)
    earliest = min([result.start_seconds, *(token.start_seconds for token in result.tokens[:1])])
    return make_result([hypothesis], meta, result.segment, frames, result.endpoint, earliest).tokens


def _dump(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _keys() -> list[str]:
    return ["format" if field.name == "sample_format" else field.name for field in fields(SessionOptions)]


def _wrong(message: str, reason: Reason = Reason.PROTOCOL) -> Refusal:
    return Refusal(reason, message, NORMAL)  # WeNet's server closes so after an error


def _wrong_value(key: str, value: Any, expected: str) -> Refusal:
    shown = json.dumps(value, ensure_ascii=False)
    return _wrong(f"{key} must be {expected}, found {shown if len(shown) <= 80 else shown[:80] + '...'}", Reason.OPTION)


def _within(key: str, value: Any, least: int, most: int, optional: bool = False) -> Any:
    if optional and value is None:
        return None
    if type(value) is not int or not least <= value <= most:
        raise _wrong_value(key, value, f"an integer of {least} to {most}")
    return value


def _number(key: str, value: Any, optional: bool = False) -> float | None:
    if optional and value is None:
        return None
    if type(value) not in (int, float):
        raise _wrong_value(key, value, "a number or null" if optional else "a number")
    try:
        return float(value)
    except OverflowError:  # an integer of hundreds of digits
        return math.inf if value > 0 else -math.inf


def _hot_words(value: Any) -> tuple[HotWord, ...]:
    if not isinstance(value, list) or len(value) > MAX_HOT_WORDS:
        raise _wrong_value(
            "hot_words", value, f'a list of at most {MAX_HOT_WORDS} objects {{"phrase": "...", "boost": 1.5}}'
        )
    found = []
    for item in value:
        if not isinstance(item, dict) or not item.keys() <= {"phrase", "boost"}:
            raise _wrong_value("hot_words", item, 'objects {"phrase": "...", "boost": 1.5}')
        phrase = item.get("phrase")
        if not isinstance(phrase, str) or len(phrase) > MAX_PHRASE:
            raise _wrong_value("hot_words: phrase", phrase, f"a text of at most {MAX_PHRASE} characters")
        found.append(HotWord(phrase, _number("hot_words: boost", item.get("boost", DEFAULT_BOOST))))
    if (total := sum(len(word.phrase) for word in found)) > MAX_CHARACTERS:
        raise _wrong(
            f"hot_words may have {MAX_CHARACTERS} characters in all, found {total}; leave some out", Reason.OPTION
        )
    return tuple(found)


def _endpoint(value: Any, rules: EndpointRules) -> EndpointRules | None:
    if value is None:
        return None
    names = [field.name for field in fields(EndpointRules)]
    if not isinstance(value, dict) or not value.keys() <= set(names):
        raise _wrong_value("endpoint", value, f"an object with keys among {', '.join(names)}")
    optional = ("rule1_seconds", "rule2_seconds", "silence_probability")
    given = {name: _number(f"endpoint: {name}", seconds, name in optional) for name, seconds in value.items()}
    try:
        return replace(rules, **given)
    except ValueError as error:
        raise _wrong(f"endpoint: {error}", Reason.OPTION) from None
