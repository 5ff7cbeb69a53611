"""The parser of JSGF and of phrase lists: sentences by a plain enumeration, and messages."""

import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wenet_fusion_runtime import Grammar, read_grammar
from wenet_fusion_runtime.search.grammar.expressions import Choice, Expression, Reference, Repeat, Rules, Series, Words

Sentences = dict[tuple[str, ...], float]  # words -> largest product of the weights of the alternatives


def joined(first: Sentences, second: Sentences, most: int) -> Sentences:
    found: Sentences = {}
    for before, weight in first.items():
        for after, other in second.items():
            if len(before) + len(after) <= most:
                found[before + after] = max(found.get(before + after, 0.0), weight * other)
    return found


def merged(first: Sentences, second: Sentences) -> Sentences:
    return {words: max(first.get(words, 0.0), second.get(words, 0.0)) for words in {**first, **second}}


def spoken(part: Expression, rules: Rules, most: int) -> Sentences:
    """Return the sentences of a part that have at most `most` words, by plain recursion over sets."""
    if isinstance(part, Words):
        return {part.words: 1.0} if len(part.words) <= most else {}
    if isinstance(part, Reference):
        return spoken(rules.rules[part.rule], rules, most)
    if isinstance(part, Series):
        found: Sentences = {(): 1.0}
        for each in part.parts:
            found = joined(found, spoken(each, rules, most), most)
        return found
    if isinstance(part, Choice):
        found = {}
        for weight, each in part.options:
            found = merged(found, {w: math.exp(weight) * p for w, p in spoken(each, rules, most).items()})
        return found
    assert isinstance(part, Repeat)
    once = spoken(part.part, rules, most)
    found, latest = dict(once), once
    for _ in range(most if part.may_repeat else 0):
        latest = joined(latest, once, most)
        found = merged(found, latest)
    return merged(found, {(): 1.0}) if part.may_skip else found


def sentences(grammar: Grammar, most: int = 4) -> Sentences:
    """Return the sentences of a grammar that have at most `most` words, with their weights."""
    found: Sentences = {}
    for name in grammar.rules.public:
        found = merged(found, spoken(grammar.rules.rules[name], grammar.rules, most))
    return found


@pytest.mark.parametrize(
    "body, expected",
    [
        ("public <s> = turn (on | off) the light;", "turn on the light|turn off the light"),
        ("public <s> = [please] stop;", "please stop|stop"),
        ("public <s> = a b*;", "a|a b|a b b|a b b b"),
        ("public <s> = (a | b)+ c;", "a c|b c|a a c|a b c|b a c|b b c|" + "|".join(
            f"{x} {y} {z} c" for x in "ab" for y in "ab" for z in "ab")),
        ("public <s> = a | b c | d;", "a|b c|d"),
        ("public <s> = <x> <y>; <x> = a; private <y> = b;", None),
        ("public <s> = <x> <y>; <x> = a; <y> = b | <x>;", "a b|a a"),
        ("public <s> = a; public <t> = b; <u> = c;", "a|b"),
        ('public <s> = "New York" "a;b";', "New York a;b"),
        ("public <s> = a {tag \\} with = signs;} [b {x}] {y};", "a|a b"),
        ("public <s> = a <NULL> b | c <VOID>;", "a b"),
        ("grammar com.acme.x; // comment ;\npublic <s> = a /* more\n ; */ b;", "a b"),
        ("public <s> = o'clock l\u00e0-bas 3 \u4f60\u597d;", "o'clock l\u00e0-bas 3 \u4f60\u597d"),
    ],
)  # fmt: skip
def test_sentences_of_jsgf(body: str, expected: str | None) -> None:
    if expected is None:
        with pytest.raises(ValueError, match="expected a rule, <name> = ... ;, found 'private'"):
            Grammar(f"#JSGF V1.0;\n{body}")
        return
    found = sentences(Grammar(f"#JSGF V1.0 UTF-8 en;\n{body}"))
    assert found == {tuple(sentence.split()): 1.0 for sentence in expected.split("|")}


def test_weights_are_relative_to_the_largest_alternative() -> None:
    found = sentences(
        Grammar("#JSGF V1.0; public <s> = /10/ small | /2.5/ medium | / 0 / never | /5/ (/1/ a | /4/ b);")
    )
    assert found == pytest.approx({("small",): 1.0, ("medium",): 0.25, ("a",): 0.125, ("b",): 0.5})


