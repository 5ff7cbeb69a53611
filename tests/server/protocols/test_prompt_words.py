"""Hot words and context from prompts."""

import string
import time

import pytest
from wenet_fusion_runtime.results.vocabulary import RESERVED, Vocabulary
from wenet_fusion_runtime.search.modes import PREFIX_BEAM
from wenet_fusion_runtime.search.spelling import MAX_PHRASE
from wenet_fusion_runtime.server.openai import prompt_words
from wenet_fusion_runtime.server.openai.prompt_words import PromptWords

WORDS = PromptWords(Vocabulary([*RESERVED, "▁", "'", *string.ascii_letters, *"你好"], "pieces"), PREFIX_BEAM)


@pytest.mark.parametrize(
    "prompt, phrases, context",
    [
        ("Anna, Karenina Oslo", ["Anna", "Karenina Oslo"], ""),
        ("'Anna',Oslo|Bern; Rome: Paris...", ["Anna", "Oslo", "Bern", "Rome", "Paris"], ""),
        ("Anna,Oslo,Émile,1,000 x", ["Anna", "Oslo"], ""),  # no token has an É or a digit
        ("Anna,\nOslo\r\nBern?!", ["Anna", "Oslo", "Bern"], ""),
        ("你、好。你好，Oslo", ["你", "好", "你好", "Oslo"], ""),
        ("Oslo. We meet Anna in the evening! Bern", ["Oslo", "Bern"], "We meet Anna in the evening"),
        ("x" * (MAX_PHRASE + 1) + ", Oslo", ["Oslo"], ""),
    ],
)
def test_parts_are_phrases_or_context(prompt: str, phrases: list[str], context: str) -> None:
    hints = WORDS.find(prompt)
    assert ([word.phrase for word in hints.hot_words], hints.context) == (phrases, context)


@pytest.mark.parametrize("run", [".", ",", ",.", "|", "\n", ", ", "："])
def test_hostile_prompts_take_linear_time(run: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With quadratic splitting, a run of marks of this length would take 15 s or more."""
    monkeypatch.setattr(prompt_words, "MOST_READ", 20_000)
    begin = time.process_time()
    WORDS.find(run * (20_000 // len(run)) + "x")
    assert time.process_time() - begin < 5
