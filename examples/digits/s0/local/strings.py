"""Plan and render one digit string, or one recording of non-speech."""

from typing import NamedTuple

import numpy as np
from recordings import WORDS, Take
from sounds import music, noise, tones

# Kinds of recordings without words, used in turn. Kinds that vary more, or resemble words more, occur more often.
WORDLESS = (
    "silence", "voice", "voices", "music", "noise", "voice", "voices", "music",
    "tones", "voice", "voices", "music",
)  # fmt: skip


class PlannedTake(NamedTuple):
    """A take in a string. A take that is played backwards is non-speech of the same voice."""

    take: Take
    backwards: bool = False


class StringPlan(NamedTuple):
    """The takes of a string in their order, all of one speaker."""

    speaker: str
    takes: list[PlannedTake]


class SpokenWord(NamedTuple):
    """A word, with the start and length of its take in samples."""

    text: str
    start: int
    length: int


class DigitString(NamedTuple):
    """A finished recording: float32 samples in [-1, 1] and the words in it."""

    key: str
    speaker: str
    samples: np.ndarray
    words: list[SpokenWord]


def plan_strings(
    takes: list[Take], count: int, max_digits: int, rng: np.random.Generator, backwards_share: float = 0.0
) -> list[StringPlan]:
    """Plan `count` strings of 1 to `max_digits` digits, so that lengths, speakers and takes are equally frequent.

    Each speaker's takes are dealt like cards from a shuffled deck, which is refilled when it runs out: no take is used
    twice before all others are used once.

    Args:
        backwards_share: share of the gaps before, between and after the digits in which a random take of the speaker is
            played backwards. A model that is trained without such sounds recognises digits in any sound of a voice. The
            digits do not depend on the share.
    """
    speakers = sorted({take.speaker for take in takes})
    lengths = rng.permutation(np.arange(count) % max_digits + 1)
    own = {speaker: [take for take in takes if take.speaker == speaker] for speaker in speakers}
    decks: dict[str, list[Take]] = {speaker: [] for speaker in speakers}
    asides = rng.spawn(1)[0]
    plans = []
    for number, length in zip(rng.permutation(np.arange(count) % len(speakers)), lengths):
        speaker = speakers[number]
        deck = decks[speaker]
        while len(deck) < length:
            deck.extend(own[speaker][i] for i in rng.permutation(len(own[speaker])))
        planned = [PlannedTake(take) for take in deck[:length]]
        del deck[:length]
        for place in range(length, -1, -1):
            if asides.random() < backwards_share:
                planned.insert(place, PlannedTake(own[speaker][asides.integers(len(own[speaker]))], backwards=True))
        plans.append(StringPlan(speaker, planned))
    return plans


def speak(
    key: str, plan: StringPlan, samples: dict[Take, np.ndarray], sample_rate: int, rng: np.random.Generator
) -> DigitString:
    """Render a plan: silence, takes with pauses between them, silence; then set the level and add noise. `words` leaves
    out takes that are played backwards.

    One string in six has no noise, so its silence is digital zero.
    """
    pieces, words = [np.zeros(_edge(sample_rate, rng), np.float32)], []
    for number, (take, backwards) in enumerate(plan.takes):
        if number:
            low, high = (0.0, 0.05) if rng.random() < 0.25 else (0.05, 0.5)
            pieces.append(np.zeros(round(rng.uniform(low, high) * sample_rate), np.float32))
        if not backwards:
            words.append(SpokenWord(WORDS[take.digit], sum(len(piece) for piece in pieces), len(samples[take])))
        pieces.append(_without_clicks(samples[take][:: -1 if backwards else 1], sample_rate))
    pieces.append(np.zeros(_edge(sample_rate, rng), np.float32))
    speech = np.concatenate(pieces)
    spoken = sum(len(samples[take]) for take, _ in plan.takes)
    gain = _amplitude(rng.uniform(-38, -16)) / np.sqrt(np.square(speech).sum() / spoken + 1e-12)
    gain = min(gain, 0.99 / (np.abs(speech).max() + 1e-12))
    speech = speech * np.float32(gain)
    if rng.random() > 1 / 6:
        rms = np.sqrt(np.square(speech).sum() / spoken)
        speech = speech + noise(len(speech), rng) * np.float32(rms * _amplitude(-rng.uniform(20, 45)))
    return DigitString(key, plan.speaker, np.clip(speech, -1, 1), words)


