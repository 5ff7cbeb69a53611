"""Parse and check the options in a start signal or an upload."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

from wenet_fusion_runtime.audio.sample_formats import SAMPLE_RATES
from wenet_fusion_runtime.console import SHOWN, visible
from wenet_fusion_runtime.results.normalization import longest_mark_run
from wenet_fusion_runtime.search.grammar.grammar import Grammar
from wenet_fusion_runtime.search.hot_words import DEFAULT_BOOST, HotWord
from wenet_fusion_runtime.search.spelling import MAX_PHRASE
from wenet_fusion_runtime.server.errors import NORMAL, ClientError, Reason
from wenet_fusion_runtime.stream.endpoints import EndpointRules

SAMPLE_RATE = 16000  # Hz, the rate of WeNet's clients
MAX_NBEST = 1000
MAX_HOT_WORDS = 1000
MAX_CHARACTERS = 20000  # characters of all hot words together, whose automaton takes time and memory
MAX_CONTEXT = 20000  # characters of a context
MAX_GRAMMAR = 10000  # characters of a grammar
MAX_GRAMMAR_STATES = 10000  # states of a grammar's automaton, which take about 1 kB each
MAX_MARKS = 30  # combining marks in a row, the limit of Unicode's stream-safe format; sorting many takes long
MAX_TEXT = 160 * 1024  # bytes of all options as text: enough for MAX_CHARACTERS of hot words, each escaped as \uXXXX
INT16, FLOAT32 = "int16", "float32"
SAMPLE_FORMATS = (INT16, FLOAT32)
_OPTIONAL_RULES = ("rule1_seconds", "rule2_seconds", "silence_probability", "complete_probability")  # may be null


@dataclass(frozen=True)
class SessionOptions:
    """Options of a session.

    >>> SessionOptions(nbest=3, continuous_decoding=True).sample_rate
    16000
    """

    nbest: int = 1  # hypotheses per result
    continuous_decoding: bool = False  # continue the session after a segment has closed
    sample_rate: int = SAMPLE_RATE  # Hz
    sample_format: str = INT16  # one of SAMPLE_FORMATS
    chunk: int | None = None  # encoder frames; None: the server's
    left: int | None = None  # chunks; None: the server's, or with `chunk` the largest number used in training
    hot_words: tuple[HotWord, ...] = ()
    endpoint: EndpointRules | None = None  # None: the server's
    timestamps: bool = False  # add words with times and confidence to every result
    context: str = ""  # a text whose names and rare words become hot words
    grammar: Grammar | None = None  # the sentences that may be found; None: the server's


class HotWordUpdate(NamedTuple):
    """New hot words and context for a running session; None: no change.

    >>> HotWordUpdate(None, "Then Anna called.").applied(SessionOptions(nbest=3)).context
    'Then Anna called.'
    """

    hot_words: tuple[HotWord, ...] | None
    context: str | None

    def applied(self, options: SessionOptions) -> SessionOptions:
        """Return the options with this change."""
        return replace(options, **{name: value for name, value in self._asdict().items() if value is not None})


def parse_update(record: Mapping[str, Any]) -> HotWordUpdate:
    """Parse the keys of an update signal.

    Raises:
        ClientError: a key is unknown, there is no key, or a value is invalid.
    """
    if not record or not record.keys() <= {"hot_words", "context"}:
        raise option_error("an update signal has the keys hot_words and context, or one of them, and no others")
    return HotWordUpdate(
        _hot_words(record["hot_words"]) if "hot_words" in record else None,
        _context(record["context"]) if "context" in record else None,
    )


def parse_options(record: Mapping[str, Any], rules: EndpointRules) -> SessionOptions:
    """Parse options by their names in the protocol.

    Args:
        record: names and values, as parsed from JSON.
        rules: the server's endpoint rules, for the rules that `record` leaves out.
    Raises:
        ClientError: an option is unknown or its value is invalid.
    """
    given, options = dict(record), SessionOptions()
    nbest = given.pop("nbest", options.nbest)
    if type(nbest) is not int:  # True is an int
        raise option_error("integer is expected for nbest option")
    continuous = given.pop("continuous_decoding", options.continuous_decoding)
    if type(continuous) is not bool:
        raise option_error("boolean true or false is expected for continuous_decoding option")
    sample_format = given.pop("format", options.sample_format)
    if sample_format not in SAMPLE_FORMATS:
        raise _value_error("format", sample_format, f"one of {', '.join(SAMPLE_FORMATS)}")
    timestamps = given.pop("timestamps", options.timestamps)
    if type(timestamps) is not bool:
        raise _value_error("timestamps", timestamps, "true or false")
    found = SessionOptions(
        _integer("nbest", nbest, 1, MAX_NBEST),
        continuous,
        _integer("sample_rate", given.pop("sample_rate", options.sample_rate), *SAMPLE_RATES),
        sample_format,
        _optional_integer("chunk", given.pop("chunk", None), 1, 1 << 20),
        _optional_integer("left", given.pop("left", None), 0, 1 << 20),
        _hot_words(given.pop("hot_words", [])),
        _endpoint(given.pop("endpoint", None), rules),
        timestamps,
        _context(given.pop("context", "")),
        _grammar(given.pop("grammar", None)),
    )
    if given:
        raise option_error(
            f"unknown key '{visible(next(iter(given)), SHOWN)}'; the keys are signal, {', '.join(_keys())}"
        )
    return found


def option_error(message: str) -> ClientError:
    """Return the error for an invalid option; it closes a WebSocket with code 1000, as WeNet's server does."""
    return ClientError(Reason.OPTION, message, NORMAL)


