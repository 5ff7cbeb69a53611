"""Follow files of hot words and context that change while a recording is sent."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from wenet_fusion_runtime.cli.search_arguments import given_hot_words, read_context
from wenet_fusion_runtime.console import error_text
from wenet_fusion_runtime.server.session_options import HotWordUpdate


class HotWordFiles:
    """Reads the files of --hot_words and --context again when they change, and prints problems as warnings.

    Args:
        arguments: arguments of the command, with `hot_words`, `hot_word` and `context`.
    Attributes:
        latest: the last change that `changed` found, for the next recordings; None: no change so far.

    >>> HotWordFiles(argparse.Namespace(hot_words=None, hot_word=[], context=None)).changed() is None
    True
    """

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._arguments = arguments
        self._seen = self._stamps()
        self.latest: HotWordUpdate | None = None

    def changed(self) -> HotWordUpdate | None:
        """Return hot words and context if their files changed since the last call; None if not, or at an error."""
        seen = self._stamps()
        if seen == self._seen or None in seen:
            return None  # unchanged, or missing: while a file is replaced it may be missing for a moment
        self._seen = seen
        try:
            given = given_hot_words(self._arguments)
            context = None if self._arguments.context is None else read_context(self._arguments.context)
        except (OSError, ValueError) as error:
            self.refused(error_text(error))
            return None
        for problem in given.problems:
            self.refused(problem)
        self.latest = HotWordUpdate(given.usable, context)
        return self.latest

    def refused(self, message: str) -> None:
        """Print the reason why hot words are not used."""
        print(f"warning: {message}", file=sys.stderr, flush=True)

    def _stamps(self) -> tuple[tuple[int, int] | None, ...]:
        return tuple(map(_stamp, (self._arguments.hot_words, self._arguments.context)))


def _stamp(path: Path | None) -> tuple[int, int] | None:
    """Return modification time and size of a file; None if it is missing."""
    if path is None:
        return (0, 0)
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size
