"""Language models: the probability of a word after the words before it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from wenet_fusion_runtime.console import unusable_package
from wenet_fusion_runtime.results.normalization import normalize_text
from wenet_fusion_runtime.search.language_models.arpa import Arpa, NgramTable, read_arpa

KENLM_BINARY = b"mmap lm http://kheafield.com/code"
_START, _END, _UNKNOWN = "<s>", "</s>", ("<unk>", "<UNK>")
_ABSENT_UNKNOWN = -100.0  # log10 probability of unknown words in a model without <unk>, as in KenLM
_LN_10 = math.log(10.0)


class LanguageModel(Protocol):
    """The interface of a language model: the probability of each next word. All streams and threads share it.

    States are opaque values, hashable or not, that no call changes. The search keeps one per prefix and calls `advance`
    once per word of each prefix, when the word is complete; hypotheses that share words share the call.

    A word is the text between two spaces of a result, in the letter case of the acoustic model's tokens and without
    marks of word starts. The acoustic model's token `<unk>` is the word `<unk>`. In a vocabulary of pieces without any
    U+2581, each token is a word.
    """

    @property
    def name(self) -> str:
        """The model's name in messages, e.g. its file."""
        ...

    @property
    def words(self) -> Sequence[str]:
        """The words of the model; empty if the model cannot list them."""
        ...

    def start(self) -> Any:
        """Return the state before the first word of a segment."""
        ...

    def advance(self, state: Any, word: str) -> tuple[float, Any]:
        """Return the natural-log probability of `word` after `state`, finite and at most 0, and the state after it.

        An unknown word has the probability of the model's `<unk>`.
        """
        ...

    def finish(self, state: Any) -> float:
        """Return the natural-log probability that the text ends after `state`; finite, at most 0."""
        ...


def load_language_model(path: str | Path) -> LanguageModel:
    """Load a language model from an ARPA file, plain or compressed with gzip, or from a binary file of KenLM.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file is damaged or of another kind; the message names the line and the remedy.
        ImportError: the file is a binary file, and the package kenlm is not installed.
    """
    return KenlmModel(path) if is_kenlm_binary(path) else NgramModel(read_arpa(path), str(path))


def is_kenlm_binary(path: str | Path) -> bool:
    """Return whether a file is a binary file of KenLM, which needs the package kenlm."""
    with open(path, "rb") as file:
        return file.read(len(KENLM_BINARY)) == KENLM_BINARY


