"""The texts of the commands recipe: every template can be drawn, and all words can be spoken and written."""

import gzip
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import quantities
from hassil.intents import TextSlotList
from hassil.parse_expression import parse_sentence
from hassil.sample import sample_sentence
from language import InstalledSentences, Language, read_grammar, transcript
from make_texts import draw_texts, main, open_texts
from spoken_forms import spoken_form, with_accent
from templates import Templates, UnknownListError

RECIPE = Path(__file__).parents[2] / "examples" / "commands" / "s0"
LISTS = {"room": ["hall", "(big|small) kitchen"], "colour": ["red", "blue", "green"]}
RULES = {"please": "[(please|could you)]", "the": "(the|my)"}


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(5)


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package home_assistant_intents with an English and a Spanish sentence."""
    folder = tmp_path / "packages" / "home_assistant_intents" / "data"
    folder.mkdir(parents=True)
    (folder.parent / "__init__.py").touch()
    sentences = {
        "en": ["open <the> {room}", "set {area} to {level}[°]", "{wild} things"],
        "es": ["abre la puerta", "{level} grados"],
    }
    for language, found in sentences.items():
        content = {
            "intents": {"One": {"data": [{"sentences": found}]}},
            "lists": {
                "wild": {"wildcard": True},
                "level": {"range": {"from": 0, "to": 9}},
                "room": {"values": [{"in": "hall"}]},
            },
            "expansion_rules": {"the": "(the|my)"},
        }
        (folder / f"{language}.json").write_text(json.dumps(content))
    monkeypatch.syspath_prepend(str(folder.parents[1]))
    for name in [name for name in sys.modules if name.startswith("home_assistant_intents")]:
        monkeypatch.delitem(sys.modules, name)


@pytest.mark.parametrize(
    "template",
    [
        "<please> (open|close) [<the>] {room} door[s]",
        "(turn;on) {colour}",
        "[a](b|c [d])",
        "{colour:name} in the {room}",
    ],
)
def test_drawn_sentences_are_all_sentences_of_the_template(template: str, rng: np.random.Generator) -> None:
    lists = {name: TextSlotList.from_strings(entries) for name, entries in LISTS.items()}
    rules = {name: parse_sentence(rule) for name, rule in RULES.items()}
    wanted = {" ".join(each.split()) for each in sample_sentence(parse_sentence(template), lists, rules)}
    templates = Templates(LISTS, {}, RULES)
    assert {templates.draw(template, rng) for _ in range(60 * len(wanted))} == wanted


def test_unknown_names_in_templates_are_refused(rng: np.random.Generator) -> None:
    templates = Templates(LISTS, {}, RULES)
    with pytest.raises(UnknownListError, match="there is no list {floor}; add it to 'lists'"):
        templates.draw("on the {floor}", rng)
    with pytest.raises(UnknownListError, match="there is no rule <now>; add it to 'rules'"):
        templates.draw("<now>", rng)


def test_every_quantity_is_in_words(rng: np.random.Generator) -> None:
    for name, draw in quantities.QUANTITIES.items():
        for _ in range(300):
            text = draw(rng)
            assert transcript(text) == text.upper(), name
    assert quantities.number_in_words(9999) == "nine thousand nine hundred ninety nine"
    assert {quantities.number(rng) for _ in range(4000)} >= {quantities.number_in_words(value) for value in range(100)}


@pytest.mark.usefixtures("installed")
def test_every_template_and_word_of_the_recipe_can_be_drawn(rng: np.random.Generator) -> None:
    grammar = read_grammar(RECIPE / "conf" / "grammar.yaml")
    templates = Templates(grammar.lists, quantities.QUANTITIES, grammar.rules)
    for template in grammar.commands:
        for _ in range(20):
            assert re.fullmatch(r"[a-z' ]+", templates.draw(template, rng)), template
    assert all(transcript(word) == word.upper() for word in grammar.words)
    language = Language(grammar)
    drawn = [language.draw(rng) for _ in range(4000)]
    for kind, share in grammar.shares.items():
        assert abs(sum(each == kind for each, _ in drawn) / 4000 - share / sum(grammar.shares.values())) < 0.04


@pytest.mark.usefixtures("installed")
def test_sentences_of_a_package_need_known_lists(rng: np.random.Generator) -> None:
    with_numbers = InstalledSentences("en", {"area": ["attic"]}, quantities.QUANTITIES)
    found = {with_numbers.draw(rng) for _ in range(300)}
    assert {"open the hall", "open my hall"} < found and any(each.startswith("set attic to") for each in found)
    assert not any("°" in each or "things" in each for each in found)
    spanish = InstalledSentences("es", {}, {})
    assert {spanish.draw(rng) for _ in range(30)} == {"abre la puerta"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("shares: {digits: 1}", "must hold the parts shares, words, lists, rules, commands, and no others"),
        ("{shares: {songs: 1}, words: [], lists: {}, rules: {}, commands: []}", "songs is unknown; there are digits"),
    ],
)
def test_wrong_grammars_are_refused(content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "grammar.yaml"
    path.write_text(content)
    with pytest.raises(ValueError, match=message):
        read_grammar(path)


@pytest.mark.usefixtures("installed")
def test_open_texts_are_used_once_before_they_repeat(tmp_path: Path) -> None:
    path = tmp_path / "open.txt.gz"
    path.write_bytes(gzip.compress("\n".join(["IT'S A TEST", "two words", "A 3", *["WORD " * 15]]).encode()))
    texts = open_texts([path])
    assert sorted(texts[0]) == ["A", "IT'S A TEST", "TWO WORDS"]
    language = Language(read_grammar(RECIPE / "conf" / "grammar.yaml"))
    lines = list(draw_texts(language, texts, 6, 1.0, seed=3))
    assert sorted(lines[:3]) == sorted(lines[3:]) == sorted(f"open\t{text}" for text in texts[0])
    lines = list(draw_texts(language, texts, 1000, 0.4, seed=3))
    assert abs(sum(line.startswith("open\t") for line in lines) - 400) < 60
    (tmp_path / "empty").write_text("123\n")
    with pytest.raises(ValueError, match="holds no sentence of at most 14 words"):
        open_texts([tmp_path / "empty"])


@pytest.mark.usefixtures("installed")
def test_the_command_writes_the_same_texts_for_the_same_seed(tmp_path: Path) -> None:
    grammar = ["--grammar", str(RECIPE / "conf" / "grammar.yaml"), "--count", "50"]
    found = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert main([*grammar, "--seed", str(seed), "--output", str(tmp_path / name)]) == 0
        found.append((tmp_path / name).read_text())
    assert found[0] == found[1] != found[2] and len(found[0].splitlines()) == 50
    (tmp_path / "queries").write_text("Wake me at nine.\n123\nplay jazz\n")
    options = ["--open_text", str(tmp_path / "queries"), "--all_open_text", "--open_share", "0", "--seed", "1"]
    assert main([*grammar, *options, "--output", str(tmp_path / "d")]) == 0
    first, second, *drawn = (tmp_path / "d").read_text().splitlines()
    assert (first, second) == ("open\tWAKE ME AT NINE", "open\tPLAY JAZZ")
    assert len(drawn) == 50 and not [line for line in drawn if line.startswith("open")]
    assert main(["--foreign", "es", "--count", "3", "--output", str(tmp_path / "es")]) == 0
    assert (tmp_path / "es").read_text() == "foreign-es\tabre la puerta\n" * 3


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "home_assistant_intents", None)
    with pytest.raises(OSError, match=r"home_assistant_intents is missing; run: pip install -r requirements.txt"):
        InstalledSentences("en", {}, {})


@pytest.mark.parametrize(
    ("kind", "text", "spoken"),
    [
        ("commands", "WAKE ME AT SEVEN AM", "wake me at seven A M."),
        ("open", "I AM LATE", "I am late."),
        ("open", "TURN IT OFF AT FOUR PM", "turn it off at four P M."),
        ("letters", "A X TWO", "A X two."),
        ("commands", "SELECT A FILE B", "select a file B."),
        ("commands", "WHAT TIME IS IT", "what time is it?"),
        ("foreign-es", "abre la puerta", "abre la puerta"),
    ],
)
def test_spoken_forms(kind: str, text: str, spoken: str) -> None:
    assert spoken_form(kind, text, np.random.default_rng(0)) == spoken


def test_strings_of_digits_get_pauses_and_keep_their_words(rng: np.random.Generator) -> None:
    found = [spoken_form("digits", "ONE TWO THREE", rng) for _ in range(200)]
    assert {each.replace(",", "") for each in found} == {"one two three."}
    assert 20 < sum("," in each for each in found) < 80


def test_accents_change_phonemes_of_whole_words_only(rng: np.random.Generator) -> None:
    found = {with_accent("stˈɔp ðə dˈɔɡ", rng) for _ in range(600)}
    assert "stˈɔp zə dˈɔɡ" in found and "ɛstˈɔp ðə dˈɔɡ" in found and "stˈɔp ðə dˈɔk" in found
    assert not any(each.startswith("stˈɔb") or " tˈɔ" in each for each in found)
