"""Arguments of commands that say how frames become text. Knows no command and no audio."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from wenet_fusion_runtime.results.vocabulary import Vocabulary
from wenet_fusion_runtime.search.hot_words import (
    DEFAULT_BOOST,
    CheckedHotWords,
    HotWord,
    check_hot_words,
    parse_hot_word,
    read_hot_words,
)
from wenet_fusion_runtime.search.language_model import load_language_model
from wenet_fusion_runtime.search.modes import MODES
from wenet_fusion_runtime.stream.decoding_options import DEFAULT_BEAM_SIZE, DecodingOptions


def add_search_arguments(parser: argparse.ArgumentParser, with_mode: bool = True) -> None:
    """Add the arguments that `search_options` and `usable_hot_words` read; without a mode it is the model's."""
    defaults = DecodingOptions()
    group = parser.add_argument_group("search")
    parser.set_defaults(mode=None)
    if with_mode:
        group.add_argument(
            "--mode", choices=MODES, help=f"default: {MODES[2]} if the model has a decoder, else {MODES[1]}"
        )
    group.add_argument(
        "--beam_size",
        type=int,
        metavar="N",
        help=f"hypotheses of the beam search (default: {DEFAULT_BEAM_SIZE}, or as many as the model has units)",
    )
    group.add_argument("--ctc_weight", type=float, metavar="W", help="of CTC in rescoring (default: the model's)")
    group.add_argument(
        "--reverse_weight",
        type=float,
        metavar="W",
        help="of the right-to-left decoder in rescoring, 0 to 1 (default: the model's)",
    )
    group.add_argument(
        "--blank_penalty",
        type=float,
        default=defaults.blank_penalty,
        metavar="NATS",
        help="makes silence less probable: fewer deletions, more insertions (default: %(default)g)",
    )
    group.add_argument(
        "--length_penalty",
        type=float,
        default=defaults.length_penalty,
        metavar="NATS",
        help="taken for each token; negative favours longer texts (default: %(default)g)",
    )
    group.add_argument(
        "--token_threshold",
        type=float,
        default=defaults.token_threshold,
        metavar="NATS",
        help="units so much below a frame's best are not considered; inf: all are (default: %(default)g)",
    )
    group.add_argument(
        "--blank_skip_threshold",
        type=float,
        default=defaults.blank_skip_threshold,
        metavar="P",
        help="frames whose blank is more probable are skipped, which saves time (default: %(default)g, never)",
    )
    group.add_argument(
        "--language_model",
        type=Path,
        metavar="FILE",
        help="n-gram model of words: an ARPA file, also compressed with gzip, or a binary file of KenLM",
    )
    group.add_argument(
        "--lm_weight",
        type=float,
        metavar="W",
        help=f"of the language model's log-probabilities (default: {defaults.lm_weight:g})",
    )
    group.add_argument(
        "--word_bonus",
        type=float,
        metavar="NATS",
        help=f"for each word that the language model scores (default: {defaults.word_bonus:g})",
    )
    add_hot_word_arguments(group)


def add_hot_word_arguments(group: argparse._ActionsContainer) -> None:
    """Add the arguments that `given_hot_words` reads."""
    group.add_argument(
        "--hot_words",
        type=Path,
        metavar="FILE",
        help="phrases that are preferred: one in each line, if need be a tab and its boost; # begins a comment",
    )
    group.add_argument(
        "--hot_word",
        action="append",
        default=[],
        metavar="PHRASE[=BOOST]",
        help=f"one more of them, may be repeated; boost in nats per unit (default: {DEFAULT_BOOST:g}), "
        "negative to suppress the phrase",
    )


def search_options(options: DecodingOptions, arguments: argparse.Namespace) -> DecodingOptions:
    """The options with the arguments' values, but for hot words. Loads the language model.

    Raises:
        ValueError: a value is out of its range, or means nothing without a language model.
        OSError, ValueError, ImportError: see `load_language_model`.
    """
    weights = {name: value for name in ("lm_weight", "word_bonus") if (value := getattr(arguments, name)) is not None}
    if weights and arguments.language_model is None:
        have = "has" if len(weights) == 1 else "have"
        raise ValueError(f"--{' and --'.join(weights)} {have} no effect without --language_model FILE")
    if arguments.language_model is not None:
        options = replace(options, language_model=load_language_model(arguments.language_model), **weights)
    return replace(
        options,
        mode=arguments.mode,
        beam_size=arguments.beam_size,
        ctc_weight=arguments.ctc_weight,
        reverse_weight=arguments.reverse_weight,
        blank_penalty=arguments.blank_penalty,
        length_penalty=arguments.length_penalty,
        token_threshold=arguments.token_threshold,
        blank_skip_threshold=arguments.blank_skip_threshold,
    )


def usable_hot_words(arguments: argparse.Namespace, units: Vocabulary) -> tuple[tuple[HotWord, ...], bool]:
    """The hot words of the arguments that can be used, and whether all can. The others are listed on stderr.

    Raises:
        OSError, ValueError: the file cannot be read, or is no text.
    """
    given = given_hot_words(arguments)
    checked = check_hot_words(given.usable, units)
    problems = [*given.problems, *checked.problems]
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    if problems:
        count = len(given.usable) + len(given.problems)
        print(f"error: {len(problems)} of {count} hot words cannot be used; going on without them", file=sys.stderr)
    return checked.usable, not problems


def given_hot_words(arguments: argparse.Namespace) -> CheckedHotWords:
    """The hot words of the arguments, not yet checked against a model's units.

    Raises:
        OSError, ValueError: the file cannot be read, or is no text.
    """
    found, problems = [], []
    if arguments.hot_words is not None:
        read = read_hot_words(arguments.hot_words)
        found += read.usable
        problems += read.problems
    for text in arguments.hot_word:
        try:
            found.append(parse_hot_word(text, "=", "--hot_word"))
        except ValueError as error:
            problems.append(str(error))
    return CheckedHotWords(tuple(found), tuple(problems))