def empty_string(
    key: str,
    index: int,
    takes: list[Take],
    samples: dict[Take, np.ndarray],
    sample_rate: int,
    rng: np.random.Generator,
    longest_seconds: float,
) -> DigitString:
    """Render non-speech of half a second to `longest_seconds`: silence, noise, tones, music, or voices played
    backwards, chosen by `index`.

    In the training set these recordings must not be longer than digit strings: a batch contains recordings of similar
    length, and a batch without speech would have unusual BatchNorm statistics.
    """
    length = round(rng.uniform(0.5, longest_seconds) * sample_rate)
    kind = WORDLESS[index % len(WORDLESS)]
    if kind == "silence":  # digital zero, or the noise floor of a converter
        zero = index // len(WORDLESS) % 2 == 0
        audio = np.zeros(length) if zero else noise(length, rng) * _amplitude(rng.uniform(-90, -60))
    elif kind == "noise":
        audio = noise(length, rng) * _amplitude(rng.uniform(-60, -12))
    elif kind == "tones":
        audio = tones(length, sample_rate, rng) * _amplitude(rng.uniform(-40, -6))
    elif kind == "music":
        audio = music(length, sample_rate, rng) * _amplitude(rng.uniform(-50, -10))
    else:
        voices = 1 if kind == "voice" else int(rng.integers(2, 9))
        audio = _backwards(length, voices, takes, samples, sample_rate, rng) * _amplitude(rng.uniform(-50, -13))
    if kind not in ("silence", "noise") and rng.random() > 1 / 6:
        audio = audio + noise(length, rng) * _amplitude(rng.uniform(-90, -50))
    return DigitString(key, "empty", np.clip(audio, -1, 1).astype(np.float32), [])


def _amplitude(decibels: float) -> float:
    return 10 ** (decibels / 20)


def _edge(sample_rate: int, rng: np.random.Generator) -> int:
    """Return a random length, in samples, of the silence before the first or after the last take: 0 in one case of
    five, else up to half a second.
    """
    return 0 if rng.random() < 0.2 else round(rng.uniform(0, 0.5) * sample_rate)


def _without_clicks(take: np.ndarray, sample_rate: int, fade_seconds: float = 0.003) -> np.ndarray:
    """Fade both ends: a take begins with the noise of its recording, and a step in level would mark every word."""
    ramp = np.linspace(0, 1, min(round(fade_seconds * sample_rate), len(take) // 2), dtype=np.float32)
    faded = take.copy()
    faded[: len(ramp)] *= ramp
    faded[len(faded) - len(ramp) :] *= ramp[::-1]
    return faded


def _backwards(
    length: int,
    voices: int,
    takes: list[Take],
    samples: dict[Take, np.ndarray],
    sample_rate: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """Return the unit-power sum of `voices` sequences of takes played backwards: the sound of speech without words.

    The voices pause, and some are louder than others, so that one voice stands out at times.
    """
    total = np.zeros(length, np.float32)
    for _ in range(voices):
        loudness = _amplitude(rng.uniform(-6, 6))
        position = -round(rng.uniform(0, 0.5) * sample_rate)
        while position < length:
            take = samples[takes[rng.integers(len(takes))]][::-1]
            take = take * np.float32(loudness / np.sqrt(np.mean(np.square(take)) + 1e-12))
            start, stop = max(position, 0), min(position + len(take), length)
            if start < stop:
                total[start:stop] += take[start - position : stop - position]
            position += len(take) + round(rng.uniform(0, 0.8) * (rng.random() < 0.75) * sample_rate)
    return total / np.sqrt(np.mean(np.square(total)) + 1e-12)
