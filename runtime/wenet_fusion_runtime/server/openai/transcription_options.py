"""Options of `POST /v1/audio/transcriptions`, from its query or its form."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

from wenet_fusion_runtime.console import SHOWN, visible
from wenet_fusion_runtime.results.formats import JSON, SRT, TEXT, VTT
from wenet_fusion_runtime.server.http.upload_options import UploadOptions, parse_upload_options
from wenet_fusion_runtime.server.openai.prompt_words import PromptWords
from wenet_fusion_runtime.server.session_options import option_error
from wenet_fusion_runtime.stream.endpoints import EndpointRules

VERBOSE = "verbose_json"
RESPONSE_FORMATS = (JSON, TEXT, SRT, VERBOSE, VTT)
STREAMED_FORMATS = (JSON, TEXT)
SEGMENT, WORD = "segment", "word"
GRANULARITIES = (SEGMENT, WORD)
LOGPROBS = "logprobs"
UNUSED = ("model", "language", "languages", "temperature", "chunking_strategy")  # have no effect
KEYS = (
    "file", "response_format", "timestamp_granularities[]", "stream", "prompt", "keywords[]", "include[]", *UNUSED,
    "hot_words", "context", "endpoint", "chunk", "left", "channel", "grammar",
)  # fmt: skip


@dataclass(frozen=True)
class TranscriptionOptions:
    """Options of a transcription.

    >>> upload = parse_upload_options({}, EndpointRules())
    >>> TranscriptionOptions(upload, VERBOSE, granularities=(WORD,)).language
    'unknown'
    """

    upload: UploadOptions
    response_format: str = JSON  # one of RESPONSE_FORMATS
    granularities: tuple[str, ...] = (SEGMENT,)  # lists to write in the verbose format, among GRANULARITIES
    language: str = "unknown"  # stated by the client, without effect
    temperature: float = 0.0  # stated by the client, without effect
    has_logprobs: bool = False  # add the log-probability of each token


def parse_transcription_options(
    fields: Sequence[tuple[str, str]], rules: EndpointRules, prompt_words: PromptWords
) -> TranscriptionOptions:
    """Parse the fields of a query or a form.

    `model`, `language`, `languages`, `temperature` and `chunking_strategy` have no effect. Options of
    `POST /transcribe`, such as `hot_words` or `channel`, apply too.

    Args:
        fields: names and values; the name of a list may end in [] and occur more than once.
        rules: endpoint rules of files, for the rules that an option `endpoint` leaves out.
        prompt_words: turns the prompt into hot words.
    Raises:
        ClientError: an option is unknown or its value is invalid.
    """
    given: defaultdict[str, list[str]] = defaultdict(list)
    for name, value in fields:
        given[name.removesuffix("[]")].append(value)

    def last(name: str, default: str) -> str:
        return given.pop(name, [default])[-1]

    response_format = _one_of("response_format", last("response_format", JSON), RESPONSE_FORMATS)
    is_streamed = _one_of("stream", last("stream", "false").lower(), ("true", "false")) == "true"
    if is_streamed and response_format not in STREAMED_FORMATS:
        raise option_error(f"stream=true goes with response_format json or text only, found {response_format}")
    granularities = tuple(
        _one_of("timestamp_granularities", value, GRANULARITIES) for value in given.pop("timestamp_granularities", [])
    )
    for value in (includes := given.pop("include", [])):
        _one_of("include", value, (LOGPROBS,))
    prompt, keywords = last("prompt", ""), given.pop("keywords", [])
    language, temperature = given.get("language", ["unknown"])[-1], _temperature(given.get("temperature", ["0"])[-1])
    for name in UNUSED:
        given.pop(name, None)
    upload = parse_upload_options({name: values[-1] for name, values in given.items()}, rules, KEYS)
    chosen = upload.session.hot_words
    hints = prompt_words.find(prompt, keywords, chosen)
    context = upload.session.context or hints.context
    session = replace(upload.session, hot_words=chosen + hints.hot_words, context=context)
    output_format = JSON if response_format == VERBOSE else response_format
    upload = replace(upload, session=session, output_format=output_format, is_streamed=is_streamed)
    return TranscriptionOptions(
        upload, response_format, granularities or (SEGMENT,), visible(language, SHOWN), temperature, bool(includes)
    )


def _one_of(name: str, value: str, allowed: Sequence[str]) -> str:
    if value not in allowed:
        raise option_error(f"{name} must be one of {', '.join(allowed)}, found '{visible(value, SHOWN)}'")
    return value


def _temperature(value: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = -1.0
    if not 0 <= number <= 1:
        raise option_error(f"temperature must be a number from 0 to 1, found '{visible(value, SHOWN)}'")
    return number