def test_a_list_of_phrases(tmp_path: Path) -> None:
    path = tmp_path / "commands.txt"
    path.write_bytes("\ufeff# a list\r\nturn on  the light\r\n\r\n[unk]\r\nstop\r\nstop\r\n".encode())
    assert sentences(read_grammar(path)) == {("turn", "on", "the", "light"): 1.0, ("stop",): 1.0}


RULE = "#JSGF V1.0;\n\n"


@pytest.mark.parametrize(
    "text, message",
    [
        ("\n# nothing\n", "x:1: the grammar is empty; write one phrase per line, or JSGF after the header"),
        ("#JSGF V2.0;\npublic <a> = b;", "x:1: the header is not '#JSGF V1.0;' but '#JSGF V2.0;'"),
        (RULE + "<a> = b;", "x:3: no rule is public; write 'public' before a rule to be spoken"),
        (RULE + "public <a> = b\n<c> = d;", "x:3: rule <a> is not terminated: expected ';', found '=' in line 4"),
        (RULE + "public <a> = b", "x:3: rule <a> is not terminated: expected ';', found the end of the file in line 3"),
        (RULE + "public <a> = (b;", "x:3: '(' is not closed: expected ')', found ';'"),
        (RULE + "public <a> = [b);", "x:3: '[' is not closed: expected ']', found ')'"),
        (RULE + "public <a> = b |\n;", "x:4: expected words, a rule or a group, found ';'; write <NULL> for nothing"),
        (RULE + "public <a> = ();", "expected words, a rule or a group, found ')'; write <NULL> for nothing"),
        (RULE + "public <a> b;", "x:3: expected '=' after rule <a>, found 'b'"),
        (RULE + "hello;", "x:3: expected a rule, <name> = ... ;, found 'hello'"),
        (RULE + "grammar ;", "x:3: expected a name after 'grammar', found ';'"),
        (RULE + "import <com.x.*>;", "x:3: imports are not supported; copy the rules into this file"),
        (RULE + "public <a> = <b>;", "x:3: rule <b> is not defined; define it, or correct its name: <a>"),
        (RULE + "public <a> = b\n| <a>;", "x:4: rule <a> contains <a>, and recursive rules are not supported; repeat"),
        (
            RULE + "public <a> = <b>;\n<b> = x <c>;\n<c> = <b>;",
            ", and recursive rules are not supported; repeat a part",
        ),
        (RULE + "public <a> = b;\n<a> = c;", "x:4: rule <a> is defined twice, first in line 3"),
        (RULE + "public <NULL> = b;", "x:3: <NULL> has a fixed meaning; choose another name"),
        (RULE + "public <a> = /1/ b | c;", "x:3: some alternatives have a weight and others have none; give one to"),
        (RULE + "public <a> = /-1/ b;", "x:3: weight /-1/ is not a number of 0 or more"),
        (RULE + "public <a> = /inf/ b;", "x:3: weight /inf/ is not a number of 0 or more"),
        (RULE + "public <a> = b /2/;", "x:3: rule <a> is not terminated: expected ';', found /2/ in line 3"),
        (RULE + "public <a> = b/c;", "x:3: weight is not closed; write it as /3/, before an alternative"),
        (RULE + "public <a> = b /* c;", "x:3: comment /* has no */"),
        (RULE + 'public <a> = "b;', 'x:3: quoted word has no closing "'),
        (RULE + "public <a> = {b;", "x:3: tag { has no }"),
        (RULE + "public <a = b;", "x:3: rule name has no closing >; write <name>, without spaces"),
        (RULE + "public <a> = b };", "x:3: unexpected '}'"),
        (RULE + f"public <a> = {'(' * 60}b{')' * 60};", "x:3: more than 50 brackets within brackets; name a part"),
        (RULE + f"public <a> = <{'b' * 999}>;", f"rule <{'b' * 100}...> is not defined"),
    ],
)
def test_errors_name_line_value_and_remedy(text: str, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        Grammar(text, "x")
    assert message in str(caught.value) and str(caught.value).startswith("x:") and "\n" not in str(caught.value)


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bad.txt").write_bytes(b"caf\xe9")
    with pytest.raises(ValueError, match="bad.txt: is not UTF-8 at byte 3; save the grammar as UTF-8"):
        read_grammar(tmp_path / "bad.txt")


@settings(max_examples=200, deadline=None)
@given(text=st.text('ab<>()[]{}|*+/;=" \n\\', max_size=30))
def test_any_text_is_a_grammar_or_a_message(text: str) -> None:
    try:
        Grammar(f"#JSGF V1.0; {text}", "x")
    except ValueError as error:
        assert str(error).startswith("x:") and int(str(error).split(":")[1]) >= 1
