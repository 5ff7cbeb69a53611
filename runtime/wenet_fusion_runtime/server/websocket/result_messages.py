"""Messages of WeNet's WebSocket protocol that hold results."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from wenet_fusion_runtime.model.metadata import Meta
from wenet_fusion_runtime.results.formats import compact_json, segment_record, word_record
from wenet_fusion_runtime.results.result import Hypothesis, Result, Token, Word
from wenet_fusion_runtime.server.session_options import SessionOptions
from wenet_fusion_runtime.stream.result_building import make_tokens


class ResultMessages:
    """Write the results of one session as messages.

    Args:
        options: options of the session.
        meta: describes the model.

    >>> def texts(results: Sequence[Result], meta: Meta) -> list[str]:
    ...     messages = ResultMessages(SessionOptions(), meta)
    ...     return [messages.final(result) if result.is_final else messages.partial(result) for result in results]
    """

    def __init__(self, options: SessionOptions, meta: Meta) -> None:
        self._options, self._meta = options, meta
        # The words of the last result as JSON. Partial results repeat all words of the segment, and few of them change.
        self._encoded: dict[Word, str] = {}

    def partial(self, result: Result) -> str:
        """Return the message with the open segment so far."""
        text = self._meta.vocabulary.text
        nbest = [{"sentence": text(hypothesis.ids)} for hypothesis in result.hypotheses[: self._options.nbest]]
        return self._message("partial_result", nbest, result)

    def final(self, result: Result) -> str:
        """Return the message with a closed segment."""
        nbest = [
            {
                "sentence": self._meta.vocabulary.text(hypothesis.ids) if rank else result.text,  # the best: formatted
                "word_pieces": [
                    {
                        "word": token.text,
                        "start": round(1000 * token.start_seconds),
                        "end": round(1000 * token.end_seconds),
                    }
                    for token in self._tokens(hypothesis, result)
                ],
            }
            for rank, hypothesis in enumerate(result.hypotheses[: self._options.nbest])
        ]
        return self._message("final_result", nbest, result)

    def _message(self, kind: str, nbest: list[dict[str, Any]], result: Result) -> str:
        message = {"status": "ok", "type": kind, "nbest": compact_json(nbest)}  # JSON in a string, as in WeNet
        if not self._options.timestamps:
            return compact_json(message)
        head = compact_json(message | segment_record(result))
        return f'{head[:-1]},"words":[{",".join(self._words(result.words))}],"committed":{result.committed}}}'

    def _words(self, words: Sequence[Word]) -> list[str]:
        texts = [self._encoded.get(word) or _word_text(word) for word in words]
        self._encoded = dict(zip(words, texts))
        return texts

    def _tokens(self, hypothesis: Hypothesis, result: Result) -> tuple[Token, ...]:
        """Return the tokens of any hypothesis of a result, with timestamps made like those of the best one.

        No token begins before the start of the segment or of the best hypothesis, whichever is earlier: a result does
        not say where the previous segment ended.
        """
        earliest = min([result.start_seconds, *(token.start_seconds for token in result.tokens[:1])])
        return make_tokens(hypothesis, self._meta, earliest, result.end_seconds)


def _word_text(word: Word) -> str:
    return compact_json({**word_record(word), "spaced": word.spaced})
