"""Arguments for a grammar."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from wenet_fusion_runtime.search.grammar.grammar import DEFAULT_THRESHOLD, read_grammar
from wenet_fusion_runtime.stream.decoding_options import DecodingOptions


def add_grammar_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that `with_grammar` reads."""
    group = parser.add_argument_group("grammar")
    add_grammar_argument(group)
    group.add_argument(
        "--grammar_threshold",
        type=float,
        metavar="NATS",
        help="reject speech for which the grammar costs more than NATS per token; inf rejects nothing (default: "
        f"{DEFAULT_THRESHOLD:g})",
    )


def add_grammar_argument(parser: argparse._ActionsContainer) -> None:
    """Add the argument --grammar."""
    parser.add_argument(
        "--grammar",
        type=Path,
        metavar="FILE",
        help="recognise only the sentences of this file: a phrase per line, or JSGF after the header #JSGF V1.0;",
    )


def with_grammar(options: DecodingOptions, arguments: argparse.Namespace) -> DecodingOptions:
    """Return the options with the grammar of the arguments.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no grammar, the threshold is out of its range, or it has no effect without a grammar.
    """
    if arguments.grammar_threshold is not None:
        if arguments.grammar is None:
            raise ValueError("--grammar_threshold has no effect without --grammar FILE")
        options = replace(options, grammar_threshold=arguments.grammar_threshold)
    return options if arguments.grammar is None else replace(options, grammar=read_grammar(arguments.grammar))
