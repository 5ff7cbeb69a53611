"""Turn the results of sessions into the events of conversation items."""

from __future__ import annotations

from dataclasses import dataclass, field

from wenet_fusion_runtime.engine.session import Update
from wenet_fusion_runtime.results.result import Result, Word
from wenet_fusion_runtime.results.vocabulary import Vocabulary
from wenet_fusion_runtime.results.words import joined_words, spaced_text
from wenet_fusion_runtime.server.openai.realtime_events import event, new_id

_TRANSCRIPTION = "conversation.item.input_audio_transcription"


@dataclass
class _Item:
    """An item whose audio is being recognised."""

    id: str = field(default_factory=lambda: new_id("item"))
    has_closed: bool = False  # the item has a closed segment with words
    sent: int = 0  # number of characters of the open segment that were sent as deltas
    text: str = ""  # text of its closed segments, formatted, with outer spaces
    start_seconds: float = 0.0


class ItemEvents:
    """Makes the events of items from the updates of sessions, one session after the other.

    Deltas contain final words only, so together they equal the transcript of the item, unless a formatter changes it.

    Args:
        vocabulary: vocabulary of the model.

    >>> items = ItemEvents(Vocabulary(["<blank>", "<unk>", "<sos/eos>"], "words"))
    >>> items.begin(detects_turns=False, offset_seconds=0.0)
    >>> len(items.commit(seconds=1.0))  # committed, added, done, completed
    4
    >>> items.has_ended
    True
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._item: _Item | None = None
        self._previous: str | None = None  # id of the last item
        self._detects_turns, self._offset = True, 0.0
        self.has_ended = False  # the last update or commit ended an item

    def begin(self, detects_turns: bool, offset_seconds: float) -> None:
        """Begin the updates of another session.

        Args:
            detects_turns: each segment of the session is an item; otherwise only `commit` ends an item.
            offset_seconds: start of the session, from the start of the connection.
        """
        self._item, self.has_ended = None, False
        self._detects_turns, self._offset = detects_turns, offset_seconds

    def update(self, update: Update) -> list[str]:
        """Return the events for an update of the session."""
        events: list[str] = []
        self.has_ended = False
        for result in update.finals:
            if result.words or (self._detects_turns and self._item is not None):
                item = self._open(result, events)
                item.text += spaced_text(result, self._vocabulary)
                events += self._delta(item, result.words)
                item.has_closed, item.sent = item.has_closed or bool(result.words), 0
                if self._detects_turns:
                    events += self._end(item, result.end_seconds)
        partial = update.partial
        if partial is not None and partial.words:
            item = self._open(partial, events)
            events += self._delta(item, partial.words[: partial.committed])
        return events

    def commit(self, seconds: float) -> list[str]:
        """After the last update, return the events that end the open item, or an item without text if none is open.

        Args:
            seconds: end of the audio, from the start of the session.
        """
        return self._end(self._item or _Item(), seconds)

    @property
    def is_open(self) -> bool:
        """True if the audio since the last item has text."""
        return self._item is not None

    def _open(self, result: Result, events: list[str]) -> _Item:
        if self._item is None:
            first = result.words[0].start_seconds if result.words else result.start_seconds
            self._item = _Item(start_seconds=first)
            if self._detects_turns:
                start = self._milliseconds(first)
                events.append(event("input_audio_buffer.speech_started", audio_start_ms=start, item_id=self._item.id))
        return self._item

    def _delta(self, item: _Item, words: tuple[Word, ...]) -> list[str]:
        """Return an event with the words of the open segment that were not sent yet, or an empty list."""
        text = joined_words(words)
        if item.has_closed and words and words[0].spaced:
            text = f" {text}"
        delta = text[item.sent :]
        if not delta:
            return []
        item.sent = len(text)
        return [event(f"{_TRANSCRIPTION}.delta", item_id=item.id, content_index=0, delta=delta)]

    def _end(self, item: _Item, seconds: float) -> list[str]:
        has_started = self._detects_turns and self._item is not None
        previous, self._previous, self._item, self.has_ended = self._previous, item.id, None, True
        events = []
        if has_started:
            end = self._milliseconds(seconds)
            events.append(event("input_audio_buffer.speech_stopped", audio_end_ms=end, item_id=item.id))
        transcript = item.text.strip()
        content = [{"type": "input_audio", "transcript": transcript}]
        shown = {"id": item.id, "object": "realtime.item", "type": "message", "status": "completed", "role": "user"}
        shown_item = shown | {"content": content}
        usage = {"type": "duration", "seconds": round(max(0.0, seconds - item.start_seconds), 3)}
        return [
            *events,
            event("input_audio_buffer.committed", item_id=item.id, previous_item_id=previous),
            event("conversation.item.added", item=shown_item, previous_item_id=previous),
            event("conversation.item.done", item=shown_item, previous_item_id=previous),
            event(f"{_TRANSCRIPTION}.completed", item_id=item.id, content_index=0, transcript=transcript, usage=usage),
        ]

    def _milliseconds(self, seconds: float) -> int:
        return max(0, round(1000 * (self._offset + seconds)))
