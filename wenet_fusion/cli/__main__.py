"""The command `wenet-fusion`. Each verb is a module that adds its arguments, calls one function and prints."""

import argparse
from collections.abc import Callable, Sequence

from wenet_fusion_runtime.console import HelpFormatter, run_main

from wenet_fusion.cli import align, average, check, evaluate, export, inspect, report, score, train

VERBS = (train, average, evaluate, score, report, align, export, check, inspect)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command with all its verbs."""
    parser = argparse.ArgumentParser(
        prog="wenet-fusion",
        description="Train, evaluate and export streaming speech recognition models (FusionFormer).",
        epilog="Each verb explains itself: wenet-fusion train --help",
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    def verb(
        name: str, function: Callable[[argparse.Namespace], int], description: str, examples: Sequence[str]
    ) -> argparse.ArgumentParser:
        epilog = "\n".join(["examples:", *(f"  wenet-fusion {name} {example}" for example in examples)])
        brief = description[0].lower() + description[1:].rstrip(".")
        added = verbs.add_parser(
            name, help=brief, description=description, epilog=epilog, formatter_class=HelpFormatter
        )
        added.set_defaults(function=function, usage_error=added.error)
        return added

    for module in VERBS:
        module.add(verb)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line, run the verb and return its exit status.

    Raises:
        ValueError, OSError: a user's mistake, with its remedy.
    """
    parser = build_parser()
    args, rest = parser.parse_known_args(arguments)
    # argparse fills the positional `overrides` only once; overrides after an option may come back as unknown arguments.
    unknown = [item for item in rest if item.startswith("-") or "=" not in item or not hasattr(args, "overrides")]
    if unknown:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    if rest:
        args.overrides += rest
    return args.function(args)


def run() -> None:
    """Run as the console entry point: a user's error ends with one message and exit status 1."""
    run_main(main)


if __name__ == "__main__":
    run()
