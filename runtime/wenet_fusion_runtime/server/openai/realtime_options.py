"""Options of a realtime transcription session, and their changes by the client."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from wenet_fusion_runtime.audio.sample_formats import ALAW, MULAW, PCM, SAMPLE_RATES
from wenet_fusion_runtime.console import SHOWN, visible
from wenet_fusion_runtime.server.openai.prompt_words import Hints
from wenet_fusion_runtime.server.session_options import MAX_HOT_WORDS, SessionOptions, option_error
from wenet_fusion_runtime.stream.endpoints import EndpointRules

SAMPLE_RATE = 24000  # Hz, the protocol's default
TELEPHONE_RATE = 8000  # Hz
AUDIO_TYPES = {"audio/pcm": (PCM, 2), "audio/pcmu": (MULAW, 1), "audio/pcma": (ALAW, 1)}  # format tag, bytes per sample
SERVER_VAD, SEMANTIC_VAD = "server_vad", "semantic_vad"
LONGEST_PAUSES = {"low": 8.0, "medium": 4.0, "auto": 4.0, "high": 2.0}  # seconds; for SEMANTIC_VAD, by eagerness
COMPLETE_PROBABILITY = 0.5  # `complete_probability` for SEMANTIC_VAD if the server's rules have none
NO_LANGUAGE_MODEL = (
    f"turn_detection.type {SEMANTIC_VAD} needs a language model, and this server was started without "
    f"--language_model; use {SERVER_VAD}"
)
MAX_PROMPT = 4000  # characters
MAX_NAME = 200  # characters of other texts
_SESSION = ("type", "audio", "include", "id", "object", "expires_at")
_INPUT = ("format", "transcription", "turn_detection", "noise_reduction")
_TRANSCRIPTION = ("model", "language", "languages", "prompt", "keywords", "delay")
_TURN_DETECTION = (
    "type", "threshold", "prefix_padding_ms", "silence_duration_ms", "create_response", "interrupt_response",
    "idle_timeout_ms", "eagerness",
)  # fmt: skip


@dataclass(frozen=True)
class RealtimeOptions:
    """Options of a session.

    >>> RealtimeOptions().updated({"audio": {"input": {"turn_detection": None}}}).detects_turns
    False
    """

    audio_type: str = "audio/pcm"  # one of AUDIO_TYPES
    sample_rate: int = SAMPLE_RATE  # Hz
    detects_turns: bool = True  # a pause ends a turn; otherwise the client's commit does
    silence_ms: int | None = None  # length of that pause; None: as in the server's rules
    eagerness: str | None = None  # if set, a complete sentence ends a turn too; one of LONGEST_PAUSES
    model: str | None = None  # stated by the client, without effect
    language: str | None = None  # stated by the client, without effect
    prompt: str = ""
    keywords: tuple[str, ...] = ()
    hints: Hints = Hints()  # made from the prompt and the keywords

    def updated(self, session: Any) -> RealtimeOptions:
        """Return these options with the changes of a `session.update`; `hints` do not change.

        Raises:
            ClientError: a key is unknown or a value is invalid.
        """
        given = _object("session", session, _SESSION)
        if given.get("type", "transcription") != "transcription":
            raise option_error("session.type must be transcription: this server only transcribes")
        audio = _object("session.audio", given.get("audio", {}), ("input", "output"))
        changes = _object("session.audio.input", audio.get("input", {}), _INPUT)
        options = self
        if changes.get("format") is not None:
            options = options._with_format(changes["format"])
        if changes.get("transcription") is not None:
            options = options._with_transcription(changes["transcription"])
        if "turn_detection" in changes:
            options = options._with_turn_detection(changes["turn_detection"])
        return options

    def session_options(self, rules: EndpointRules) -> SessionOptions:
        """Return the options of the sessions that decode the audio.

        Args:
            rules: the server's endpoint rules.
        Raises:
            ClientError: the pause is out of range.
        """
        try:
            if not self.detects_turns:
                rules = replace(rules, rule1_seconds=None, rule2_seconds=None, complete_probability=None)
            elif self.eagerness is not None:
                probability = rules.complete_probability or COMPLETE_PROBABILITY
                longest = LONGEST_PAUSES[self.eagerness]
                rules = replace(rules, rule2_seconds=longest, complete_probability=probability)
            elif self.silence_ms is not None:
                rules = replace(rules, rule2_seconds=self.silence_ms / 1000)
        except ValueError as error:
            raise option_error(f"silence_duration_ms: {error}") from None
        return SessionOptions(
            continuous_decoding=True,
            sample_rate=self.sample_rate,
            hot_words=self.hints.hot_words,
            context=self.hints.context,
            endpoint=rules,
        )

    def record(self, rules: EndpointRules) -> dict[str, Any]:
        """Return the options as `session.created` and `session.updated` show them."""
        silence_ms = self.silence_ms
        if silence_ms is None and rules.rule2_seconds is not None:
            silence_ms = round(1000 * rules.rule2_seconds)
        turns: dict[str, Any] = {"type": SERVER_VAD, "silence_duration_ms": silence_ms}
        if self.eagerness is not None:
            turns = {"type": SEMANTIC_VAD, "eagerness": self.eagerness}
        transcription = {"model": self.model, "language": self.language, "prompt": self.prompt}
        found = {
            "format": {"type": self.audio_type, "rate": self.sample_rate},
            "transcription": transcription | {"keywords": list(self.keywords)},
            "turn_detection": None if not self.detects_turns else turns,
            "noise_reduction": None,
        }
        return {"type": "transcription", "object": "realtime.transcription_session", "audio": {"input": found}}

    def _with_format(self, value: Any) -> RealtimeOptions:
        given = _object("format", value, ("type", "rate"))
        audio_type = given.get("type", self.audio_type)
        if audio_type not in list(AUDIO_TYPES):
            raise option_error(f"format.type must be one of {', '.join(AUDIO_TYPES)}, found {_shown(audio_type)}")
        rate = given.get("rate") or (SAMPLE_RATE if AUDIO_TYPES[audio_type][0] == PCM else TELEPHONE_RATE)
        return replace(self, audio_type=audio_type, sample_rate=_integer("format.rate", rate, *SAMPLE_RATES))

    def _with_transcription(self, value: Any) -> RealtimeOptions:
        given = _object("transcription", value, _TRANSCRIPTION)
        keywords = self.keywords
        if "keywords" in given:
            listed = given["keywords"] or []
            if not isinstance(listed, list) or len(listed) > MAX_HOT_WORDS:
                raise option_error(f"transcription.keywords must be a list of at most {MAX_HOT_WORDS} texts")
            keywords = tuple(_text("transcription.keywords", word, MAX_NAME) or "" for word in listed)
        return replace(
            self,
            model=_text("transcription.model", given.get("model", self.model), MAX_NAME),
            language=_text("transcription.language", given.get("language", self.language), MAX_NAME),
            prompt=_text("transcription.prompt", given.get("prompt", self.prompt), MAX_PROMPT) or "",
            keywords=keywords,
        )

    def _with_turn_detection(self, value: Any) -> RealtimeOptions:
        if value is None:
            return replace(self, detects_turns=False)
        given = _object("turn_detection", value, _TURN_DETECTION)
        if (kind := given.get("type", SERVER_VAD)) == SEMANTIC_VAD:
            eagerness = given.get("eagerness") or "auto"
            if eagerness not in list(LONGEST_PAUSES):
                raise option_error(f"turn_detection.eagerness must be one of {', '.join(LONGEST_PAUSES)}")
            return replace(self, detects_turns=True, eagerness=eagerness)
        if kind != SERVER_VAD:
            raise option_error(f"turn_detection.type must be {SERVER_VAD} or {SEMANTIC_VAD}, or turn_detection null")
        silence_ms = given.get("silence_duration_ms")
        if silence_ms is not None:
            silence_ms = _integer("turn_detection.silence_duration_ms", silence_ms, 1, 3_600_000)
        return replace(self, detects_turns=True, silence_ms=silence_ms, eagerness=None)


def _object(name: str, value: Any, keys: tuple[str, ...]) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise option_error(f"{name} must be an object")
    for key in value:
        if key not in keys:
            raise option_error(f"{name} has the unknown key '{visible(key, SHOWN)}'; its keys are {', '.join(keys)}")
    return value


def _integer(name: str, value: Any, least: int, most: int) -> int:
    if type(value) is not int or not least <= value <= most:
        raise option_error(f"{name} must be an integer from {least} to {most}, found {_shown(value)}")
    return value


def _text(name: str, value: Any, most: int) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str) or len(value) > most or any("\ud800" <= letter <= "\udfff" for letter in value):
        raise option_error(f"{name} must be a text of at most {most} characters")
    return value


def _shown(value: Any) -> str:
    return visible(value, SHOWN) if isinstance(value, str) else visible(str(value)[: 2 * SHOWN], SHOWN)
