"""Draw random numbers, digit strings, times, dates, durations and letters, written in words."""

from __future__ import annotations

import string
from collections.abc import Callable

import numpy as np
from num2words import num2words

_DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_MONTHS = (
    "january", "february", "march", "april", "may", "june", "july", "august", "september", "october", "november",
    "december",
)  # fmt: skip
_WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_UNITS = (("second", 59), ("minute", 59), ("hour", 24), ("day", 30), ("week", 12))
_LARGEST = 9999


def number_in_words(value: int, with_and: bool = False) -> str:
    """Return a whole number in words, without hyphens.

    >>> number_in_words(4321), number_in_words(120, with_and=True)
    ('four thousand three hundred twenty one', 'one hundred and twenty')
    """
    words = num2words(value).replace("-", " ").replace(",", "")
    return words if with_and else words.replace(" and ", " ")


def digits(rng: np.random.Generator) -> str:
    """Draw a string of 1 to 10 digits; "oh" replaces "zero" in some strings."""
    zero = "oh" if rng.random() < 0.15 else "zero"
    values = rng.integers(
        10, size=rng.choice([1, 2, 3, 4, 5, 6, 7, 8, 10], p=[0.14, 0.1, 0.2, 0.24, 0.1, 0.08, 0.07, 0.04, 0.03])
    )
    return " ".join(zero if value == 0 else _DIGITS[value] for value in values)


def number(rng: np.random.Generator) -> str:
    """Draw a number from 0 to 9,999, small ones more often."""
    limit = rng.choice([20, 100, 1000, _LARGEST + 1], p=[0.25, 0.4, 0.2, 0.15])
    return number_in_words(int(rng.integers(limit)), with_and=rng.random() < 0.3)


def percent(rng: np.random.Generator) -> str:
    """Draw a percentage."""
    value = int(rng.integers(101)) if rng.random() < 0.4 else int(rng.integers(21)) * 5
    return f"{number_in_words(value)} percent"


def time(rng: np.random.Generator) -> str:
    """Draw a time of day in one of the usual forms."""
    hour, minute = int(rng.integers(1, 13)), int(rng.integers(60)) if rng.random() < 0.5 else int(rng.integers(12)) * 5
    half = rng.choice(["", " am", " pm", " in the morning", " in the evening"], p=[0.4, 0.22, 0.28, 0.05, 0.05])
    hour_words = number_in_words(hour)
    form = rng.random()
    if form < 0.15:
        return f"{rng.choice(['half', 'quarter', 'ten', 'twenty', 'five'])} past {hour_words}"
    if form < 0.22:
        return f"{rng.choice(['quarter', 'a quarter', 'ten', 'twenty', 'five'])} to {hour_words}"
    if form < 0.26:
        return str(rng.choice(["noon", "midnight"]))
    if form < 0.5 or minute == 0:
        return hour_words + (" o'clock" if rng.random() < 0.3 else half)
    return f"{hour_words} {'oh ' if minute < 10 else ''}{number_in_words(minute)}{half}"


def date(rng: np.random.Generator) -> str:
    """Draw a date: month and day, some with weekday or year; month and year; or a weekday."""
    month = str(rng.choice(_MONTHS))
    day = num2words(int(rng.integers(1, 32)), to="ordinal").replace("-", " ")
    form = rng.random()
    if form < 0.15:
        return f"{rng.choice(_WEEKDAYS)} {month} {day}"
    if form < 0.45:
        return f"{month} {'the ' if rng.random() < 0.2 else ''}{day}"
    if form < 0.65:
        return f"the {day} of {month}"
    if form < 0.8:
        return f"{month} {day} {year(rng)}"
    return f"{month} {year(rng)}" if form < 0.9 else str(rng.choice(_WEEKDAYS))


def year(rng: np.random.Generator) -> str:
    """Draw a year from 1900 to 2039, in words as it is read aloud."""
    return num2words(int(rng.integers(1900, 2040)), to="year").replace("-", " ").replace(" and ", " ")


def duration(rng: np.random.Generator) -> str:
    """Draw a duration in one unit of time, or in hours and minutes."""
    unit, largest = _UNITS[rng.choice(len(_UNITS), p=[0.2, 0.45, 0.25, 0.06, 0.04])]
    value = int(rng.integers(1, largest + 1))
    text = f"{number_in_words(value)} {unit}{'s' if value > 1 else ''}"
    if unit == "hour" and rng.random() < 0.3:
        return f"{text} and {number_in_words(int(rng.integers(2, 60)))} minutes"
    return "half an hour" if rng.random() < 0.05 else text


def letters(rng: np.random.Generator) -> str:
    """Draw a string of 1 to 7 letters, mixed with digits in some strings."""
    symbols = list(string.ascii_lowercase) + (list(_DIGITS) if rng.random() < 0.25 else [])
    return " ".join(rng.choice(symbols, size=rng.integers(1, 8)))


def letter(rng: np.random.Generator) -> str:
    """Draw a letter."""
    return str(rng.choice(list(string.ascii_lowercase)))


QUANTITIES: dict[str, Callable[[np.random.Generator], str]] = {
    "digits": digits, "number": number, "percent": percent, "time": time, "date": date, "duration": duration,
    "letters": letters, "letter": letter,
}  # fmt: skip
