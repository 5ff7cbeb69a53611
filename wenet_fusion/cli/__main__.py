"""The command `wenet-fusion`: one file of `commands/` for each group of verbs, which parses, calls one function, prints."""

import argparse
from collections.abc import Callable, Sequence

from wenet_fusion_runtime.console import HelpFormatter, run_main

from wenet_fusion.cli import align, check, evaluate, export, train


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="wenet-fusion", description="Streaming speech recognition with FusionFormer.")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    def verb(name: str, function: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        added = verbs.add_parser(name, help=text, description=text, formatter_class=HelpFormatter)
        added.set_defaults(function=function)
        return added

    for group in (train, evaluate, align, export, check):
        group.add(verb)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    parser = build_parser()
    args, rest = parser.parse_known_args(arguments)
    # Once argparse has matched `overrides` with nothing, those that stand behind an option come back as unknown.
    unknown = [item for item in rest if item.startswith("-") or "=" not in item or not hasattr(args, "overrides")]
    if unknown:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    if rest:
        args.overrides += rest
    if args.verb == "check" and args.what == "data" and args.config is None:
        parser.error("check data needs --config, whose tokenizer and front-end say what is usable")
    return args.function(args)


def run() -> None:
    """Console entry: errors of the user end with one message, not a traceback."""
    run_main(main)


if __name__ == "__main__":
    run()
