"""What commands share, above all the options of those that recognise. Knows no command."""

from __future__ import annotations

import argparse
import gc
from dataclasses import fields, replace

from wenet_fusion_runtime.cli.search_arguments import add_search_arguments, search_options, usable_hot_words
from wenet_fusion_runtime.model.model_file import read_meta
from wenet_fusion_runtime.results.formats import FORMATS, JSON, TEXT
from wenet_fusion_runtime.stream.decoding_options import DecodingOptions
from wenet_fusion_runtime.stream.endpoints import EndpointRules
from wenet_fusion_runtime.stream.recognizer import Recognizer, Stream

Commands = argparse._SubParsersAction  # argparse has no public name for it


def add_recognition_flags(command: argparse.ArgumentParser, defaults: DecodingOptions) -> None:
    """Add the flags that `build_recognizer` and `create_stream` read; of `defaults` those of partial results and
    endpoints are the command's own."""
    command.add_argument(
        "--chunk",
        type=int,
        metavar="FRAMES",
        help="encoder frames per chunk: fewer show text sooner (default: the model's)",
    )
    command.add_argument(
        "--left", type=int, metavar="CHUNKS", help="chunks that stay visible to the left (default: as in training)"
    )
    command.add_argument(
        "--allow_untrained",
        action="store_true",
        help="allow chunks and left contexts that the model was not trained for",
    )
    add_search_arguments(command)
    command.add_argument(
        "--commit_seconds",
        type=_seconds_or_off,
        default=defaults.commit_seconds,
        metavar="S|off",
        help="text this old is decided for good, so that a partial result can mark it; off: when its "
        f"segment closes (default: {_shown(defaults.commit_seconds)})",
    )
    add_endpoint_flags(command, defaults.endpoint)


def add_format_flags(command: argparse.ArgumentParser, unit: str) -> None:
    """Add --format and --partials; plain text has a line for each `unit`."""
    command.add_argument(
        "--format",
        choices=FORMATS,
        default=TEXT,
        help=f"text: a line per {unit}; json: an object per closed segment, with words, tokens, times "
        "and confidence; ctm: a line per word; srt, vtt: subtitles (default: %(default)s)",
    )
    command.add_argument(
        "--partials",
        action="store_true",
        help="text and json: each new partial text on a line of its own, also when not on a terminal",
    )


def check_format(options: argparse.Namespace) -> None:
    """Raises ValueError if the flags of `add_format_flags` do not go together."""
    if options.partials and options.format not in (TEXT, JSON):
        raise ValueError(f"--partials goes with --format {TEXT} or {JSON}, not with {options.format}")


def build_recognizer(options: argparse.Namespace, nbest: int | None = None) -> tuple[Recognizer, bool]:
    """The model, loaded and warm, with the flags of `add_recognition_flags`; and whether all hot words can be used.

    Args:
        nbest: hypotheses of each result; None: as many as the beam has.
    Raises:
        OSError, ValueError, ImportError: see `Recognizer`.
    """
    endpoint = EndpointRules(
        options.rule1_seconds,
        options.rule2_seconds,
        options.rule3_seconds,
        options.rule3_silence_seconds,
        options.rule3_extra_seconds,
        options.silence_probability,
    )
    decoding = search_options(
        DecodingOptions(nbest=nbest, endpoint=endpoint, commit_seconds=options.commit_seconds), options
    )
    hot_words, all_usable = usable_hot_words(options, read_meta(options.model).vocabulary)
    recognizer = Recognizer(options.model, replace(decoding, hot_words=hot_words))
    # What is loaded now stays to the end. The garbage collector would look through all of it again and again, in the
    # middle of somebody's sentence, for a tenth of a second each time.
    gc.collect()
    gc.freeze()
    return recognizer, all_usable


def extra_needed(who: str, extra: str, error: ImportError) -> ImportError:
    """What a user is told when a package of an extra is missing; another import's failure is told as it is."""
    if error.name is None or error.name.startswith("wenet_fusion_runtime"):
        return error
    return ImportError(f"{who} needs {error.name}, which is not installed: pip install 'wenet-fusion-runtime[{extra}]'")


def create_stream(recognizer: Recognizer, options: argparse.Namespace) -> Stream:
    """A fresh stream with the chunk that the flags say.

    Raises:
        ValueError: the chunk does not suit the model.
    """
    return recognizer.create_stream(options.chunk, options.left, options.allow_untrained)


def add_endpoint_flags(command: argparse.ArgumentParser, defaults: EndpointRules | None) -> None:
    """Add a flag for each rule; without `defaults` those of a server hold, and `given_endpoint` tells what was given."""

    def settings(name: str) -> tuple[object, str]:
        if defaults is None:
            return argparse.SUPPRESS, "the server's"
        value = getattr(defaults, name)
        return value, "if blank is the most probable unit" if name == "silence_probability" else _shown(value)

    group = command.add_argument_group(
        "endpoints", "When a segment of the text closes and becomes final. Seconds are rounded to encoder frames."
    )
    for name, meaning in (
        ("rule1_seconds", "so much silence closes a segment without text"),
        ("rule2_seconds", "so much silence after text closes a segment"),
    ):
        default, shown = settings(name)
        group.add_argument(
            f"--{name}", type=_seconds_or_off, default=default, metavar="S|off", help=f"{meaning} (default: {shown})"
        )
    for name, meaning in (
        ("rule3_seconds", "a segment this long closes at the next silence"),
        ("rule3_silence_seconds", "what counts as silence for rule 3"),
        ("rule3_extra_seconds", "without such a silence the segment closes so much later, perhaps within a word"),
    ):
        default, shown = settings(name)
        group.add_argument(f"--{name}", type=float, default=default, metavar="S", help=f"{meaning} (default: {shown})")
    default, shown = settings("silence_probability")
    group.add_argument(
        "--silence_probability",
        type=float,
        default=default,
        metavar="P",
        help=f"a frame is silent if blank is more probable than this (default: {shown})",
    )


def given_endpoint(options: argparse.Namespace) -> dict[str, float | None]:
    """The rules that were given where `add_endpoint_flags` had no defaults."""
    names = (field.name for field in fields(EndpointRules))
    return {name: getattr(options, name) for name in names if hasattr(options, name)}


def _shown(value: float | None) -> str:
    return "off" if value is None else f"{value:g}"


def _seconds_or_off(value: str) -> float | None:
    try:
        return None if value == "off" else float(value)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected seconds or 'off', found '{value}'") from None
