"""Arguments for the search: mode, weights, pruning, language model, hot words and grammar."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from wenet_fusion_runtime.results.vocabulary import Vocabulary
from wenet_fusion_runtime.search.grammar.grammar import DEFAULT_THRESHOLD, read_grammar
from wenet_fusion_runtime.search.hot_words import (
    DEFAULT_BOOST,
    CheckedHotWords,
    HotWord,
    check_hot_words,
    parse_hot_word,
    read_hot_words,
)
from wenet_fusion_runtime.search.language_models.language_model import load_language_model
from wenet_fusion_runtime.search.modes import MODES, PREFIX_BEAM, RESCORING
from wenet_fusion_runtime.stream.decoding_options import DEFAULT_BEAM_SIZE, LANGUAGE_MODEL_WEIGHTS, DecodingOptions


def add_search_arguments(parser: argparse.ArgumentParser, with_mode: bool = True) -> None:
    """Add the arguments that `search_options` and `usable_hot_words` read.

    Args:
        parser: parser of the command.
        with_mode: add --mode; otherwise the mode is the model's default.
    """
    defaults = DecodingOptions()
    group = parser.add_argument_group("search")
    parser.set_defaults(mode=None)
    if with_mode:
        group.add_argument(
            "--mode",
            choices=MODES,
            help=f"search mode; default: {RESCORING} if the model has an attention decoder, else {PREFIX_BEAM}",
        )
    group.add_argument(
        "--beam_size",
        type=int,
        metavar="N",
        help=f"hypotheses in the beam; default: {DEFAULT_BEAM_SIZE}, or the vocabulary's size if it is smaller",
    )
    group.add_argument(
        "--ctc_weight",
        type=float,
        metavar="W",
        help="weight of the CTC score in attention rescoring; default: the model's",
    )
    group.add_argument(
        "--reverse_weight",
        type=float,
        metavar="W",
        help="share of the right-to-left decoder in the attention score, 0 to 1; default: the model's",
    )
    for name, metavar, text in (
        (
            "blank_penalty",
            "NATS",
            "subtract this from the log-probability of blank, for fewer deletions and more insertions",
        ),
        ("length_penalty", "NATS", "subtract this from the score for each token; negative values favour longer texts"),
        ("token_threshold", "NATS", "prune tokens more than NATS below the frame's best; inf prunes none"),
        ("blank_skip_threshold", "P", "consider only blank where it is more probable than P, to save time; 1: never"),
    ):
        group.add_argument(
            f"--{name}",
            type=float,
            default=getattr(defaults, name),
            metavar=metavar,
            help=f"{text} (default: %(default)g)",
        )
    group.add_argument(
        "--confidence_threshold",
        type=float,
        metavar="P",
        help="reject the text of a segment, e.g. of noise or another language, if its confidence (the sum of its n "
        "tokens' confidences, divided by n + 1) is below P (default: 0, or the installed model's)",
    )
    group = parser.add_argument_group("language model")
    group.add_argument(
        "--language_model",
        type=Path,
        metavar="FILE",
        help="word n-gram model: an ARPA file, which may be compressed with gzip, or a binary file of KenLM",
    )
    group.add_argument(
        "--lm_weight",
        type=float,
        metavar="W",
        help=f"weight of the language model's log-probabilities (default: {defaults.lm_weight:g})",
    )
    group.add_argument(
        "--word_bonus",
        type=float,
        metavar="NATS",
        help="add this to the score for each word, because a language model favours short texts (default: "
        f"{defaults.word_bonus:g})",
    )
    group.add_argument(
        "--unknown_word_penalty",
        type=float,
        metavar="NATS",
        help="subtract this from the score for each word that neither the language model nor a preferred hot word "
        f"contains, to find fewer invented words; 0 within a grammar (default: {defaults.unknown_word_penalty:g})",
    )
    add_hot_word_arguments(parser)


def add_hot_word_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that `given_hot_words` reads."""
    group = parser.add_argument_group("contextual biasing")
    group.add_argument(
        "--hot_words",
        type=Path,
        metavar="FILE",
        help="file of phrases to prefer, one per line; a tab and a boost may follow; # begins a comment line",
    )
    group.add_argument(
        "--hot_word",
        action="append",
        default=[],
        metavar="PHRASE[=BOOST]",
        help=f"phrase to prefer, with its boost in nats per token (default: {DEFAULT_BOOST:g}); a negative boost "
        "suppresses the phrase; may be repeated",
    )


def add_context_argument(parser: argparse.ArgumentParser) -> None:
    """Add the argument --context, which `read_context` reads."""
    parser.add_argument(
        "--context",
        type=Path,
        metavar="FILE",
        help="text about the topic of the speech, e.g. an agenda: its names and rare words are preferred",
    )


def read_context(path: Path) -> str:
    """Return the text of a file for --context.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: is not UTF-8 at byte {error.start}; save the context as UTF-8") from None


def search_options(options: DecodingOptions, arguments: argparse.Namespace) -> DecodingOptions:
    """Return the options with the values of the arguments, except hot words, and load the language model.

    Raises:
        ValueError: a value is out of its range, or has no effect without a language model.
        OSError, ValueError, ImportError: see `load_language_model`.
    """
    weights = {name: value for name in LANGUAGE_MODEL_WEIGHTS if (value := getattr(arguments, name)) is not None}
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
        confidence_threshold=arguments.confidence_threshold,
    )


def usable_hot_words(arguments: argparse.Namespace, vocabulary: Vocabulary) -> tuple[tuple[HotWord, ...], bool]:
    """Return the hot words of the arguments that are usable with a vocabulary, and whether all of them are.

    Unusable hot words are listed on standard error.

    Raises:
        OSError, ValueError: the file cannot be read, or is not text.
    """
    given = given_hot_words(arguments)
    checked = check_hot_words(given.usable, vocabulary)
    problems = [*given.problems, *checked.problems]
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    if problems:
        count = len(given.usable) + len(given.problems)
        print(f"error: {len(problems)} of {count} hot words cannot be used; going on without them", file=sys.stderr)
    return checked.usable, not problems


def given_hot_words(arguments: argparse.Namespace) -> CheckedHotWords:
    """Return the hot words of the arguments, not yet checked against a vocabulary.

    Raises:
        OSError, ValueError: the file cannot be read, or is not text.
    """
    found: list[HotWord] = []
    problems: list[str] = []
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


def add_grammar_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that `with_grammar` reads."""
    group = parser.add_argument_group("grammar")
    add_grammar_argument(group)
    group.add_argument(
        "--grammar_threshold",
        type=float,
        metavar="NATS",
        help="reject a sentence if its log-probability is more than NATS per token below that of the text without the "
        f"grammar; inf rejects nothing (default: {DEFAULT_THRESHOLD:g})",
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
        ValueError: the file is no grammar, or the threshold is out of its range or given without a grammar.
    """
    if arguments.grammar_threshold is not None:
        if arguments.grammar is None:
            raise ValueError("--grammar_threshold has no effect without --grammar FILE")
        options = replace(options, grammar_threshold=arguments.grammar_threshold)
    return options if arguments.grammar is None else replace(options, grammar=read_grammar(arguments.grammar))
