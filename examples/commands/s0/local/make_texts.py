"""Stage -1: draw the texts for the synthesizers: sentences of conf/grammar.yaml, mixed with open text."""

from __future__ import annotations

import argparse
import gzip
import re
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

import numpy as np
from language import InstalledSentences, Language, read_grammar, transcript
from wenet_fusion_runtime.console import run_main
from wenet_fusion_runtime.files import write_text

_LONGEST_WORDS = 14  # maximum number of words in a sentence of open text
_ALLOWED = re.compile(r"[A-Z][A-Z']*( [A-Z][A-Z']*)*")


def draw_foreign(languages: Sequence[str], count: int, seed: int) -> Iterator[str]:
    """Yield lines "foreign-LANGUAGE<tab>SENTENCE" with Home Assistant's sentences that have no numbers."""
    rng = np.random.default_rng(seed)
    sources = {language: InstalledSentences(language, {}, {}) for language in languages}
    for _ in range(count):
        language = str(rng.choice(languages))
        yield f"foreign-{language}\t{sources[language].draw(rng)}"


def open_texts(paths: Sequence[Path]) -> list[list[str]]:
    """Return the sentences of each file (plain or .gz) that have only letters and at most _LONGEST_WORDS words."""
    found = []
    for path in paths:
        content = path.read_bytes()
        lines = (gzip.decompress(content) if path.suffix == ".gz" else content).decode().splitlines()
        sentences = [transcript(line) for line in lines]
        found.append([each for each in sentences if _ALLOWED.fullmatch(each) and len(each.split()) <= _LONGEST_WORDS])
        if not found[-1]:
            raise ValueError(f"{path}: holds no sentence of at most {_LONGEST_WORDS} words")
    return found


def draw_texts(language: Language, texts: list[list[str]], count: int, open_share: float, seed: int) -> Iterator[str]:
    """Yield lines "KIND<tab>TRANSCRIPT". No open text is repeated before all texts of its file are used."""
    rng = np.random.default_rng(seed)
    orders = [rng.permutation(len(each)) for each in texts]
    taken = [0] * len(texts)
    for _ in range(count):
        if texts and rng.random() < open_share:
            source = int(rng.integers(len(texts)))
            place = orders[source][taken[source] % len(texts[source])]
            taken[source] += 1
            yield f"open\t{texts[source][place]}"
        else:
            yield "\t".join(language.draw(rng))


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="example: python local/make_texts.py --count 1000 --open_text queries.txt.gz --output texts.tsv",
    )
    parser.add_argument("--grammar", type=Path, default=Path("conf/grammar.yaml"), help="templates of the language")
    parser.add_argument("--open_text", type=Path, nargs="*", default=[], help="files with a sentence per line")
    parser.add_argument(
        "--all_open_text", action="store_true", help="write each sentence of the open text once, before the drawn ones"
    )
    parser.add_argument("--open_share", type=float, default=0.4, help="share of open text (default: %(default)s)")
    parser.add_argument(
        "--foreign", nargs="*", default=[], metavar="CODE", help="draw sentences of these languages instead"
    )
    parser.add_argument("--count", type=int, required=True, help="number of drawn texts")
    parser.add_argument("--seed", type=int, default=0, help="seed of the draws (default: %(default)s)")
    parser.add_argument("--output", type=Path, required=True, help='file of lines "KIND<tab>TRANSCRIPT" to write')
    args = parser.parse_args(argv)
    if args.foreign:
        lines = draw_foreign(args.foreign, args.count, args.seed)
    else:
        language = Language(read_grammar(args.grammar))
        texts = open_texts(args.open_text)
        lines = draw_texts(language, texts, args.count, args.open_share, args.seed)
        if args.all_open_text:
            lines = chain((f"open\t{text}" for each in texts for text in each), lines)
    write_text(args.output, "".join(line + "\n" for line in lines))
    print(f"{args.output}: {args.count} texts" + ", and all open text" * args.all_open_text)
    return 0


if __name__ == "__main__":
    run_main(main)