class NgramModel:
    """An n-gram model with backoff: the longest known n-gram that ends in the word gives its probability; each word by
    which the context was shortened adds a backoff weight.

    The n-grams are the nodes of a tree in which a node's parent is the n-gram without its last word. A node is found by
    binary search for its parent and its word in one sorted array. A state is the number of a node: the longest known
    n-gram at the end of the text whose order is below the highest. An n-gram takes 20 bytes, a word about 100 more.

    Args:
        arpa: the n-grams.
        source: their file, for error messages.
    Attributes:
        name: the file.
        words: all words except <s>, </s> and <unk>.
    Raises:
        ValueError: an n-gram occurs twice or lacks its beginning, or <s> or </s> is missing.
    Source: Katz 1987, "Estimation of probabilities from sparse data for the language model component of a speech
    recognizer".

    >>> unigrams = NgramTable(
    ...     np.array([[0], [1], [2]], np.int32), np.array([-99, -0.5, -1], np.float32), np.zeros(3, np.float32), 1
    ... )
    >>> model = NgramModel(Arpa(("<s>", "</s>", "one"), (unigrams,)), "one.arpa")
    >>> round(model.finish(model.start()), 3)  # -0.5 is a logarithm to the base 10
    -1.151
    """

    def __init__(self, arpa: Arpa, source: str) -> None:
        self.name = source
        arpa = _with_unknown(arpa)
        self.words = tuple(word for word in arpa.words if word not in (_START, _END, *_UNKNOWN))
        self._numbers = {word: number for number, word in enumerate(arpa.words)}
        for word in (_START, _END):
            if word not in self._numbers:
                raise ValueError(
                    f"{source}: has no 1-gram {word}; train the model with a tool that marks where sentences begin "
                    "and end"
                )
        # Results are normalised. If the model's words are not, they are found by their normal forms.
        self._normal_forms = {
            normal: number
            for word, number in self._numbers.items()
            if (normal := normalize_text(word)) not in self._numbers
        }
        self._unknown = next(self._numbers[word] for word in _UNKNOWN if word in self._numbers)
        # Node 0 is the empty n-gram. Node i > 0 has keys[i - 1] = parent * number of words + last word. The orders are
        # stored one after the other, so parents precede their children and all keys form one sorted array.
        self._keys = np.empty(0, np.int64)
        self._log_probs = np.zeros(1, np.float32)
        self._backoffs = np.zeros(1, np.float32)
        self._shorter = np.zeros(1, np.int32)  # for each node, the node of its longest proper suffix
        self._first_of_highest = 0
        for table in arpa.tables:
            self._add(table)

    def __contains__(self, word: str) -> bool:
        """Return whether the word is in the model's vocabulary."""
        return word in self._numbers or self._number(word) != self._unknown

    def start(self) -> int:
        """Return the state before the first word; see `LanguageModel`."""
        return self._after(self._child(0, self._numbers[_START]))

    def advance(self, state: int, word: str) -> tuple[float, int]:
        """Return the log-probability of a word and the state after it; see `LanguageModel`."""
        number = self._number(word)
        log_prob = 0.0
        while not (node := self._child(state, number)):
            log_prob += float(self._backoffs[state])
            state = int(self._shorter[state])
        log_prob += float(self._log_probs[node])
        return min(log_prob, 0.0), self._after(node)  # backoff weights above 1 may lead to more than 0 by rounding

    def finish(self, state: int) -> float:
        """Return the log-probability of the end; see `LanguageModel`."""
        return self.advance(state, _END)[0]

    def _number(self, word: str) -> int:
        """Return the number of a word, in the model's spelling or in normal form; for unknown words that of <unk>."""
        number = self._numbers.get(word)
        if number is None:
            normal = normalize_text(word)
            number = self._numbers.get(normal, self._normal_forms.get(normal, self._unknown))
        return number

    def _after(self, node: int) -> int:
        """Return the state of a text whose longest known n-gram at the end is `node`."""
        return node if node < self._first_of_highest else int(self._shorter[node])

    def _child(self, node: int, word: int) -> int:
        """Return the node of the n-gram with one more word; 0 if there is none."""
        key = node * len(self._numbers) + word
        at = int(self._keys.searchsorted(key))
        return at + 1 if at < len(self._keys) and self._keys[at] == key else 0

    def _children(self, nodes: np.ndarray, words: np.ndarray) -> np.ndarray:
        """Return `_child` for arrays of nodes and words."""
        keys = nodes.astype(np.int64) * len(self._numbers) + words
        at = np.minimum(self._keys.searchsorted(keys), len(self._keys) - 1)
        return np.where(self._keys[at] == keys, at + 1, 0)

    def _add(self, table: NgramTable) -> None:
        """Add the n-grams of the next order."""
        parents = np.zeros(len(table.words), np.int64)
        for length, column in enumerate(table.words.T[:-1], start=1):
            parents = self._children(parents, column)
            if not parents.all():
                raise self._error(table, int(parents.argmin()), f"lacks its first {length} words as {length}-gram")
        keys = parents * len(self._numbers) + table.words[:, -1]
        order = np.argsort(keys, kind="stable")
        keys, parents, words = keys[order], parents[order], table.words[order, -1]
        twice = np.flatnonzero(keys[1:] == keys[:-1])
        if len(twice):
            first, second = order[twice[0]], order[twice[0] + 1]
            raise self._error(table, second, f"is already in line {table.first_line + first}")

        shorter = np.zeros(len(keys), np.int32)
        if table.words.shape[1] > 1:
            ends, rows = self._shorter[parents], np.arange(len(keys))
            while len(rows):  # rows whose shorter n-gram is not found yet; the search ends at 1-grams, which all exist
                shorter[rows] = self._children(ends[rows], words[rows])
                rows = rows[shorter[rows] == 0]
                ends[rows] = self._shorter[ends[rows]]
        self._first_of_highest = len(self._shorter)
        self._keys = np.concatenate([self._keys, keys])
        self._log_probs = np.concatenate([self._log_probs, table.log_probs[order] * np.float32(_LN_10)])
        self._backoffs = np.concatenate([self._backoffs, table.backoffs[order] * np.float32(_LN_10)])
        self._shorter = np.concatenate([self._shorter, shorter])

    def _error(self, table: NgramTable, row: int, problem: str) -> ValueError:
        words = list(self._numbers)
        text = " ".join(words[number] for number in table.words[row])
        return ValueError(f"{self.name}:{table.first_line + row}: the n-gram '{text}' {problem}; train the model again")


