"""What commands share. Knows no command."""

from __future__ import annotations

import argparse

from wenet_fusion_runtime.endpoint import EndpointRules

USER_ERRORS = (ValueError, OSError, ImportError)    # what a user can mend: printed as one message, without a traceback
Commands = argparse._SubParsersAction               # argparse has no public name for it


def add_endpoint_flags(command: argparse.ArgumentParser, defaults: EndpointRules) -> None:
    """Add the flags that `endpoint_rules` reads."""

    def shown(value: float | None) -> str:
        return "off" if value is None else f"{value:g}"

    group = command.add_argument_group(
        "endpoints", "When a segment of the text closes and becomes final. Seconds are rounded to encoder frames.")
    for name, meaning in (
        ("rule1_seconds", "so much silence closes a segment without text"),
        ("rule2_seconds", "so much silence after text closes a segment"),
    ):
        group.add_argument(f"--{name}", type=_seconds_or_off, default=getattr(defaults, name), metavar="S|off",
                           help=f"{meaning} (default: {shown(getattr(defaults, name))})")
    for name, meaning in (
        ("rule3_seconds", "a segment this long closes at the next silence"),
        ("rule3_silence_seconds", "what counts as silence for rule 3"),
        ("rule3_extra_seconds", "without such a silence the segment closes so much later, perhaps within a word"),
    ):
        group.add_argument(f"--{name}", type=float, default=getattr(defaults, name), metavar="S",
                           help=f"{meaning} (default: %(default)g)")
    group.add_argument("--silence_probability", type=float, default=defaults.silence_probability, metavar="P",
                       help="a frame is silent if blank is more probable than this (default: if blank is the most "
                            "probable unit)")


def endpoint_rules(options: argparse.Namespace) -> EndpointRules:
    """The rules that the flags of `add_endpoint_flags` say.

    Raises:
        ValueError: a value is out of its range.
    """
    return EndpointRules(
        options.rule1_seconds, options.rule2_seconds, options.rule3_seconds, options.rule3_silence_seconds,
        options.rule3_extra_seconds, options.silence_probability)


def _seconds_or_off(value: str) -> float | None:
    try:
        return None if value == "off" else float(value)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected seconds or 'off', found '{value}'") from None