def _keys() -> list[str]:
    return ["format" if field.name == "sample_format" else field.name for field in fields(SessionOptions)]


def _value_error(key: str, value: Any, expected: str) -> ClientError:
    return option_error(f"{key} must be {expected}, found {visible(json.dumps(value, ensure_ascii=False), SHOWN)}")


def _integer(key: str, value: Any, least: int, most: int) -> int:
    if type(value) is not int or not least <= value <= most:
        raise _value_error(key, value, f"an integer from {least} to {most}")
    return value


def _optional_integer(key: str, value: Any, least: int, most: int) -> int | None:
    return None if value is None else _integer(key, value, least, most)


def _number(key: str, value: Any, expected: str = "a number") -> float:
    if type(value) not in (int, float):
        raise _value_error(key, value, expected)
    try:
        return float(value)
    except OverflowError:  # an integer of hundreds of digits
        return math.inf if value > 0 else -math.inf


def _optional_number(key: str, value: Any) -> float | None:
    return None if value is None else _number(key, value, "a number or null")


def _hot_words(value: Any) -> tuple[HotWord, ...]:
    if not isinstance(value, list) or len(value) > MAX_HOT_WORDS:
        raise _value_error(
            "hot_words", value, f'a list of at most {MAX_HOT_WORDS} objects {{"phrase": "...", "boost": 1.5}}'
        )
    found = []
    for item in value:
        if not isinstance(item, dict) or not item.keys() <= {"phrase", "boost"}:
            raise _value_error("hot_words", item, 'objects {"phrase": "...", "boost": 1.5}')
        phrase = item.get("phrase")
        if not isinstance(phrase, str) or len(phrase) > MAX_PHRASE:
            raise _value_error("hot_words: phrase", phrase, f"a text of at most {MAX_PHRASE} characters")
        found.append(HotWord(phrase, _number("hot_words: boost", item.get("boost", DEFAULT_BOOST))))
    if (total := sum(len(word.phrase) for word in found)) > MAX_CHARACTERS:
        raise option_error(f"hot_words may have {MAX_CHARACTERS} characters in all, found {total}; leave some out")
    return tuple(found)


def _context(value: Any) -> str:
    if not isinstance(value, str) or len(value) > MAX_CONTEXT:
        raise _value_error("context", value, f"a text of at most {MAX_CONTEXT} characters")
    if longest_mark_run(value) > MAX_MARKS:
        raise _value_error("context", value, f"a text with at most {MAX_MARKS} combining marks in a row")
    return value


def _grammar(value: Any) -> Grammar | None:
    if value is None:
        return None
    is_list = isinstance(value, list) and all(isinstance(phrase, str) for phrase in value)
    text = "\n".join(" ".join(phrase.split()) for phrase in value) if is_list else value
    if not isinstance(text, str) or len(text) > MAX_GRAMMAR:
        raise _value_error("grammar", value, f"a list of phrases, or a text, of at most {MAX_GRAMMAR} characters")
    if longest_mark_run(text) > MAX_MARKS:
        raise _value_error("grammar", value, f"a text with at most {MAX_MARKS} combining marks in a row")
    try:
        return Grammar(text, most_states=MAX_GRAMMAR_STATES, is_bounded=True)
    except ValueError as error:
        raise option_error(str(error)) from None


def _endpoint(value: Any, rules: EndpointRules) -> EndpointRules | None:
    if value is None:
        return None
    names = [field.name for field in fields(EndpointRules)]
    if not isinstance(value, dict) or not value.keys() <= set(names):
        raise _value_error("endpoint", value, f"an object with keys among {', '.join(names)}")
    given: dict[str, Any] = {
        name: (_optional_number if name in _OPTIONAL_RULES else _number)(f"endpoint: {name}", seconds)
        for name, seconds in value.items()
    }
    try:
        return replace(rules, **given)
    except ValueError as error:
        raise option_error(f"endpoint: {error}") from None