def _with_unknown(arpa: Arpa) -> Arpa:
    """Return the n-grams, with <unk> added if there is none."""
    if any(word in arpa.words for word in _UNKNOWN):
        return arpa
    words, log_probs, backoffs, first_line = arpa.tables[0]
    unigrams = NgramTable(
        np.concatenate([words, np.array([[len(words)]], words.dtype)]),
        np.append(log_probs, np.float32(_ABSENT_UNKNOWN)),
        np.append(backoffs, np.float32(0.0)),
        first_line,
    )
    return Arpa((*arpa.words, _UNKNOWN[0]), (unigrams, *arpa.tables[1:]))


class KenlmModel:
    """A language model in a binary file of KenLM, run by the package kenlm.

    Args:
        path: the file.
    Attributes:
        name: the file.
        words: empty: kenlm cannot list them.
    Raises:
        ImportError: the package is not installed.
        ValueError: the package cannot read the file.

    >>> model = KenlmModel("lm.bin")  # doctest: +SKIP
    >>> model.finish(model.start())  # doctest: +SKIP
    -1.151
    """

    def __init__(self, path: str | Path) -> None:
        self.name = str(path)
        self.words: tuple[str, ...] = ()
        self._kenlm = _import_kenlm(path)
        try:
            self._model = self._kenlm.Model(str(path))
        except OSError as error:  # raised for any kind of damage
            reason = " ".join(str(error).split())
            raise ValueError(
                f"{path}: KenLM cannot read it ({reason}); make it again with build_binary, or give the ARPA file"
            ) from None

    def __contains__(self, word: str) -> bool:
        """Return whether the word is in the model's vocabulary."""
        return word in self._model

    def start(self) -> Any:
        """Return the state before the first word; see `LanguageModel`."""
        state = self._kenlm.State()
        self._model.BeginSentenceWrite(state)
        return state

    def advance(self, state: Any, word: str) -> tuple[float, Any]:
        """Return the log-probability of a word and the state after it; see `LanguageModel`."""
        after = self._kenlm.State()
        log_prob = self._model.BaseScore(state, word, after)
        return min(log_prob * _LN_10, 0.0), after

    def finish(self, state: Any) -> float:
        """Return the log-probability of the end; see `LanguageModel`."""
        return self.advance(state, _END)[0]


def _import_kenlm(path: str | Path) -> Any:
    try:
        import kenlm
    except (ImportError, OSError, MemoryError) as error:
        missing = (
            f"{path} is a binary file of KenLM, which needs the package kenlm: pip install "
            "'wenet-fusion-runtime[lm]' (it builds for a minute and needs a C++ compiler), or give the "
            "ARPA file that it was made from"
        )
        raise unusable_package("kenlm", missing, error) from error
    return kenlm
