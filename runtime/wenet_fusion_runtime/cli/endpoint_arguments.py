"""Arguments for the endpoint rules, which close segments."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import fields

from wenet_fusion_runtime.stream.endpoints import EndpointRules

_RULES: tuple[tuple[str, str], ...] = (
    ("rule1_seconds", "close a segment without text after this much silence"),
    ("rule2_seconds", "close a segment with text after this much silence"),
    ("rule3_seconds", "close a segment of at least this length at its next silence"),
    ("rule3_silence_seconds", "shortest silence at which rule 3 closes a segment"),
    ("rule3_extra_seconds", "without a silence, close a segment this much after rule3_seconds, even within a word"),
    ("silence_probability", "treat a frame as silent if blank is more probable than P"),
    (
        "complete_probability",
        "close a segment once its sentence is complete with probability P, according to the language model and the "
        "silence so far",
    ),
    ("complete_seconds", "shortest silence after which a sentence counts as complete"),
    (
        "complete_pause_seconds",
        "mean pause within a sentence; each silence of this length multiplies the odds of the sentence's end by e",
    ),
)


def add_endpoint_arguments(command: argparse.ArgumentParser, defaults: EndpointRules | None) -> None:
    """Add an argument for each rule.

    Args:
        command: parser of the command.
        defaults: default values; None if the server chooses them, see `given_endpoint`.
    """
    group = command.add_argument_group(
        "endpoints",
        "Rules that close a segment and make its text final. Durations are in seconds, rounded to encoder frames.",
    )
    for name, meaning in _RULES:
        can_be_off = name in ("rule1_seconds", "rule2_seconds", "complete_probability")
        kind: Callable[[str], float | None] = seconds_or_off if can_be_off else float
        default = None if defaults is None else getattr(defaults, name)
        if defaults is None:
            shown = "the server's"
        elif name == "silence_probability":
            shown = "if blank is the most probable token"
        else:
            shown = shown_seconds(default)
        metavar = ("P" if name.endswith("_probability") else "S") + "|off" * can_be_off
        group.add_argument(
            f"--{name}",
            type=kind,
            default=argparse.SUPPRESS if defaults is None else default,
            metavar=metavar,
            help=f"{meaning} (default: {shown})",
        )


def endpoint_rules(options: argparse.Namespace) -> EndpointRules:
    """Return the rules from the arguments."""
    return EndpointRules(**{field.name: getattr(options, field.name) for field in fields(EndpointRules)})


def given_endpoint(options: argparse.Namespace) -> dict[str, float | None]:
    """Return the rules that the user gave; all rules if `add_endpoint_arguments` was called with defaults."""
    names = (field.name for field in fields(EndpointRules))
    return {name: getattr(options, name) for name in names if hasattr(options, name)}


def shown_seconds(value: float | None) -> str:
    """Return a default value as the help shows it."""
    return "off" if value is None else f"{value:g}"


def seconds_or_off(text: str) -> float | None:
    """Parse seconds or a probability, or "off" as None. Raises argparse.ArgumentTypeError for other text."""
    try:
        return None if text == "off" else float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a number or 'off', found '{text}'") from None
